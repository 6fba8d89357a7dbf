"""What a lesson says of its folders: which findings, in which words, and of what it says nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import sfumato.operations.folder_notice as folder_notice
from broken_folders import BROKEN, SIDE, Broken, good_folder, masks, photo
from sfumato.data.doctor import examine
from sfumato.data.findings import KINDS
from sfumato.data.images import MASK_ENDINGS
from sfumato.events import Finding, Progress
from sfumato.formats.bundle import Bundle
from sfumato.operations.folder_notice import GRAVEST_FIRST, folder_notices
from sfumato.training.learn_config import LearnConfig
from tiny import tiny_bundle

LEFT_OUT = {
    "wrong-extension": "sfumato goes by the content",
    "mixed-folders": "the lesson says how often each is shown where that differs",
    "caption-missing": "the lesson says how many have one",
    "caption-empty": "so does it of these",
    "caption-placeholder": "the lesson puts the word in",
    "caption-room": "the lesson knows word and noun, and refuses what does not fit",
    "mask-orphan": "refused where masks are files, not read elsewhere",
    "mask-unusable": "likewise",
    "mask-missing": "likewise",
    "alpha-missing": "refused where masks are alpha",
}
"""Warnings that a lesson need not repeat, and why."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return replace(tiny_bundle(), native_size=SIDE)


def said(bundle: Bundle, folder: Path, **values: Any) -> list[str]:
    """Return what a lesson says of its folders."""
    names = {"placeholder": "<fox>", "class_noun": "fox", "output": Path("fox.safetensors")}
    config = LearnConfig.model_validate({"folder": folder, **names, **values})
    notices = list(folder_notices(config, bundle))
    assert all(notice.step == 0 for notice in notices)
    return [notice.message for notice in notices]


def nearly_twice(folder: Path) -> None:
    """Write the first picture again, with one pixel changed."""
    again = Image.open(folder / "0.png").convert("RGB")
    again.putpixel((5, 5), (0, 0, 0))
    again.save(folder / "0 again.png")


def test_what_is_found_is_said_in_one_line(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = good_folder(Path("my photos"))
    nearly_twice(folder)
    photo(9, 20, 20).save(folder / "tiny.png")
    (message,) = said(bundle, folder)
    assert message == (
        "my photos: 2 things are worth a look. Smaller than it will be learned: 'tiny.png' (20 × 20 pixels, enlarged "
        "3.2 times to 64 × 64). Nearly the same picture: '0.png' (like '0 again.png'). See: sfumato data doctor "
        "'my photos' --as '<fox>' --class fox"
    )


def test_the_gravest_kinds_are_named_and_the_others_counted(bundle: Bundle, tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "data")
    nearly_twice(folder)
    for number in (8, 9):
        photo(number, 20, 20).save(folder / f"tiny-{number}.png")
    (folder / "anna.HEIC").write_bytes(b"x")
    (folder / "notes.txt").write_text("something")
    (folder / "0.txt").write_text("a fox\non grass")
    (message,) = said(bundle, folder)
    assert message.startswith(
        f"{folder}: 6 things are worth a look. Format that is not read: 'anna.HEIC'. Smaller than it will be learned: "
        "'tiny-8.png' (20 × 20 pixels, enlarged 3.2 times to 64 × 64) and 1 more. Nearly the same picture: '0.png' "
        "(like '0 again.png'). Also: caption without a picture (1), caption of several lines (1). See: sfumato data"
    )


def test_every_warning_is_either_said_or_left_out_for_a_reason() -> None:
    warnings = {name for name, kind in KINDS.items() if kind.severity == "warning"}
    assert {*GRAVEST_FIRST, *LEFT_OUT} == warnings
    assert len(GRAVEST_FIRST) + len(LEFT_OUT) == len(warnings)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"{broken.kind}-{broken.where}")
def test_what_a_lesson_says_or_refuses_itself_is_not_said(broken: Broken, bundle: Bundle, tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "data")
    broken.build(folder)
    masks = {"mask-outside": "file", "alpha-outside": "alpha"}.get(broken.kind, "none")
    told = " ".join(said(bundle, folder, pictures={"masks": masks}))
    title = KINDS[broken.kind].title
    is_said = f"{title[0].upper()}{title[1:]}: " in told or f"{title} (" in told
    assert is_said == (broken.kind in GRAVEST_FIRST)


