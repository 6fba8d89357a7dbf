"""The doctor and the lesson: captions are measured as a lesson says them, masks lie where it reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from broken_folders import SIDE, good_folder, masks, photo
from sfumato.data.caption_checks import read_captions
from sfumato.data.images import load_image
from sfumato.data.listing import list_entries
from sfumato.data.masks import find_masks
from sfumato.errors import ConfigError, DataError
from sfumato.events import Event, Finding, Notice, Table
from sfumato.formats.bundle import Bundle
from sfumato.models.tokenizer import Tokenizer
from sfumato.operations.doctor import caption_measure, doctor
from sfumato.requests import DoctorRequest
from sfumato.training.learn_config import LearnConfig
from sfumato.training.sample_set import Samples
from sfumato.training.subject import subject_caption
from sfumato.training.words import Words
from tiny import tiny_bundle, tiny_tokenizer

FOX = {"placeholder": "<fox>", "class_noun": "fox"}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def tokenizer() -> Tokenizer:
    return tiny_tokenizer()


def ones(count: int) -> str:
    """Write a text of so many tokens, whatever the base."""
    return " ".join("1" * count)


def asked(folder: Path = Path("photos"), **values: Any) -> DoctorRequest:
    return DoctorRequest(**{"folder": folder, "size": SIDE, **values})


def examined(request: DoctorRequest) -> list[Event]:
    """Run the doctor, whose last word may be that there are errors."""
    events: list[Event] = []
    try:
        for event in doctor(request):
            events.append(event)
    except DataError as error:
        assert "nothing can be learned from it before the errors are mended" in error.message
    return events


def kinds(request: DoctorRequest) -> list[tuple[str, str]]:
    """Return each finding with the name of its file."""
    return [(event.kind, event.path.name) for event in examined(request) if isinstance(event, Finding)]


def refusal(bundle: Bundle, caption: str, **values: Any) -> str | None:
    """Return what a lesson says to a caption that is too long; `None` where it takes it."""
    config = LearnConfig(folder=Path("photos"), output=Path("fox.safetensors"), **FOX, **values)
    said = subject_caption(caption, "<fox>", "fox")
    samples = Samples(torch.zeros(1, 4, 8, 8), None, (said,), ("0.png",), words=("<fox>",))
    try:
        Words(config, bundle, samples).detach()
    except DataError as error:
        return error.message
    return None


@pytest.mark.parametrize("vectors", [1, 3])
@pytest.mark.parametrize("start", ["<fox>", "a <fox> fox,", "a fox", "my <FOX> and <fox>", ""])
def test_captions_are_measured_as_the_lesson_says_them(
    start: str, vectors: int, bundle: Bundle, tokenizer: Tokenizer
) -> None:
    measure = caption_measure(asked(num_vectors=vectors, **FOX), tokenizer)
    fits = []
    for count in range(8, 31):
        caption = f"{start} {ones(count)}".strip()
        found, refused = measure(caption), refusal(bundle, caption, num_vectors=vectors)
        fits.append(found is None)
        assert (found is None) == (refused is None), caption
        if found is not None and refused is not None:
            kind, what = found
            excess, _, said = what.partition("; it is said as ")
            assert kind == "caption-long" and f"has {excess}." in refused and "<fox> fox" in said
    assert fits == sorted(fits, reverse=True) and {True, False} == set(fits)


def test_a_style_is_measured_as_its_lesson_says_it(tokenizer: Tokenizer) -> None:
    room = tokenizer.context_length - 2 - len(tokenizer.pieces(", <ink> style")) + len(tokenizer.pieces("<ink>")) - 1
    fits, long = ones(room), ones(room + 1)
    measure = caption_measure(asked(placeholder="<ink>", style=True), tokenizer)
    assert measure(fits) is None
    kind, what = measure(long) or ("", "")
    assert kind == "caption-long" and "it is said as '1 1" in what


def test_thirty_tokens_with_the_word_do_not_fit_with_the_noun(tokenizer: Tokenizer) -> None:
    caption = f"<fox> {ones(29)}"
    assert caption_measure(asked(**FOX), tokenizer)(caption) == (
        "caption-long",
        f"33 tokens with start and end, the limit is 32; this would be cut: '1'; it is said as '<fox> fox {ones(15)}…'",
    )


@pytest.mark.parametrize("word", ["a", "my fox"])
def test_a_word_that_gets_no_vectors_is_one_token_as_a_rare_word_is(word: str, tokenizer: Tokenizer) -> None:
    measure = caption_measure(asked(placeholder=word, class_noun="1"), tokenizer)
    assert measure(f"{word} {ones(28)}") is None  # its noun is what follows
    assert measure(f"{word}, {ones(27)}") is None
    assert measure(f"{word}, {ones(28)}") is not None


@pytest.mark.parametrize(
    ("values", "caption", "found"),
    [
        ({}, f"<fox> {ones(27)}", None),
        ({}, f"<fox> {ones(28)}", "31 1 2 a class noun behind '<fox>'"),
        ({}, f"<fox> {ones(29)}", "32 0 2 a class noun behind '<fox>'"),
        ({}, f"<fox> <owl> {ones(25)}", "29 3 4 a class noun behind '<fox>'"),
        ({}, f"[fox] {ones(29)}", "32 0 2 a class noun behind '[fox]'"),
        ({}, ones(25), None),
        ({}, ones(26), "28 4 5 'a <word> noun,' in front"),
        ({"num_vectors": 3}, f"<fox> {ones(25)}", None),
        ({"num_vectors": 3}, f"<fox> {ones(26)}", "31 1 2 a class noun behind '<fox>'"),
        ({"num_vectors": 3}, ones(24), "26 6 7 'a <word> noun,' in front"),
        ({"class_noun": "1 2 3"}, f"<fox> {ones(27)}", "30 2 3 a class noun behind '<fox>'"),
        ({"placeholder": "2"}, f"2 {ones(29)}", "32 0 2 a class noun behind '2'"),
        ({"placeholder": "<rex>"}, f"<REX> {ones(29)}", "32 0 2 a class noun behind '<REX>'"),
    ],
)
def test_without_word_or_noun_room_is_left_for_them(
    values: dict[str, Any], caption: str, found: str | None, tokenizer: Tokenizer
) -> None:
    measured = caption_measure(asked(**values), tokenizer)(caption)
    if found is None:
        assert measured is None
        return
    used, left, needed, what = found.split(" ", 3)
    room = f"{used} tokens with start and end, the limit is 32: {left} left, up to {needed} needed for {what}"
    assert measured == ("caption-room", room)


def test_what_is_too_long_without_the_lesson_is_an_error(tokenizer: Tokenizer) -> None:
    for values, caption in (({}, f"<fox> {ones(30)}"), ({"num_vectors": 3}, f"<fox> {ones(28)}"), ({}, ones(31))):
        found = caption_measure(asked(**values), tokenizer)(caption)
        assert found is not None
        assert found[0] == "caption-long" and found[1].startswith("33 tokens with start and end, the limit is 32; ")


def test_the_lesson_decides_whether_a_caption_is_an_error(tmp_path: Path) -> None:
    good_folder(tmp_path, 1)
    (tmp_path / "0.txt").write_text(f"<fox> {ones(29)}")
    list(doctor(asked(tmp_path)))
    assert kinds(asked(tmp_path)) == [("caption-room", "0.png")]
    assert kinds(asked(tmp_path, **FOX)) == [("caption-long", "0.png")]
    with pytest.raises(DataError, match="1 error; nothing can be learned"):
        list(doctor(asked(tmp_path, **FOX)))
    (tmp_path / "0.txt").write_text(f"<fox> fox {ones(27)}")
    assert kinds(asked(tmp_path, **FOX)) == []
    assert kinds(asked(tmp_path, num_vectors=3, **FOX)) == [("caption-long", "0.png")]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"a fox\n", []),
        (b"\n  \na fox\n\n", []),
        (b"a fox\r\nmy fox\r\none fox", [("caption-lines", "3 lines, read as 'a fox my fox one fox'")]),
        (
            "ein Füchslein\nim Schnee\n".encode("cp1252"),
            [
                ("caption-encoding", "Windows-1252, it seems: 'ein Füchslein im Schnee'"),
                ("caption-lines", "2 lines, read as 'ein Füchslein im Schnee'"),
            ],
        ),
    ],
)
def test_captions_of_several_lines_are_named(data: bytes, found: list[tuple[str, str]], tmp_path: Path) -> None:
    good_folder(tmp_path, 1)
    (tmp_path / "0.caption").write_bytes(data)
    captions, findings = read_captions(list_entries(tmp_path))
    assert [(item.kind, item.found) for item in findings] == found
    assert len(captions[tmp_path / "0.png"].splitlines()) == 1


def mask_folder(folder: Path, *names: str) -> Path:
    """Write masks of which all but the first pixel is white."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        mask = Image.new("L", (SIDE, SIDE), 255)
        mask.putpixel((0, 0), 0)
        mask.save(folder / name)
    return folder


