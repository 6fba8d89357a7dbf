"""Picture files: upright, on a ground, and named when they cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sfumato.data.picture_files import picture_files, read_image, read_mask
from sfumato.errors import EmptyDataset, UnreadableImage


def test_transparent_parts_are_filled(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    picture.putpixel((0, 0), (255, 0, 0, 255))
    picture.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png", ground=(0, 0, 9))
    assert (read.mode, read.getpixel((0, 0)), read.getpixel((1, 0))) == ("RGB", (255, 0, 0), (0, 0, 9))
    assert read_mask(tmp_path / "a.png").getpixel((1, 0)) == 0


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16", "CMYK", "RGB", "LA"])
def test_every_mode_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new(mode, (3, 3)).save(path)
    assert read_image(path).mode == "RGB"


def test_pictures_stand_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (4, 8)


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"none.png' does not exist; a picture was needed. Check the path."):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(UnreadableImage, match=r"text.png' is no picture that can be read. Needed: PNG"):
        read_image(tmp_path / "text.png")
    Image.new("RGB", (64, 64), (9, 8, 7)).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableImage, match=r"cut.png' is a damaged picture: .+\. Copy or save it again."):
        read_image(tmp_path / "cut.png")
    with pytest.raises(UnreadableImage, match=r"' is a damaged picture: .*Is a directory"):
        read_image(tmp_path)


def test_folders_of_pictures(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "inner.png").mkdir()
    assert [path.name for path in picture_files(tmp_path)] == ["a.JPG", "b.png"]


def test_folders_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(EmptyDataset, match=r"' holds no picture \(1 files\); needed: at least one of png, jpg"):
        picture_files(tmp_path)
    with pytest.raises(EmptyDataset, match=r"none' does not exist; a folder with pictures was needed"):
        picture_files(tmp_path / "none")
    with pytest.raises(EmptyDataset, match=r"notes.txt' is a file; a folder with pictures was needed"):
        picture_files(tmp_path / "notes.txt")
