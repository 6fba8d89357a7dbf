"""Folders with one thing wrong each, what the doctor says of it, and sharp pictures that differ from one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

SIDE = 64


def photo(seed: int, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Draw a picture with large areas and sharp edges; another seed gives another picture."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    grain = rng.integers(-25, 26, (height, width, 1), dtype=np.int16)
    return Image.fromarray((large + grain).clip(0, 255).astype(np.uint8))


def good_folder(folder: Path, count: int = 4, suffix: str = ".png") -> Path:
    """Write pictures 0, 1, 2 … without captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        photo(number).save(folder / f"{number}{suffix}")
    return folder


def masks(folder: Path, *numbers: int) -> None:
    """Write masks of some pictures of a good folder: their left halves."""
    for number in numbers:
        mask = Image.new("L", (SIDE, SIDE))
        mask.paste(255, (0, 0, SIDE // 2, SIDE))
        mask.save(folder / f"{number}.mask.png")


@dataclass(frozen=True)
class Broken:
    """A folder with one thing wrong.

    Attributes:
        kind: The finding.
        severity: How grave it is.
        where: The file it names, below the folder.
        found: A part of what it says.
        build: Breaks a good folder of four pictures.
    """

    kind: str
    severity: str
    where: str
    found: str
    build: Callable[[Path], object]


def _captions(folder: Path, *texts: str) -> None:
    for number, text in enumerate(texts):
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")


def _two_captions(folder: Path) -> None:
    (folder / "0.TXT").write_text("a fox")
    (folder / "0.caption").write_text("a dog")


def _cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def _cut_as(folder: Path, suffix: str) -> None:
    photo(9).save(folder / f"cut{suffix}")
    _cut(folder / f"cut{suffix}", 0.5)


def _damaged(folder: Path) -> None:
    photo(9).save(folder / "x.png")
    data = bytearray((folder / "x.png").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    (folder / "x.png").write_bytes(data)


def _turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(9).save(folder / "x.jpg", exif=exif, quality=95)


def _see_through(folder: Path) -> None:
    alpha = np.full((SIDE, SIDE), 255, dtype=np.uint8)
    alpha[: SIDE // 4] = 0
    picture = photo(9)
    picture.putalpha(Image.fromarray(alpha))
    picture.save(folder / "x.png")


def _animated(folder: Path) -> None:
    photo(9).save(folder / "x.webp", save_all=True, append_images=[photo(10), photo(11)], lossless=True)


def _sixteen_bits(folder: Path) -> None:
    grey = np.asarray(photo(9).convert("L"), dtype=np.uint16) * 257
    Image.fromarray(grey).save(folder / "x.png")


def _near(folder: Path) -> None:
    photo(0).resize((96, 96), Image.Resampling.LANCZOS).save(folder / "x.jpg", quality=80)


def _solid_where(folder: Path, *solid: tuple[int, int, int, int]) -> None:
    """Give the pictures of a good folder an alpha channel that is solid in a box."""
    for number, box in enumerate(solid):
        alpha = Image.new("L", (SIDE, SIDE))
        alpha.paste(255, box)
        picture = photo(number)
        picture.putalpha(alpha)
        picture.save(folder / f"{number}.png")


def _wide_and_see_through(folder: Path) -> None:
    """Add a wide picture that is solid at its left edge alone."""
    alpha = Image.new("L", (SIDE * 3 // 2, SIDE))
    alpha.paste(255, (0, 0, SIDE // 4, SIDE))
    picture = photo(9, SIDE * 3 // 2)
    picture.putalpha(alpha)
    picture.save(folder / "x.png")


def _labels(folder: Path) -> None:
    """Write a mask of 0 and 1."""
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(1, (0, 0, SIDE // 2, SIDE))
    mask.save(folder / "0.mask.png")


def _outside(folder: Path) -> None:
    photo(9, SIDE * 3 // 2).save(folder / "x.png")
    mask = Image.new("L", (SIDE * 3 // 2, SIDE))
    mask.paste(255, (0, 0, SIDE // 4, SIDE))
    mask.save(folder / "x.mask.png")


def _lines(*lines: object) -> Callable[[Path], object]:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    return lambda folder: (folder / "metadata.jsonl").write_text(text + "\n", encoding="utf-8")


def _numbered(name: str) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        good_folder(folder / "3_fox")
        photo(9).save(good_folder(folder / name, 0) / "x.png")

    return build


def _with_folder(name: str, count: int) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        for number in range(count):
            photo(9 + number).save(good_folder(folder / name, 0) / f"{number}.png")

    return build


def _emptied(*texts: str) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for name in texts:
            (folder / name).write_text("no picture")

    return build


BROKEN = (
    Broken("undecodable", "error", "x.png", "0 bytes", lambda f: (f / "x.png").write_bytes(b"")),
    Broken("undecodable", "error", "x.png", "of PNG: ", _damaged),
    Broken("truncated", "error", "cut.jpg", "the end of the JPEG is missing: ", lambda f: _cut_as(f, ".jpg")),
    Broken("truncated", "error", "cut.png", "the end of the PNG is missing: ", lambda f: _cut_as(f, ".png")),
    Broken("truncated", "error", "cut.webp", "the end of the WEBP is missing: ", lambda f: _cut_as(f, ".webp")),
    Broken("truncated", "error", "cut.bmp", "the end of the BMP is missing: ", lambda f: _cut_as(f, ".bmp")),
    Broken("truncated", "error", "cut.jfif", "the end of the JPEG is missing: ", lambda f: _cut_as(f, ".jfif")),
    Broken("unread-format", "warning", "y", "ends in '' and is JPEG", lambda f: photo(9).save(f / "y", "JPEG")),
    Broken(
        "unread-format", "warning", "y.dng", "ends in '.dng' and is TIFF", lambda f: photo(9).save(f / "y.dng", "TIFF")
    ),
    Broken(
        "link-to-nothing",
        "error",
        "x.png",
        "it leads to '/nowhere/x.png', which is not there",
        lambda f: (f / "x.png").symlink_to("/nowhere/x.png"),
    ),
    Broken(
        "mask-named", "warning", "0.mask.jpg", "a mask ends in .mask.png", lambda f: photo(9).save(f / "0.mask.jpg")
    ),
    Broken("mask-unusable", "warning", "0.mask.png", "nowhere white (its highest value is 1 of 255)", _labels),
    Broken(
        "alpha-missing",
        "warning",
        "1.png",
        "3 of 4 have none, 1 are see-through",
        lambda f: _solid_where(f, (0, 0, 32, SIDE)),
    ),
    Broken(
        "alpha-outside", "warning", "x.png", "nothing solid in the middle 64 × 64 of 96 × 64", _wide_and_see_through
    ),
    Broken(
        "metadata-unread",
        "warning",
        "Metadata.jsonl",
        "it would have to be called 'metadata.jsonl'",
        lambda f: (f / "Metadata.jsonl").write_text("{}"),
    ),
    Broken(
        "metadata-missing-file",
        "error",
        "metadata.csv",
        "line 3: 'gone.png' does not exist",
        lambda f: (f / "metadata.csv").write_text("file_name,text\n0.png,a fox\ngone.png,a fox\n"),
    ),
    Broken(
        "not-a-picture",
        "error",
        "x.jpg",
        "ends in .jpg, but its 29 bytes are HTML",
        lambda f: (f / "x.jpg").write_text("<!DOCTYPE html><html>no</html"),
    ),
    Broken(
        "not-a-picture",
        "error",
        "x.png",
        "ends in .png, but its 5 bytes begin with b'hello'",
        lambda f: (f / "x.png").write_text("hello"),
    ),
    Broken(
        "not-a-picture",
        "error",
        "x.png",
        "ends in .png, but its ",
        lambda f: photo(9).save(f / "x.png", format="GIF"),
    ),
    Broken(
        "wrong-extension",
        "warning",
        "x.jpg",
        "ends in .jpg and is PNG",
        lambda f: photo(9).save(f / "x.jpg", format="PNG"),
    ),
    Broken("unread-format", "warning", "x.gif", "ends in .gif", lambda f: photo(9).save(f / "x.gif")),
    Broken("orientation", "note", "x.jpg", "EXIF orientation 6: to be turned by 90° clockwise", _turned),
    Broken("transparent", "warning", "x.png", "25.0 % of its pixels", _see_through),
    Broken(
        "small",
        "warning",
        "x.png",
        "40 × 20 pixels, enlarged 3.2 times to 64 × 64",
        lambda f: photo(9, 40, 20).save(f / "x.png"),
    ),
    Broken(
        "aspect",
        "warning",
        "x.png",
        "256 × 64 pixels: the middle square loses 75 %",
        lambda f: photo(9, 256, 64).save(f / "x.png"),
    ),
    Broken("duplicate", "warning", "x.png", "the same pixels as '0.png'", lambda f: photo(0).save(f / "x.png")),
    Broken("duplicate", "warning", "x.bmp", "the same pixels as '0.png'", lambda f: photo(0).save(f / "x.bmp")),
    Broken("near-duplicate", "warning", "x.jpg", "like '0.png': ", _near),
    Broken(
        "blurred",
        "warning",
        "x.png",
        "sharpness ",
        lambda f: photo(9).filter(ImageFilter.GaussianBlur(4)).save(f / "x.png"),
    ),
    Broken("animated", "warning", "x.webp", "3 frames", _animated),
    Broken(
        "colour-mode",
        "note",
        "x.jpg",
        "colours for printing (mode CMYK)",
        lambda f: photo(9).convert("CMYK").save(f / "x.jpg", quality=95),
    ),
    Broken("colour-mode", "note", "x.png", "16-bit grey (mode I;16)", _sixteen_bits),
    Broken("colour-mode", "note", "x.png", "a palette (mode P)", lambda f: photo(9).convert("P").save(f / "x.png")),
    Broken(
        "caption-missing",
        "warning",
        "3.png",
        "3 of 4 pictures have a caption",
        lambda f: _captions(f, "a fox", "my fox", "one fox"),
    ),
    Broken("caption-orphan", "warning", "y.txt", "no picture is named 'y'", lambda f: (f / "y.txt").write_text("a")),
    Broken(
        "caption-orphan",
        "warning",
        "y.CAPTION",
        "no picture is named 'y'",
        lambda f: (f / "y.CAPTION").write_text("a"),
    ),
    Broken("caption-empty", "warning", "0.txt", "2 bytes, no word", lambda f: (f / "0.txt").write_bytes(b" \n")),
    Broken(
        "caption-encoding",
        "error",
        "0.txt",
        "Windows-1252, it seems: 'a café'",
        lambda f: (f / "0.txt").write_bytes("a café".encode("cp1252")),
    ),
    Broken(
        "caption-encoding",
        "error",
        "0.txt",
        "UTF-16, it seems: 'a fox'",
        lambda f: (f / "0.txt").write_bytes("a fox".encode("utf-16")),
    ),
    Broken(
        "caption-encoding",
        "error",
        "0.txt",
        "UTF-16, it seems: 'a fox'",
        lambda f: (f / "0.txt").write_bytes("a fox".encode("utf-16-be")),
    ),
    Broken(
        "mask-orphan",
        "warning",
        "y.mask.png",
        "no picture is named 'y'",
        lambda f: photo(9).save(f / "y.mask.png"),
    ),
    Broken(
        "mask-unusable",
        "warning",
        "1.mask.png",
        "64 × 32 pixels, its picture 64 × 64",
        lambda f: photo(9, SIDE, SIDE // 2).save(f / "1.mask.png"),
    ),
    Broken(
        "mask-unusable",
        "warning",
        "2-masklabel.png",
        "black everywhere, nothing would be learned",
        lambda f: Image.new("L", (SIDE, SIDE)).save(f / "2-masklabel.png"),
    ),
    Broken(
        "mask-unusable",
        "warning",
        "0.mask.png",
        "not a readable picture: its 10 bytes",
        lambda f: (f / "0.mask.png").write_bytes(b"no picture"),
    ),
    Broken("mask-outside", "warning", "x.mask.png", "nothing white in the middle 64 × 64 of 96 × 64 pixels", _outside),
    Broken("mask-missing", "warning", "3.png", "3 of 4 pictures have one", lambda f: masks(f, 0, 1, 2)),
    Broken("caption-differs", "error", "0.png", "0.TXT 'a fox', 0.caption 'a dog'", _two_captions),
    Broken(
        "caption-placeholder",
        "warning",
        "2.png",
        "'<fox>' stands in 3 of 4, not in 'a dog'",
        lambda f: _captions(f, "a <fox>", "my <fox>", "a dog", "<fox>"),
    ),
    Broken(
        "caption-repeated",
        "note",
        "0.png",
        "2 of 4 captions are 'a fox'",
        lambda f: _captions(f, "a fox", "my fox", "a  fox", "one fox"),
    ),
    Broken(
        "caption-long",
        "error",
        "0.png",
        "42 tokens with start and end, the limit is 32; this would be cut: '1 1 1 1 1 1 1 1 1 1'",
        lambda f: _captions(f, "1 " * 40, "a", "b", "c"),  # one token a digit, whatever the base
    ),
    Broken(
        "caption-room",
        "warning",
        "0.png",
        "32 tokens with start and end, the limit is 32: 0 left, up to 2 needed for a class noun behind '<fox>'",
        lambda f: _captions(f, "<fox>" + " 1" * 29, "a", "b", "c"),
    ),
    Broken(
        "caption-lines",
        "warning",
        "1.txt",
        "2 lines, read as 'a fox my fox'",
        lambda f: _captions(f, "one fox", "a fox\n\nmy fox\n", "b", "c"),
    ),
    Broken("bad-repeats", "error", "x_dog", "'x_dog' has no number of repeats in front", _numbered("x_dog")),
    Broken(
        "bad-repeats",
        "error",
        "0_dog",
        "'0_dog' has 0 repeats, not 1 to 1000, and holds 1 picture",
        _numbered("0_dog"),
    ),
    Broken("bad-repeats", "error", "2024_dog", "'2024_dog' has 2024 repeats, not 1 to 1000,", _numbered("2024_dog")),
    Broken("bad-repeats", "error", "dog", "'dog' has no number of repeats in front", _numbered("dog")),
    Broken(
        "several-subjects",
        "error",
        "",
        "no noun stands in each of '10_ohwx man', '3_fox'",
        _numbered("10_ohwx man"),
    ),
    Broken("unread-folder", "warning", "old", "2 pictures", _with_folder("old", 2)),
    Broken("mixed-folders", "warning", "", "4 beside '2_fox'", _with_folder("2_fox", 1)),
    Broken("metadata-json", "error", "metadata.jsonl", "line 1: ", _lines('{"file_name": "0.png"')),
    Broken("metadata-json", "error", "metadata.jsonl", "line 2 holds a list, not an object", _lines("", "[1]")),
    Broken(
        "metadata-entry",
        "error",
        "metadata.jsonl",
        "line 1: 'text' is missing ('caption' given)",
        _lines({"file_name": "0.png", "caption": "a fox"}),
    ),
    Broken(
        "metadata-entry",
        "error",
        "metadata.jsonl",
        "line 1: 'file_name' is missing, 'text' is 3, not a text",
        _lines({"text": 3}),
    ),
    Broken(
        "metadata-entry",
        "error",
        "metadata.jsonl",
        "line 2: '0.png' has an entry already",
        _lines({"file_name": "0.png", "text": "a"}, {"file_name": "0.png", "text": "b"}),
    ),
    Broken(
        "metadata-entry",
        "error",
        "metadata.jsonl",
        "line 1: '../0.png' may lead out of the folder",
        _lines({"file_name": "../0.png", "text": "a"}),
    ),
    Broken(
        "metadata-entry",
        "error",
        "metadata.jsonl",
        "line 1: half a letter",
        _lines({"file_name": "0.png", "text": "a \ud800"}),
    ),
    Broken(
        "metadata-missing-file",
        "error",
        "metadata.jsonl",
        "line 1: 'gone.png' does not exist",
        _lines({"file_name": "gone.png", "text": "a"}),
    ),
    Broken(
        "metadata-missing-file",
        "error",
        "metadata.jsonl",
        "line 1: 'metadata.jsonl' is no picture that is read",
        _lines({"file_name": "metadata.jsonl", "text": "a"}),
    ),
    Broken(
        "metadata-missing-file",
        "error",
        "metadata.jsonl",
        f"line 1: '{'x' * 60}…' cannot be opened: File name too long (304 letters)",
        _lines({"file_name": f"{'x' * 300}.png", "text": "a"}),
    ),
    Broken(
        "metadata-json",
        "error",
        "metadata.jsonl",
        f"line 2: nested too deeply: {'[' * 60}",
        _lines({"file_name": "0.png", "text": "a"}, "[" * 100_000),
    ),
    Broken(
        "metadata-unknown-key",
        "warning",
        "metadata.jsonl",
        "'txet' in 1 line, 'tags' in 2 lines",
        _lines(
            {"file_name": "0.png", "text": "a", "txet": "b", "tags": []},
            {"file_name": "1.png", "text": "b", "tags": []},
        ),
    ),
    Broken(
        "metadata-encoding",
        "error",
        "metadata.jsonl",
        "byte 3 is no UTF-8",
        lambda f: (f / "metadata.jsonl").write_bytes(b'{"a\xe9": 1}'),
    ),
    Broken("empty-folder", "error", "", "0 files", _emptied()),
    Broken("no-pictures", "error", "", "2 other files: 'a.md', 'b.md'", _emptied("b.md", "a.md")),
    Broken("no-pictures", "error", "", "4 other files: 'a', 'b', 'c' and 1 more", _emptied("a", "b", "c", "d")),
)
