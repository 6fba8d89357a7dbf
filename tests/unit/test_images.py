"""Reading users' pictures: orientation, transparency, size limits, damage."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

import sfumato.data.images as images
from sfumato.data.images import (
    crop_box,
    explained,
    list_images,
    load_image,
    load_tensor,
    orientation,
    resize,
    to_pixels,
    to_tensor,
)
from sfumato.data.inspection import inspect_picture
from sfumato.errors import ConfigError, DataError, EmptyDataset, UnreadableImage


def write(path: Path, mode: str = "RGB", colour: object = (200, 10, 20), size: tuple[int, int] = (8, 6)) -> Path:
    Image.new(mode, size, colour).save(path)  # type: ignore[arg-type]
    return path


def test_colours_are_read(tmp_path: Path) -> None:
    picture = load_image(write(tmp_path / "a.png"))
    assert picture.rgb.shape == (6, 8, 3)
    assert picture.alpha is None
    assert (picture.rgb == (200, 10, 20)).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp", ".bmp"])
def test_every_listed_format_is_read(suffix: str, tmp_path: Path) -> None:
    assert load_image(write(tmp_path / f"a{suffix}", colour=(128, 128, 128))).rgb.shape == (6, 8, 3)


def test_the_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, :8] = 255  # bright on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = load_image(tmp_path / "a.png").rgb
    assert upright.shape == (16, 8, 3)
    assert upright[:8].mean() == 255
    assert upright[8:].mean() == 0


@pytest.mark.parametrize("number", range(10))
def test_every_orientation_is_turned_as_pillow_does(number: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as opened:
        assert (load_image(tmp_path / "a.png").rgb == np.asarray(ImageOps.exif_transpose(opened))).all()
        assert orientation(opened) == (number if 1 <= number <= 8 else 1)


def test_a_damaged_exif_block_does_not_spoil_a_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "camera", 72.0
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    stream = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 10, 20)).save(stream, "JPEG", exif=exif)
    data, path = stream.getvalue(), tmp_path / "a.jpg"
    start = data.index(b"Exif")
    spoils_pillow = 0
    for place in range(start, start - 2 + int.from_bytes(data[start - 2 : start], "big")):
        for bits in (0x05, 0x07, 0x10):
            path.write_bytes(data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :])
            assert load_image(path).rgb.shape in ((16, 8, 3), (8, 16, 3)), f"byte {place} ^ {bits}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes())))
                except (struct.error, TypeError, AttributeError):
                    spoils_pillow += 1
    assert spoils_pillow > 0, "writing the block again, as Pillow does, would fail"


@pytest.mark.parametrize("error", [struct.error, TypeError, AttributeError, KeyError, OSError, RecursionError])
def test_whatever_a_decoder_says_names_the_file(error: type[Exception]) -> None:
    with pytest.raises(UnreadableImage) as caught, explained(Path("a.jpg")):
        raise error("x.")
    told = "x" if error is OSError else f"its decoder failed ({error.__name__}: {error('x.')})"
    assert caught.value.message == f"a.jpg is not a readable picture: {told}."
    with pytest.raises(MemoryError), explained(Path("a.jpg")):
        raise MemoryError


def test_transparency_is_filled_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", "RGBA", (255, 0, 0, 0))
    assert (load_image(path).rgb == 255).all()
    filled = load_image(path, fill=(0, 0, 255))
    assert (filled.rgb == (0, 0, 255)).all()
    assert filled.alpha is not None
    assert (filled.alpha == 0).all()


@pytest.mark.parametrize(("mode", "colour", "grey"), [("L", 77, 77), ("I;16", 77 * 257, 77), ("1", 1, 255)])
def test_grey_modes_become_rgb(mode: str, colour: int, grey: int, tmp_path: Path) -> None:
    assert (load_image(write(tmp_path / "a.png", mode, colour)).rgb == grey).all()


def test_a_palette_with_transparency_has_alpha(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    picture = load_image(tmp_path / "a.png")
    assert picture.alpha is not None
    assert (picture.rgb == 255).all()


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"The picture .*none\.png does not exist"):
        load_image(tmp_path / "none.png")
    with pytest.raises(DataError, match=rf"The picture {tmp_path} is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"hello", "its 5 bytes are no PNG, JPEG, WebP or BMP"),
        (b"GIF89a" + b"\0" * 40, "46 bytes"),
    ],
)
def test_what_is_no_picture_is_said(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImage, match=rf"a\.png is not a readable picture: .*{reason}"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_a_truncated_picture_is_refused(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnreadableImage, match=rf"a\{suffix} is not a readable picture"):
        load_image(path)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", size=(20, 10))
    monkeypatch.setattr(images, "MAX_PIXELS", 199)
    with pytest.raises(UnreadableImage, match=r"a\.png has 20 × 10 pixels; at most 199 are read\. Scale it down first"):
        load_image(path)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82")
    with pytest.raises(UnreadableImage, match=r"a\.png has too many pixels: .*3600000000"):
        load_image(tmp_path / "a.png")


def test_a_folder_lists_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "c.webp"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("notes.txt", ".hidden.png", "d.gif"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "c.webp"]


def test_a_folder_without_pictures_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(EmptyDataset, match=r"holds no pictures \(1 other entries\)"):
        list_images(tmp_path)
    with pytest.raises(DataError, match=r"gone does not exist; a folder of pictures is needed"):
        list_images(tmp_path / "gone")
    with pytest.raises(DataError, match=r"notes\.txt is a file"):
        list_images(tmp_path / "notes.txt")


def test_resizing_keeps_proportions(tmp_path: Path) -> None:
    pixels = np.zeros((10, 40, 3), dtype=np.uint8)
    pixels[:, 15:25] = 255  # the middle square is white
    assert (resize(pixels, 8) == 255).all()
    assert resize(pixels, 8, 4).shape == (4, 8, 3)
    with pytest.raises(ConfigError, match="A picture of 0 × 5 pixels was asked for"):
        resize(pixels, 0, 5)


def test_a_picture_becomes_a_tensor(tmp_path: Path) -> None:
    tensor = load_tensor(write(tmp_path / "a.png", colour=(255, 0, 127)), 4)
    assert tensor.shape == (3, 4, 4)
    assert tensor.dtype == torch.float32
    assert (tensor[0] == 1).all()
    assert (tensor[1] == -1).all()
    assert tensor[2, 0, 0].item() == pytest.approx(127 / 127.5 - 1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9))
def test_tensors_and_bytes_are_inverse(seed: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert (to_pixels(to_tensor(pixels)) == pixels).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.25, 4))
def test_a_crop_is_inside_and_central(width: int, height: int, aspect: float) -> None:
    left, top, right, bottom = crop_box(width, height, aspect)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    assert right - left >= width - 1 or bottom - top >= height - 1


def profile(name: str) -> bytes:
    """Make an ICC profile of linear light in which red is sRGB's green and the other way round."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    told = name.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(told)) + told + bytes(12 + 67),
        b"rXYZ": b"XYZ " + bytes(4) + fixed(0.3851, 0.7169, 0.0971),
        b"gXYZ": b"XYZ " + bytes(4) + fixed(0.4361, 0.2225, 0.0139),
        b"bXYZ": b"XYZ " + bytes(4) + fixed(0.1431, 0.0606, 0.7141),
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), b"curv" + bytes(8)),
    }
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = struct.pack(">I", start + len(body))
    head = size + bytes(4) + b"\x02\x10\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + fixed(0.9642, 1.0, 0.8249)
    return head + bytes(128 - len(head)) + table + body


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_converted_by_their_profile(mode: str, tmp_path: Path) -> None:
    picture = Image.new(mode, (4, 4), (255, 0, 0) if mode == "RGB" else (255, 0, 0, 255))
    picture.save(tmp_path / "a.png", icc_profile=profile("swapped"))
    assert np.abs(load_image(tmp_path / "a.png").rgb.astype(int) - (0, 255, 0)).max() <= 2
    facts, (found,) = inspect_picture(tmp_path / "a.png", 4)
    assert facts is not None
    assert (found.kind, found.found) == ("colour-mode", "colours by the profile 'swapped'")


@pytest.mark.parametrize("icc", [b"no profile at all", profile("sRGB of somebody"), b""])
def test_colours_stay_where_a_profile_says_nothing_else(icc: bytes, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (200, 10, 20)).save(tmp_path / "a.png", icc_profile=icc)
    assert (load_image(tmp_path / "a.png").rgb == (200, 10, 20)).all()


def test_what_is_see_through_stays_so_where_colours_are_converted(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    picture.putpixel((0, 0), (0, 0, 255))
    picture.save(tmp_path / "a.png", icc_profile=profile("swapped"), transparency=(0, 0, 255))
    read = load_image(tmp_path / "a.png")
    assert read.alpha is not None and (read.alpha == 0).sum() == 1
    assert tuple(read.rgb[0, 0]) == (255, 255, 255) and read.rgb[1, 1, 1] > 250 > 5 > read.rgb[1, 1, 0]