def test_masks_in_a_folder_of_their_own_are_those_that_learning_reads(tmp_path: Path) -> None:
    photos = good_folder(tmp_path / "photos", 2)
    photo(9).save(good_folder(photos / "3_fox", 0) / "9.jpg")
    apart = mask_folder(tmp_path / "masks", "0.png", "1.bmp", "3_fox/9.png")
    masks(photos, 0)  # beside its picture, where nobody looks
    missing = [("caption-missing", "0.png"), ("caption-missing", "1.png")]
    assert kinds(asked(photos, mask_folder=apart)) == [("mixed-folders", "photos"), *missing]
    list(doctor(asked(photos, mask_folder=apart, fix=tmp_path / "copy")))
    pictures = [entry.path for entry in list_entries(photos)]
    for picture, mask in find_masks(photos, pictures, apart).items():
        copied = (tmp_path / "copy" / picture.relative_to(photos)).with_suffix(".mask.png")
        assert np.array_equal(load_image(copied).rgb, load_image(mask).rgb)


def test_masks_in_a_folder_of_their_own_are_checked_as_those_beside(tmp_path: Path) -> None:
    photos = good_folder(tmp_path / "photos", 4)
    apart = mask_folder(tmp_path / "masks", "0.png", "1.png", "0.mask.png")
    photo(9, SIDE, SIDE // 2).save(apart / "2.png")
    Image.new("L", (SIDE, SIDE)).save(apart / "1.png")
    (apart / "notes.txt").write_text("no mask")
    assert kinds(asked(photos, mask_folder=apart)) == [
        ("mask-orphan", "0.mask.png"),
        ("mask-unusable", "1.png"),
        ("mask-unusable", "2.png"),
        ("mask-missing", "3.png"),
    ]


def test_a_folder_without_masks_that_is_asked_for_lacks_all_of_them(tmp_path: Path) -> None:
    photos = good_folder(tmp_path / "photos", 2)
    assert kinds(asked(photos)) == []
    found = kinds(asked(photos, mask_folder=good_folder(tmp_path / "masks", 0)))
    assert found == [("mask-missing", "0.png"), ("mask-missing", "1.png")]


def test_masks_among_the_pictures_are_no_pictures(tmp_path: Path) -> None:
    photos = good_folder(tmp_path, 1)
    apart = mask_folder(photos / "masks", "0.png")
    assert kinds(asked(photos)) == [("unread-folder", "masks")]
    assert kinds(asked(photos, mask_folder=apart)) == []


def test_folders_of_masks_that_are_refused(tmp_path: Path) -> None:
    photos = good_folder(tmp_path / "photos", 1)
    with pytest.raises(DataError, match="where the pictures themselves are; needed another folder") as caught:
        list(doctor(asked(photos, mask_folder=photos / ".")))
    assert caught.value.field == "mask_folder"
    with pytest.raises(DataError, match="gone does not exist; a folder of pictures is needed"):
        list(doctor(asked(photos, mask_folder=tmp_path / "gone")))
    apart = mask_folder(tmp_path / "masks", "0.png")
    with pytest.raises(ConfigError, match="which lies in '.*masks'; needed a new folder outside of it"):
        list(doctor(asked(photos, mask_folder=apart, fix=apart / "copy")))


def told(request: DoctorRequest) -> tuple[str, Table]:
    """Return what the doctor says of batches."""
    events = examined(request)
    (table,) = [event for event in events if isinstance(event, Table)]
    return [event.message for event in events if isinstance(event, Notice)][-1], table


def test_batches_are_told_as_the_trainer_makes_them(tmp_path: Path) -> None:
    for number in range(6):
        photo(number, 128, 128).save(tmp_path / f"{number}.png")
    text, table = told(asked(tmp_path, size=128))
    assert text == "6 pictures can be read; at batch size 4 a round is 1.5 batches; the next round fills the last one."
    assert table.title == "Middle squares are learned; with --buckets all would have this size:"
    assert table.columns == ("bucket", "pictures", "with repeats", "batches a round")
    assert table.rows == (("128 × 128", 6, 6, 1.5),)
    assert told(asked(tmp_path, size=128, batch_size=6))[0].endswith("at batch size 6 a round is 1 batch.")
    photo(9, 192, 128).save(tmp_path / "wide.png")
    text, table = told(asked(tmp_path, size=128))
    assert text == "7 pictures can be read; at batch size 4 a round is 1.75 batches; the next round fills the last one."
    assert table.title == "Middle squares are learned; with --buckets a round is 7 full batches, each of one size:"
    assert table.rows == (("128 × 128", 6, 6, 6), ("160 × 96", 1, 1, 1))
    assert kinds(asked(tmp_path, size=128)) == [("bucket-small", tmp_path.name)]
    assert kinds(asked(tmp_path, size=128, batch_size=1)) == []


def test_repeats_are_told_by_their_proportions(tmp_path: Path) -> None:
    good_folder(tmp_path / "10_sks fox", 2)
    assert told(asked(tmp_path))[0].endswith("a round is 0.5 batches; the next round fills the last one.")
    photo(9).save(good_folder(tmp_path / "30_my fox", 0) / "x.png")
    text, table = told(asked(tmp_path))
    assert "3 pictures can be read; at batch size 4 a round of 5 with repeats is 1.25 batches;" in text
    assert table.rows == (("64 × 64", 3, 5, 1.25),)
