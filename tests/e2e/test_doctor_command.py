"""`sfumato data doctor` through the command line: fifteen broken folders and more, exit codes, the corrected copy."""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as package
from broken_folders import BROKEN, SIDE, Broken, good_folder, masks, photo
from sfumato.data.listing import list_entries
from sfumato.errors import DataError
from sfumato.events import Progress, Table
from sfumato.formats.bundle import Bundle, load_bundle
from sfumato.operations import corrected_copy
from sfumato.requests import DoctorRequest
from sfumato.training.cache import TensorCache
from sfumato.training.encoded import PictureEncoder
from sfumato.training.picture_config import PictureConfig
from sfumato.training.sample_set import Samples
from sfumato.training.subject import read_subject
from tiny import tiny_bundle

Run = Callable[..., Any]
CHECK = ("data", "doctor")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def records(answer: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.out.splitlines()]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.kind}-{broken.where}")
def test_broken_folders(broken: Broken, sfumato: Run) -> None:
    broken.build(good_folder(Path("data")))
    answer = sfumato(*CHECK, "data", "--size", SIDE, "--json")
    lines = records(answer)
    (found,) = [line for line in lines if line["event"] == "finding" and line["kind"] == broken.kind]
    assert broken.found in found["found"] and found["severity"] == broken.severity
    assert Path(found["path"]) == Path("data") / broken.where
    is_error = broken.severity == "error"
    assert answer.code == (2 if is_error else 0), answer.out
    assert (lines[-1]["event"] == "error") is is_error
    assert not answer.err


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.kind}-{broken.where}")
def test_learning_stops_at_errors_and_at_nothing_else(broken: Broken, bundle: Bundle, tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "data")
    broken.build(folder)
    if broken.severity != "error":
        assert len(read_subject(folder, "<fox>", "fox", bundle)) >= 4
        return
    with pytest.raises(DataError) as caught:
        samples = read_subject(folder, "<fox>", "fox", bundle)
        bundle.tokenizer.encode(samples.captions)  # as a lesson does before its first step
    expected = "this would be cut: " if broken.kind == "caption-long" else str(folder / broken.where)
    assert expected in caught.value.message


def test_at_least_fifteen_kinds_are_tested() -> None:
    assert len({broken.kind for broken in BROKEN}) >= 15


def test_a_good_folder(sfumato: Run) -> None:
    good_folder(Path("data"), 6)
    answer = sfumato(*CHECK, "data", "--size", SIDE, "--batch-size", 4)
    assert answer.code == 0 and not answer.err
    assert answer.out.splitlines()[:-1] == [
        "Nothing was found that could spoil the result.",
        "6 pictures can be read; at batch size 4 a round is 1.5 batches; the next round fills the last one.",
        "Middle squares are learned; with --buckets all would have this size:",
        "bucket   pictures  with repeats  batches a round",
        "64 × 64         6             6              1.5",
    ]


def test_repeats_count_in_the_arithmetic(sfumato: Run, base: Path) -> None:
    good_folder(Path("data/10_sks fox"), 2)
    photo(9, 160, 96).save(good_folder(Path("data/3_fox"), 0) / "x.png")
    answer = sfumato(*CHECK, "data", "--base", base, "--size", SIDE, "--batch-size", 5)
    assert "3 pictures can be read; at batch size 5 a round of 23 with repeats is 4.6 batches;" in answer.out
    assert "with --buckets a round is 23 full batches, each of one size:\n" in answer.out
    assert "80 × 48         1             3                3\n" in answer.out
    assert "data  a batch has 5 pictures, 64 × 64 has 2, 80 × 48 has 1\n" in answer.out
    assert answer.code == 0


