"""Look at one picture file: what it is, what is wrong with it, what would be learned from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfumato.data.findings import finding
from sfumato.data.fingerprint import Fingerprint, fingerprint, sharpness
from sfumato.data.images import (
    FORMATS,
    MAX_PIXELS,
    SCALE_DOWN,
    colour_profile,
    explained,
    load_image,
    orientation,
    resize,
)
from sfumato.data.variants import misses_middle
from sfumato.errors import UnreadableImage
from sfumato.events import Finding

WIDEST = 2.0
"""Longer side divided by the shorter one from which a centre crop loses more than half."""

_FORMAT_OF = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
_SAME_AS = {"MPO": "JPEG", "DIB": "BMP"}
_TURNS = {
    2: "mirrored",
    3: "by 180°",
    4: "upside down and mirrored",
    5: "by 90° and mirrored",
    6: "by 90° clockwise",
    7: "by 90° and mirrored",
    8: "by 90° anticlockwise",
}
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (8, b"WEBP", "WEBP"),
    (0, b"BM", "BMP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftyp", "MP4 or MOV"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "PSD"),
    (0, b"PK\x03\x04", "ZIP"),
    (0, b"<!doctype", "HTML"),
    (0, b"<html", "HTML"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML"),
)


@dataclass(frozen=True)
class Facts:
    """What was measured on a picture, upright and on white.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        digest: SHA-256 of size, pixels and what is see-through: the same for the same picture in another encoding
            without loss.
        fingerprint: For finding pictures that are nearly the same.
        sharpness: Highest variance of the Laplacian of a colour, middle square, at the size that is learned.
        is_see_through: Whether a part of it is not solid.
        has_alpha: Whether the file says how solid each pixel is, even if all are.
        is_outside: Whether something is see-through, and nothing solid is in the middle square.
    """

    width: int
    height: int
    digest: str
    fingerprint: Fingerprint
    sharpness: float
    is_see_through: bool
    has_alpha: bool
    is_outside: bool


def inspect_picture(path: Path, size: int) -> tuple[Facts | None, list[Finding]]:
    """Read a picture and say everything that can be said without knowing the others.

    Args:
        path: The file.
        size: Side in pixels of the square that would be learned.

    Returns:
        Its facts, None where it cannot be read, and what was found.
    """
    try:
        picture = load_image(path)
        found = _header(path)
    except UnreadableImage as error:
        return None, [_unreadable(path, error)]
    height, width = picture.rgb.shape[:2]
    digest = hashlib.sha256(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(picture.rgb).data)  # tobytes would copy it
    alpha = picture.alpha
    is_see_through = alpha is not None and bool(alpha.min() < 255)
    if alpha is not None and is_see_through:
        found.append(finding("transparent", path, f"{100 * (alpha < 255).mean():.1f} % of its pixels"))
        digest.update(alpha.tobytes())
    found += _proportions(path, width, height, size)
    square: UInt8[np.ndarray, "size size 3"] = resize(picture.rgb, size)
    fingers, sharp = fingerprint(picture.rgb), sharpness(square)
    is_outside = alpha is not None and is_see_through and misses_middle(alpha, size)
    facts = Facts(width, height, digest.hexdigest(), fingers, sharp, is_see_through, alpha is not None, is_outside)
    return facts, found


def name_content(head: bytes) -> str | None:
    """Name the kind of a file from its first bytes, or return None."""
    start = head.lstrip()[:16].lower()
    for offset, signature, name in _SIGNATURES:
        is_text = signature[:1] == b"<"
        if (start if is_text else head[offset:]).startswith(signature):
            return name
    return None


def _header(path: Path) -> list[Finding]:
    """Say what the header tells: kind, orientation, number of frames, colours."""
    found: list[Finding] = []
    with explained(path), Image.open(path, formats=FORMATS) as opened:
        kind = _SAME_AS.get(str(opened.format), str(opened.format))
        if kind != _FORMAT_OF.get(path.suffix.lower()):
            found.append(finding("wrong-extension", path, f"ends in {path.suffix} and is {kind}"))
        number = orientation(opened)
        if number in _TURNS:
            found.append(finding("orientation", path, f"EXIF orientation {number}: to be turned {_TURNS[number]}"))
        frames = getattr(opened, "n_frames", 1)
        if frames > 1 and opened.format != "MPO":
            found.append(finding("animated", path, f"{frames} frames"))
        mode = _mode_in_words(opened.mode) or ("16 bits a channel" if has_16_bits(path) else "")
        profile = colour_profile(opened)
        said = [mode, "" if profile is None else f"colours by the profile '{profile}'"]
        if any(said):
            found.append(finding("colour-mode", path, ", ".join(filter(None, said))))
    return found


def has_16_bits(path: Path) -> bool:
    """Say whether a PNG has 16 bits a channel, which Pillow rounds to 8 without a word."""
    with path.open("rb") as file:
        head = file.read(25)
    return name_content(head) == "PNG" and head[24:] == b"\x10"


def _mode_in_words(mode: str) -> str:
    """Name a colour mode that loses something on the way to RGB; empty for the others."""
    if mode.startswith("I"):
        return f"16-bit grey (mode {mode})"
    names = {"CMYK": "colours for printing", "P": "a palette", "PA": "a palette", "1": "black and white only"}
    return f"{names[mode]} (mode {mode})" if mode in names else ""


def _proportions(path: Path, width: int, height: int, size: int) -> list[Finding]:
    """Compare width and height with the square that would be learned."""
    short, long = sorted((width, height))
    given = f"{width} × {height} pixels"
    found: list[Finding] = []
    if short < size:
        found.append(finding("small", path, f"{given}, enlarged {size / short:.1f} times to {size} × {size}"))
    if long > WIDEST * short:
        lost = 100 - 100 * short / long
        found.append(finding("aspect", path, f"{given}: the middle square loses {lost:.0f} %"))
    return found


def _unreadable(path: Path, error: UnreadableImage) -> Finding:
    """Tell apart why a picture cannot be read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
            file.seek(max(0, size - 4096))
            tail = file.read()
    except OSError as problem:
        return finding("unopened", path, problem.strerror or str(problem))
    kind = name_content(head)
    reason = error.message.removeprefix(f"{path} ").removeprefix("is not a readable picture: ").rstrip(".")
    if size == 0:
        return finding("undecodable", path, "0 bytes")
    if error.hint == SCALE_DOWN:
        return finding("too-many-pixels", path, f"{reason} (limit {MAX_PIXELS:,})")
    if kind not in FORMATS:
        what = f"are {kind}" if kind else f"begin with {head[:12]!r}"
        return finding("not-a-picture", path, f"ends in {path.suffix}, but its {size:,} bytes {what}")
    if _is_cut_short(kind, head, tail, size) or "truncat" in reason.lower():
        return finding("truncated", path, f"{size:,} bytes, the end of the {kind} is missing: {reason}")
    return finding("undecodable", path, f"{size:,} bytes of {kind}: {reason}")


def _is_cut_short(kind: str | None, head: bytes, tail: bytes, size: int) -> bool:
    """Say whether a file that cannot be read lacks what its format ends with."""
    match kind:
        case "PNG":
            return b"IEND" not in tail
        case "JPEG":
            return b"\xff\xd9" not in tail
        case "WEBP":
            return size < 8 + int.from_bytes(head[4:8], "little")
        case "BMP":
            return size < int.from_bytes(head[2:6], "little")
        case _:
            return False
