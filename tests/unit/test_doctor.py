"""The doctor: every kind of finding, with its values; nothing found in a good folder; what is kept of doubles."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato.data.images as images
from broken_folders import BROKEN, SIDE, Broken, good_folder, photo
from sfumato.data.caption_checks import Measure, decode_caption
from sfumato.data.doctor import Examined, examine
from sfumato.data.findings import KINDS, finding, refusal
from sfumato.data.inspection import has_16_bits, inspect_picture, name_content
from sfumato.errors import DataError
from sfumato.events import Finding, Progress
from sfumato.operations.doctor import caption_measure
from sfumato.requests import DoctorRequest
from tiny import tiny_tokenizer

MEASURE = caption_measure(DoctorRequest(folder=Path()), tiny_tokenizer())


def examined(folder: Path, size: int = SIDE, measure: Measure = MEASURE) -> tuple[list[Finding], list[Examined]]:
    """Run the examination to its end; return findings and pictures."""
    found: list[Finding] = []
    work = examine(folder, size, measure)
    while True:
        try:
            event = next(work)
        except StopIteration as stop:
            return found, stop.value
        if isinstance(event, Finding):
            found.append(event)


def test_nothing_is_found_in_a_good_folder(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "good", 6)
    found, pictures = examined(folder)
    assert found == []
    assert [picture.entry.name for picture in pictures] == [f"{number}.png" for number in range(6)]
    assert {(picture.facts.width, picture.facts.height) for picture in pictures} == {(SIDE, SIDE)}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.kind}-{broken.where}")
def test_every_kind_is_found_with_its_values(broken: Broken, tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "data")
    broken.build(folder)
    found, _ = examined(folder)
    (match,) = [item for item in found if item.kind == broken.kind]
    assert match.severity == broken.severity
    assert match.path == (folder / broken.where if broken.where else folder)
    assert broken.found and broken.found in match.found, match.found
    assert match.meaning.endswith(".") and match.advice.endswith(".") and not match.found.endswith(".")


def test_every_kind_of_the_catalogue_has_a_broken_folder() -> None:
    assert set(KINDS) - {broken.kind for broken in BROKEN} == {
        "too-many-pixels",
        "unopened",
        "unopened-folder",
        "bucket-small",
        "caption-other-word",
        "metadata-table",
    }  # below, in test_listing.py and in test_buckets.py


@pytest.mark.parametrize(
    ("name", "method"), [("0.png", "open"), ("0.txt", "read_bytes"), ("metadata.jsonl", "read_bytes")]
)
def test_files_that_cannot_be_opened(name: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good_folder(tmp_path, 2)
    if not (tmp_path / name).exists():
        (tmp_path / name).write_text("{}")
    original = getattr(Path, method)

    def refuse(self: Path, *options: Any, **named: Any) -> Any:
        if self.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return original(self, *options, **named)

    monkeypatch.setattr(Path, method, refuse)
    open_image = Image.open
    monkeypatch.setattr(
        Image, "open", lambda path, **named: refuse(path) if path.name == name else open_image(path, **named)
    )
    found = [item for item in examined(tmp_path)[0] if item.path.name == name]
    assert [(item.kind, item.found) for item in found] == [("unopened", "Permission denied")]


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(0, 80, 60).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 4000)
    facts, (found,) = inspect_picture(tmp_path / "x.png", 32)
    assert facts is None
    assert found.kind == "too-many-pixels" and found.found.startswith("has 80 × 60 pixels; at most 4000 are read")


def test_values_of_damaged_files(tmp_path: Path) -> None:
    photo(0).save(tmp_path / "x.jpg")
    size = (tmp_path / "x.jpg").stat().st_size // 2
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:size])
    _, (found,) = inspect_picture(tmp_path / "x.jpg", 32)
    assert found.found.startswith(f"{size:,} bytes, the end of the JPEG is missing: image file is truncated")
    photo(0).save(tmp_path / "y.png", format="GIF")
    size = (tmp_path / "y.png").stat().st_size
    _, (found,) = inspect_picture(tmp_path / "y.png", 32)
    assert found.found == f"ends in .png, but its {size:,} bytes are GIF"


def test_16_bit_colours(tmp_path: Path) -> None:
    photo(0).save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    assert inspect_picture(tmp_path / "x.png", SIDE)[1] == []
    data[24] = 16  # the depth in the header
    (tmp_path / "y.png").write_bytes(data)
    assert has_16_bits(tmp_path / "y.png") and not has_16_bits(tmp_path / "x.png")


def test_blur_is_measured_against_the_set_and_alone(tmp_path: Path) -> None:
    Image.new("RGB", (SIDE, SIDE), (90, 120, 30)).save(tmp_path / "flat.png")
    (alone,), _ = examined(tmp_path)
    assert alone.kind == "blurred" and alone.found == f"sharpness 0.0 at {SIDE} × {SIDE}"
    good_folder(tmp_path)
    (found,), pictures = examined(tmp_path)
    middle = float(np.median([picture.facts.sharpness for picture in pictures]))
    assert found.found == f"sharpness 0.0 at {SIDE} × {SIDE}; the middle of the set is {middle:.1f}"


def test_enlarged_pictures_are_not_called_blurred_too(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "x.png")
    assert [item.kind for item in examined(tmp_path)[0]] == ["small"]


def test_of_doubles_the_first_with_a_caption_stays(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        photo(1).save(tmp_path / f"{name}.png")
    (tmp_path / "b.txt").write_text("a fox")
    found, pictures = examined(tmp_path)
    assert {picture.entry.name: picture.same_as for picture in pictures} == {
        "a.png": "b.png",
        "b.png": None,
        "c.png": "b.png",
    }
    assert [item.path.name for item in found if item.kind == "duplicate"] == ["a.png", "c.png"]


def test_a_cut_out_and_its_copy_on_white_are_two_pictures(tmp_path: Path) -> None:
    pixels = np.asarray(photo(1).convert("RGBA")).copy()
    pixels[: SIDE // 2] = (255, 255, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "a.png")
    Image.fromarray(np.where(pixels[..., 3:] == 0, np.uint8(255), pixels)).save(tmp_path / "c.png")
    found, pictures = examined(tmp_path)
    assert [(picture.entry.name, picture.facts.is_see_through, picture.same_as) for picture in pictures] == [
        ("a.png", False, None),
        ("b.png", True, None),
        ("c.png", False, "a.png"),
    ]
    (transparent,) = [item for item in found if item.kind == "transparent"]
    assert transparent.path.name == "b.png"
    assert "--masks alpha" in transparent.meaning and "--masks alpha" in transparent.advice


def test_captions_of_any_ending_are_looked_at(tmp_path: Path) -> None:
    good_folder(tmp_path, 2)
    (tmp_path / "0.TXT").write_text("a fox")
    (tmp_path / "1.caption").write_bytes("a café".encode("cp1252"))
    found, pictures = examined(tmp_path)
    assert [(item.kind, item.path.name) for item in found] == [("caption-encoding", "1.caption")]
    assert [picture.caption for picture in pictures] == ["a fox", "a café"]
    (tmp_path / "1.TXT").write_text("a café", encoding="utf-8")
    assert [item.kind for item in examined(tmp_path)[0]] == ["caption-encoding"], "both say the same"


def test_near_duplicates_say_how_near(tmp_path: Path) -> None:
    good_folder(tmp_path)
    photo(2).save(tmp_path / "y.jpg", quality=90)
    (found,), _ = examined(tmp_path)
    assert found.kind == "near-duplicate" and found.path.name == "y.jpg"
    assert re.fullmatch(r"like '2\.png': [0-8] of 128 bits and \d+\.\d of 255 in colour apart", found.found)


def test_the_same_drawing_on_another_ground_is_another_picture(tmp_path: Path) -> None:
    for name, ground in (("a", (250, 220, 60)), ("b", (60, 110, 250))):
        picture = Image.new("RGB", (SIDE, SIDE), ground)
        picture.paste((20, 20, 20), (16, 16, 48, 48))
        picture.save(tmp_path / f"{name}.png")
    assert [item.kind for item in examined(tmp_path)[0]] == []


def test_how_long_a_caption_may_be_is_said_by_the_base(tmp_path: Path) -> None:
    photo(0).save(good_folder(tmp_path / f"3_{'1 ' * 31}", 1) / "1.png")
    (tmp_path / f"3_{'1 ' * 31}" / "1.txt").write_text("1 " * 25)
    kinds = [(item.kind, item.path) for item in examined(tmp_path)[0] if item.kind.startswith("caption")]
    assert kinds == [("caption-long", tmp_path / f"3_{'1 ' * 31}")], "a folder is named once, 25 tokens leave room"
    wide = caption_measure(DoctorRequest(folder=Path()), tiny_tokenizer(77))
    assert not {item.kind for item in examined(tmp_path, measure=wide)[0]} & {"caption-long", "caption-room"}


@pytest.mark.parametrize(
    ("width", "height", "white", "size", "found"),
    [
        (96, 64, (0, 0, 16, 64), 64, "nothing white in the middle 64 × 64 of 96 × 64 pixels"),
        (96, 64, (0, 0, 17, 1), 64, None),
        (64, 96, (0, 80, 64, 96), 32, "nothing white in the middle 64 × 64 of 64 × 96 pixels"),
        (64, 96, (63, 79, 64, 96), 32, None),
        (64, 64, (0, 0, 1, 1), 32, None),
    ],
)
def test_masks_that_miss_the_middle_are_named(
    tmp_path: Path, width: int, height: int, white: tuple[int, int, int, int], size: int, found: str | None
) -> None:
    photo(0, width, height).save(tmp_path / "x.png")
    mask = Image.new("L", (width, height))
    mask.paste(255, white)
    mask.save(tmp_path / "x.mask.png")
    findings, (picture,) = examined(tmp_path, size)
    assert [item.found for item in findings if item.kind == "mask-outside"] == ([] if found is None else [found])
    assert picture.mask == tmp_path / "x.mask.png", "buckets may still use it"


def test_progress_counts_the_pictures(tmp_path: Path) -> None:
    events = list(examine(good_folder(tmp_path / "a", 3), SIDE, MEASURE))
    assert [event for event in events if isinstance(event, Progress)] == [Progress("looking", n, 3) for n in (1, 2, 3)]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone does not exist; a folder of pictures is needed"):
        examined(tmp_path / "gone")


def test_the_demo_pictures_are_in_order() -> None:
    folder = Path(images.__file__).parents[1] / "assets" / "demo" / "unicorn"
    assert examined(folder, 128)[0] == []


def test_nothing_is_changed(tmp_path: Path) -> None:
    for number, broken in enumerate(BROKEN):
        good_folder(tmp_path / f"{number}")
        broken.build(tmp_path / f"{number}")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for number in range(len(BROKEN)):
        examined(tmp_path / f"{number}")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("data", "text", "encoding"),
    [
        ("ein  Füchslein\n".encode(), "ein  Füchslein\n", "UTF-8"),
        ("Fuchs".encode("utf-8-sig"), "Fuchs", "UTF-8"),
        ("Füchslein".encode("utf-16"), "Füchslein", "UTF-16"),
        ("Fuchs".encode("utf-16-le"), "Fuchs", "UTF-16"),
        ("Füchslein".encode("cp1252"), "Füchslein", "Windows-1252"),
        (b"F\x81chs", "F\x81chs", "Windows-1252"),
        (b"", "", "UTF-8"),
    ],
)
def test_captions_are_decoded(data: bytes, text: str, encoding: str) -> None:
    assert decode_caption(data) == (text, encoding)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\n <!DOCTYPE html>", "HTML"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"\0\0\0\x18ftypisom", "MP4 or MOV"),
        (b"RIFF\0\0\0\0WEBP", "WEBP"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"", None),
    ],
)
def test_contents_are_named(head: bytes, name: str | None) -> None:
    assert name_content(head) == name


def test_a_refusal_repeats_the_finding() -> None:
    error = refusal(finding("bad-repeats", Path("a/0_dog"), "'0_dog' has 0 repeats"))
    assert error.message == "a/0_dog: folder name without a usable number of repeats: '0_dog' has 0 repeats."
    assert error.hint == KINDS["bad-repeats"].advice


def test_pictures_in_a_tree_are_examined(tmp_path: Path) -> None:
    good_folder(tmp_path / "10_sks fox", 2)
    shutil.copy(tmp_path / "10_sks fox" / "0.png", tmp_path / "10_sks fox" / "cut.png")
    (tmp_path / "10_sks fox" / "cut.png").write_bytes((tmp_path / "10_sks fox" / "0.png").read_bytes()[:500])
    found, pictures = examined(tmp_path)
    assert [(item.kind, item.path) for item in found] == [("truncated", tmp_path / "10_sks fox" / "cut.png")]
    assert [(picture.entry.repeats, picture.caption) for picture in pictures] == [(10, "sks fox")] * 2


def test_pictures_too_deep_in_a_tree_are_named(tmp_path: Path) -> None:
    good_folder(tmp_path / "3_fox", 2)
    photo(5).save(good_folder(tmp_path / "3_fox" / "old", 0) / "x.png")
    (found,), pictures = examined(tmp_path)
    assert (found.kind, found.path, found.found) == ("unread-folder", tmp_path / "3_fox" / "old", "1 picture")
    assert len(pictures) == 2