def test_the_buckets_are_those_that_learning_makes(sfumato: Run) -> None:
    good_folder(Path("data"), 1)
    for number, (width, height) in enumerate(((160, 120), (120, 160), (150, 128), (300, 100)), 1):
        photo(number, width, height).save(f"data/{number}.png")
    (table,) = [event for event in package.run(DoctorRequest(folder=Path("data"))) if isinstance(event, Table)]
    learned = PictureEncoder(load_bundle("primer"), PictureConfig(buckets=True), 0, TensorCache(None))
    sizes = Counter(learned.read(path).size for path in Path("data").iterdir())
    assert {row[0]: row[1] for row in table.rows} == {f"{w} × {h}": count for (w, h), count in sizes.items()}
    assert sizes == {(128, 128): 2, (160, 96): 1, (96, 160): 1, (256, 64): 1}


def test_captions_are_measured_by_the_base(sfumato: Run, base: Path) -> None:
    good_folder(Path("data"), 2)
    Path("data/0.txt").write_text("the fox " * 20)
    Path("data/1.txt").write_text("a fox")
    answer = sfumato(*CHECK, "data")  # the embedded base, where both words are one token
    assert answer.code == 2 and "caption longer than the base reads\n" in answer.out
    cut = "this would be cut: 'the fox the fox the fox the fox the fox'"
    assert f"data/0.png  42 tokens with start and end, the limit is 32; {cut}\n" in answer.out
    shutil.copytree(base, "wide")
    file = Path("wide/tokenizer/tokenizer_config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 200}))
    answer = sfumato(*CHECK, "data", "--base", "wide")
    assert answer.code == 0 and "32 × 32" in answer.out, "squares of its own size"


def test_captions_are_measured_as_the_lesson_says_them(sfumato: Run, base: Path) -> None:
    good_folder(Path("data"), 2)
    Path("data/0.txt").write_text("<fox>" + " 1" * 29)
    answer = sfumato(*CHECK, "data", "--size", SIDE)
    room = "32 tokens with start and end, the limit is 32: 0 left, up to 2 needed for a class noun behind '<fox>'"
    assert answer.code == 0 and f"data/0.png  {room}\n" in answer.out
    lesson = ("--as", "<fox>", "--class", "fox", "--base", base)
    answer = sfumato(*CHECK, "data", "--size", SIDE, *lesson)
    assert answer.code == 2 and "it is said as '<fox> fox 1 1 " in answer.out
    assert sfumato("learn", "data", *lesson, "--steps", 1, "--rank", 2).code == 2
    Path("data/0.txt").write_text("<fox>" + " 1" * 20)
    assert sfumato(*CHECK, "data", "--size", SIDE, *lesson, "--num-vectors", 3).code == 0


def test_masks_of_a_folder_of_their_own(sfumato: Run) -> None:
    masks(good_folder(Path("data"), 2), 0, 1)
    Path("apart").mkdir()
    Path("data/0.mask.png").rename("apart/0.png")
    Path("data/1.mask.png").rename("apart/2.png")
    answer = sfumato(*CHECK, "data", "--size", SIDE, "--mask-folder", "apart", "--json")
    kinds = [(line["kind"], line["path"]) for line in records(answer) if line["event"] == "finding"]
    assert answer.code == 0 and kinds == [("mask-orphan", "apart/2.png"), ("mask-missing", "data/1.png")]


def test_a_base_that_is_not_there(sfumato: Run) -> None:
    good_folder(Path("data"), 2)
    answer = sfumato(*CHECK, "data", "--base", "premier")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("sfumato: There is no base 'premier': it is neither built in (primer) nor a folder.")


def test_one_summary_message(sfumato: Run) -> None:
    good_folder(Path("data"))
    Path("data/x.png").write_bytes(b"")
    Path("data/y.txt").write_text("a fox")
    photo(9, 10, 10).save("data/z.png")
    answer = sfumato(*CHECK, "data", "--size", SIDE)
    assert answer.code == 2
    assert answer.err == (
        "sfumato: data: 1 error, 2 warnings; nothing can be learned from it before the errors are mended. "
        "--fix OUT writes a copy with what can be corrected.\n"
    )
    assert answer.out.startswith("error    cannot be decoded\n         data/x.png  0 bytes\n")


def test_a_missing_folder(sfumato: Run) -> None:
    answer = sfumato(*CHECK, "data")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "sfumato: data does not exist; a folder of pictures is needed. Check the path.\n"


def broken_in_many_ways(folder: Path) -> Path:
    """Write a folder in which everything that can be corrected is wrong."""
    good_folder(folder, 2)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(9, 96, 64).save(folder / "turned.jpg", exif=exif, quality=95)
    picture = photo(10)
    picture.putalpha(Image.fromarray(np.tile(np.arange(SIDE, dtype=np.uint8) * 4, (SIDE, 1))))
    picture.save(folder / "clear.png")
    photo(0).save(folder / "double.bmp")
    photo(11).save(folder / "0.jpg", quality=95)
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:300])
    (folder / "1.txt").write_bytes("ein Füchslein\r\nim Schnee".encode("cp1252"))
    photo(12).convert("CMYK").save(good_folder(folder / "3_fox", 0) / "print.jpg", quality=95)
    return folder