@pytest.mark.parametrize("folder", ["nowhere", "file", "empty"])
def test_what_cannot_be_examined_is_left_to_the_lesson(folder: str, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    assert said(bundle, tmp_path / folder) == []
    files = {"masks": "file", "mask_folder": tmp_path / "nowhere"}
    assert said(bundle, good_folder(tmp_path / "good"), pictures=files) == []


def test_what_the_settings_make_pointless_is_not_said(bundle: Bundle, tmp_path: Path) -> None:
    solid, wide, text, masked = (good_folder(tmp_path / name) for name in ("solid", "wide", "text", "masked"))
    seen = photo(7).convert("RGBA")
    seen.putpixel((0, 0), (0, 0, 0, 0))
    seen.save(solid / "seen.png")
    assert "See-through parts: 'seen.png' (0.0 % of its pixels)." in said(bundle, solid)[0]
    assert said(bundle, solid, pictures={"masks": "alpha"}) == []
    photo(7, 300, 100).save(wide / "wide.png")
    assert said(bundle, wide)[0].startswith(f"{wide}: 1 thing is worth a look. Far from square: 'wide.png' (300 × 100 ")
    few = f"{wide}: 1 thing is worth a look. Bucket with fewer pictures than a batch: a batch has 4 pictures, "
    assert said(bundle, wide, pictures={"buckets": True})[0].startswith(few)
    assert said(bundle, wide, pictures={"buckets": True}, batch_size=1) == []
    (text / "0.txt").write_text("a fox\non grass")
    assert "Caption of several lines: '0.txt' (2 lines, read as 'a fox on grass')" in said(bundle, text)[0]
    assert said(bundle, text, templates="object") == []
    masks(masked, 0, 1, 2)
    Image.new("L", (SIDE, SIDE)).save(masked / f"3{MASK_ENDINGS[0]}")
    assert said(bundle, masked, pictures={"masks": "file"}) == []  # refused by the lesson: black everywhere


def test_a_large_folder_is_looked_at_in_part(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = good_folder(tmp_path / "data", 5)
    photo(9, 20, 20).save(folder / "00.png")
    photo(8, 20, 20).save(folder / "tiny.png")
    assert "2 things are worth a look. Smaller" in said(bundle, folder)[0]
    monkeypatch.setattr(folder_notice, "MEGAPIXELS", 3)
    assert "1 thing is worth a look in the first 3 of 7 pictures. Smaller" in said(bundle, folder)[0]
    (folder / "00.png").unlink()
    assert said(bundle, folder) == []
    photo(7, 160, 96).save(folder / "wide.png")  # of a bucket nothing can be said before all pictures are known
    assert said(bundle, folder, pictures={"buckets": True}) == []


@pytest.mark.parametrize(("width", "most", "looked"), [(1000, None, 4), (1000, 2, 2), (1000, 3, 3), (2500, 4, 3)])
def test_large_pictures_count_more(width: int, most: int | None, looked: int, tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "data", 3)
    Image.new("RGB", (width, 1000)).save(folder / "0.png")
    photo(9).save(folder / "3.png")
    events = list(examine(folder, 32, lambda _: None, most=most))
    assert [event for event in events if isinstance(event, Progress)][-1] == Progress("looking", looked, 4)
    assert {event.path.name for event in events if isinstance(event, Finding)} == {"0.png"}  # without an edge


def test_the_command_looks_as_the_lesson_does(bundle: Bundle, tmp_path: Path) -> None:
    fox, cat = good_folder(tmp_path / "fox"), good_folder(tmp_path / "cat")
    for folder in (fox, cat):
        photo(9, 20, 20).save(folder / "tiny.png")
    further = [{"folder": cat, "placeholder": "<my cat>", "class_noun": "cat"}]
    one, other = said(bundle, fox, further=further, num_vectors=2, batch_size=2)
    assert one.endswith(" --as '<fox>' --class fox --batch-size 2 --num-vectors 2")
    assert f"{cat}: 1 thing" in other and " --as '<my cat>' --class cat" in other


def test_the_word_of_another_trainer_is_said(bundle: Bundle, tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "data")
    for number, text in enumerate(("sks in snow", "a photo of [trigger], sks", "a <cat> with sks", "grass")):
        (folder / f"{number}.txt").write_text(text)
    (message,) = said(bundle, folder)
    what = "Word of another trainer in captions: '0.txt' ('sks' stands in 3 of 4)"
    assert what.replace(".txt", ".png") in message or what in message
    assert "trigger" not in message and "<cat>" not in message
    assert not any("another trainer" in told for told in said(bundle, folder, placeholder="SKS"))
    also = [{"folder": folder, "placeholder": "sks", "class_noun": "cat"}]
    assert not any("another trainer" in told for told in said(bundle, folder, further=also)[:1])
    assert said(bundle, folder, kind="style")[0].endswith("--style")
