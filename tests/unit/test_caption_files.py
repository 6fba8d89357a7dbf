"""Captions beside pictures: how their files are called, what several of one picture may say, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sfumato.data.caption_files import caption_files, is_caption, read_caption
from sfumato.errors import CaptionMissing, DataError


def read(picture: Path, default: str | None = None) -> str:
    """Find the captions of one picture and read them."""
    return read_caption(picture, caption_files([picture]).get(picture, ()), default)


def test_captions_stand_beside_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" a red\n fox \n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("\n")
    assert read(tmp_path / "a.png") == "a red fox"
    assert read(tmp_path / "c.png", "a fox") == "a fox"
    with pytest.raises(CaptionMissing, match=r"b\.png has no caption: b\.txt without a word beside it"):
        read(tmp_path / "b.png")
    with pytest.raises(CaptionMissing, match=r"c\.png has no caption: there is no c\.txt or c\.caption beside it"):
        read(tmp_path / "c.png")
    (tmp_path / "d.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DataError, match=r"d\.txt cannot be read as UTF-8 text"):
        read(tmp_path / "d.png")
    (tmp_path / "e.CAPTION").write_bytes("a fox".encode("utf-16-le"))
    with pytest.raises(
        DataError, match=r"e\.CAPTION cannot be read as UTF-8 text: it holds zero bytes, as UTF-16 does"
    ):
        read(tmp_path / "e.png")


@pytest.mark.parametrize("name", ["IMG_1.txt", "IMG_1.TXT", "IMG_1.Txt", "IMG_1.caption", "IMG_1.CAPTION"])
def test_the_case_of_the_ending_does_not_matter(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("a fox")
    assert caption_files([tmp_path / "IMG_1.JPG"]) == {tmp_path / "IMG_1.JPG": (tmp_path / name,)}
    assert read(tmp_path / "IMG_1.JPG") == "a fox" and is_caption(tmp_path / name)


def test_other_names_and_folders_are_no_captions(tmp_path: Path) -> None:
    for name in ("a.md", "a.jpg.txt", "b.txt", "a.text"):
        (tmp_path / name).write_text("a fox")
    (tmp_path / "a.txt").mkdir()
    assert caption_files([tmp_path / "a.jpg", tmp_path / "gone" / "a.jpg"]) == {}


def test_captions_of_one_picture_may_be_the_same_or_empty(tmp_path: Path) -> None:
    (tmp_path / "a.caption").write_text("a red fox")
    (tmp_path / "a.TXT").write_text("a  red\nfox\n")
    assert [path.name for path in caption_files([tmp_path / "a.png"])[tmp_path / "a.png"]] == ["a.TXT", "a.caption"]
    assert read(tmp_path / "a.png") == "a red fox"
    (tmp_path / "a.TXT").write_text("\n")
    assert read(tmp_path / "a.png") == "a red fox", "an empty one says nothing"


@pytest.mark.parametrize("other", ["a.caption", "a.TXT"])
def test_captions_of_one_picture_that_differ_are_refused(other: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a red fox")
    (tmp_path / other).write_text("a dog")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'a.png'}: two captions that differ: ")) as caught:
        read(tmp_path / "a.png", "a fox")
    for told in ("a.txt 'a red fox'", f"{other} 'a dog'"):
        assert told in caught.value.message
    assert caught.value.hint == "Delete the one that is not meant."


def test_a_folder_that_cannot_be_listed_still_gives_captions_of_plain_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.caption").write_text("a fox")

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert read(tmp_path / "a.png") == "a fox"