def test_the_copy_is_corrected_and_the_originals_stay(sfumato: Run, base: Path) -> None:
    folder = broken_in_many_ways(Path("data"))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    answer = sfumato(*CHECK, folder, "--size", SIDE, "--fix", "fixed")
    assert answer.code == 2
    assert "2 errors, " in answer.err and answer.err.endswith("mended. fixed holds what could be corrected.\n")
    assert "Pictures copied: 6; duplicates left out: 1. Unreadable files are not copied." in answer.out
    assert (
        "Masks made from alpha channels: 1. Learn from the copy with --masks file. "
        "Each picture needs a mask then; 5 of 6 have none.\n"
    ) in answer.out
    assert "dataset: fixed" in answer.out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    files = sorted(path.relative_to("fixed").as_posix() for path in Path("fixed").rglob("*") if path.is_file())
    # of the double the one whose name comes first stays
    pictures = ["0-png.png", "0.png", "1.png", "3_fox/print.png", "clear.png", "turned.png"]
    assert files == sorted([*pictures, "1.txt", "clear.mask.png"])
    for name in pictures:
        with Image.open(Path("fixed") / name) as picture:
            assert (picture.mode, picture.format, dict(picture.getexif())) == ("RGB", "PNG", {})
    with Image.open("fixed/turned.png") as upright, Image.open("fixed/clear.png") as clear:
        assert upright.size == (64, 96)
        assert clear.getpixel((0, 0)) == (255, 255, 255)
    assert Path("fixed/1.txt").read_text(encoding="utf-8") == "ein Füchslein\nim Schnee\n"
    again = sfumato(*CHECK, "fixed", "--size", SIDE, "--json")
    kinds = {line["kind"] for line in records(again) if line["event"] == "finding"}
    assert again.code == 0 and kinds == {"mixed-folders", "caption-missing", "caption-lines", "mask-missing"}
    words = ("learn", "fixed", "--as", "<fox>", "--class", "fox", "--steps", 1, "--rank", 2, "--base", base)
    assert sfumato(*words).code == 0
    assert sfumato("learn", "data", *words[2:]).code == 2


def test_captions_of_metadata_are_copied_as_text_files(sfumato: Run) -> None:
    good_folder(Path("data"), 2)
    Path("data/metadata.jsonl").write_text('{"file_name": "1.png", "text": "a fox"}\n')
    assert sfumato(*CHECK, "data", "--size", SIDE, "--fix", "fixed").code == 0
    assert sorted(path.name for path in Path("fixed").iterdir()) == ["0.png", "1.png", "1.txt"]
    assert Path("fixed/1.txt").read_text(encoding="utf-8") == "a fox\n"


def test_captions_of_any_ending_are_copied(sfumato: Run) -> None:
    good_folder(Path("data"), 4)
    texts = {"0.TXT": "a fox", "1.caption": "my fox", "2.txt": "one fox", "2.CAPTION": "one  fox"}
    for name, text in {**texts, "3.caption": "a fox asleep", "3.Txt": "a dog"}.items():
        Path("data", name).write_text(text)
    assert sfumato(*CHECK, "data", "--size", SIDE, "--fix", "fixed").code == 2
    assert {path.name: path.read_text() for path in Path("fixed").iterdir() if path.suffix != ".png"} == {
        "0.txt": "a fox\n",
        "1.txt": "my fox\n",
        "2.txt": "one fox\n",
        "3.txt": "a dog\n",
        "3.caption": "a fox asleep\n",
    }
    again = sfumato(*CHECK, "fixed", "--size", SIDE, "--json")
    kinds = [(line["kind"], line["path"]) for line in records(again) if line["event"] == "finding"]
    assert again.code == 2 and kinds == [("caption-differs", "fixed/3.png")], (
        "which one is meant is for the user to say"
    )


def test_pictures_of_metadata_in_folders_below_are_copied_to_where_they_are_read(sfumato: Run) -> None:
    places = ("a.png", "images/a.png", "images/.b.png", "images/deep/c.png", "3_fox/d.png", "3_fox/old/e.png")
    for number, place in enumerate((*places, "f.mask.jpg")):
        photo(number).save(good_folder(Path("data", place).parent, 0) / Path(place).name)
    Path("data/images/a.txt").write_text("by hand")
    lines = [json.dumps({"file_name": place, "text": f"at {place}"}) for place in places[1:4]]
    Path("data/metadata.jsonl").write_text("\n".join(lines))
    Path("data/3_fox/metadata.jsonl").write_text('{"file_name": "old/e.png", "text": "an old fox"}')
    assert sfumato(*CHECK, "data", "--size", SIDE, "--fix", "fixed").code == 0
    assert {entry.name: (entry.repeats, entry.caption("none")) for entry in list_entries("fixed")} == {
        "a.png": (1, "none"),
        "a-png.png": (1, "by hand"),
        "b.png": (1, "at images/.b.png"),
        "c.png": (1, "at images/deep/c.png"),
        "f.mask-jpg.png": (1, "none"),
        "3_fox/d.png": (3, "fox"),
        "3_fox/e.png": (3, "an old fox"),
    }


def test_masks_are_copied_under_the_name_that_learning_reads(sfumato: Run, bundle: Bundle) -> None:
    masks(good_folder(Path("data"), 3), 0, 1)
    masks(Path("data"), 2)
    Path("data/2.mask.png").rename("data/2-masklabel.png")
    before = read_subject(Path("data"), "<fox>", "fox", bundle, pictures=PictureConfig(masks="file"))
    assert sfumato(*CHECK, "data", "--size", SIDE, "--fix", "fixed").code == 0
    assert sorted(path.name for path in Path("fixed").glob("*mask*")) == ["0.mask.png", "1.mask.png", "2.mask.png"]
    after = read_subject(Path("fixed"), "<fox>", "fox", bundle, pictures=PictureConfig(masks="file"))
    assert isinstance(before, Samples) and isinstance(after, Samples)
    assert before.weights is not None and after.weights is not None
    assert torch.equal(after.weights, before.weights) and torch.equal(after.mean, before.mean)


def cut_out(folder: Path, name: str, seed: int, *, share: int) -> None:
    """Write a picture whose upper part is see-through; a share of 0 leaves its alpha solid."""
    pixels = np.asarray(photo(seed).convert("RGBA")).copy()
    pixels[: SIDE * share // 4, :, 3] = 0
    pixels[SIDE // 2, :, 3] = 255 if share == 0 else 90
    Image.fromarray(pixels).save(folder / name)


def test_alpha_is_copied_as_a_mask_from_which_the_same_is_learned(sfumato: Run, bundle: Bundle) -> None:
    folder = good_folder(Path("data"), 0)
    for number, share in enumerate((1, 0, 2)):
        cut_out(folder, f"{number}.png", number, share=share)
    alpha, file = PictureConfig(masks="alpha"), PictureConfig(masks="file")
    before = read_subject(folder, "<fox>", "fox", bundle, pictures=alpha)
    answer = sfumato(*CHECK, folder, "--size", SIDE, "--fix", "fixed")
    assert "Masks made from alpha channels: 3. Learn from the copy with --masks file.\n" in answer.out
    after = read_subject(Path("fixed"), "<fox>", "fox", bundle, pictures=file)
    assert isinstance(before, Samples) and isinstance(after, Samples)
    assert before.weights is not None and after.weights is not None
    assert torch.equal(after.weights, before.weights) and torch.equal(after.mean, before.mean)
    assert float(after.weights[1].min()) == pytest.approx(1) and len(after.weights[0].unique()) > 1


def test_alpha_takes_the_place_of_no_mask_and_solid_alpha_alone_makes_none(sfumato: Run) -> None:
    folder = good_folder(Path("data"), 0)
    cut_out(folder, "0.png", 0, share=1)
    cut_out(folder, "1.png", 1, share=0)
    masks(folder, 0)
    answer = sfumato(*CHECK, folder, "--size", SIDE, "--fix", "fixed")
    assert sorted(path.name for path in Path("fixed").iterdir()) == ["0.mask.png", "0.png", "1.png"]
    assert "Masks made" not in answer.out
    with Image.open("fixed/0.mask.png") as copied, Image.open(folder / "0.mask.png") as mask:
        assert np.array_equal(np.asarray(copied), np.asarray(mask))


def test_names_that_are_not_utf_8(sfumato: Run) -> None:
    folder = good_folder(Path("data"), 2)
    (folder / "f\udce9.png").write_bytes(b"")
    for words in ((), ("--json",)):
        answer = sfumato(*CHECK, "data", "--size", SIDE, *words)
        assert answer.code == 2 and "f\\udce9.png" in answer.out


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("there", "--fix: given 'there', which exists; needed the name of a new folder. Nothing was written."),
        ("data/out", "--fix: given 'data/out', which lies in 'data'; needed a new folder outside of it."),
        ("data", "--fix: given 'data', which lies in 'data'; needed a new folder outside of it."),
        ("link/out", "--fix: given 'link/out', which lies in 'data'; needed a new folder outside of it."),
    ],
)
def test_places_that_are_refused(place: str, message: str, sfumato: Run) -> None:
    good_folder(Path("data"))
    Path("there").mkdir()
    Path("link").symlink_to(Path("data").absolute())
    answer = sfumato(*CHECK, "data", "--fix", place)
    assert (answer.code, answer.out, answer.err) == (2, "", f"sfumato: {message}\n")
    assert sorted(path.name for path in Path().iterdir()) == ["data", "link", "there"]


def test_nothing_to_copy(sfumato: Run) -> None:
    Path("data").mkdir()
    answer = sfumato(*CHECK, "data", "--fix", "fixed")
    assert answer.code == 2 and not Path("fixed").exists()
    assert "1 error; nothing can be learned" in answer.err and "fixed" not in answer.err


def test_a_copy_appears_whole_or_not_at_all(sfumato: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    good_folder(Path("data"))
    events = package.run(DoctorRequest(folder=Path("data"), size=SIDE, fix=Path("fixed")))
    for event in events:
        if isinstance(event, Progress) and event.phase == "writing":
            break
    events.close()
    assert [path.name for path in Path().iterdir()] == ["data"]

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(corrected_copy, "load_image", full)
    answer = sfumato(*CHECK, "data", "--size", SIDE, "--fix", "fixed")
    assert answer.code == 2 and "Could not write 'fixed': the disk is full." in answer.err
    assert [path.name for path in Path().iterdir()] == ["data"]
