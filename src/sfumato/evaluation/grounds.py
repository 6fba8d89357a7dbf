"""The plain ground of a picture: its colour, what stands on it, and the same thing on white."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from sfumato.data.backgrounds import nearest_colour

Picture = UInt8[np.ndarray, "H W 3"]
Mask = Bool[np.ndarray, "H W"]

_BORDER = 4
_SAME, _OTHER = 8.0, 48.0
_STANDS_OUT = 40
_FILLED = 0.86


def ground_rgb(picture: Picture) -> tuple[float, float, float]:
    """Return the colour of the ground: the median of a border 4 pixels wide, channel by channel.

    Why: a thing may touch the border, as portraits do, but rarely covers half of it.
    """
    red, green, blue = np.median(border(picture), axis=0).tolist()
    return red, green, blue


def border(picture: Picture) -> UInt8[np.ndarray, "n 3"]:
    """Return the pixels of the border, 4 pixels wide."""
    edge = np.ones(picture.shape[:2], dtype=np.bool_)
    edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    return np.asarray(picture[edge])


def ground_name(picture: Picture) -> str:
    """Name the colour of the ground."""
    return nearest_colour(ground_rgb(picture))


def on_white(picture: Picture) -> Picture:
    """Paint the ground white, with soft edges.

    Why: what a picture shows is judged apart from the colour behind it. Real icons of another style are found as often
    on coloured grounds as on white ones when both are looked at like this.
    """
    distance = _distance(picture)[..., None]
    seen = np.clip((distance - _SAME) / (_OTHER - _SAME), 0, 1)
    return np.asarray(np.rint(seen * picture + (1 - seen) * 255), dtype=np.uint8)


def foreground(picture: Picture) -> Mask:
    """Find the pixels that differ from the ground, without single specks."""
    differs = _distance(picture) > _STANDS_OUT
    padded = np.pad(differs.astype(np.uint8), 1)
    height, width = differs.shape
    around = sum(padded[y : y + height, x : x + width] for y in range(3) for x in range(3))
    return np.asarray(differs & (np.asarray(around) >= 4), dtype=np.bool_)


def cut_out(picture: Picture, mask: Mask) -> Picture:
    """Cut the box around some pixels, enlarge it to fill most of the picture and put it on white.

    Args:
        picture: The picture.
        mask: Its pixels to show; at least one.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    region = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    white = on_white(picture)
    white[~mask] = 255
    part = Image.fromarray(white[region])
    side = max(picture.shape[:2])
    factor = _FILLED * side / max(part.size)
    size = (max(1, round(part.width * factor)), max(1, round(part.height * factor)))
    sheet = Image.new("RGB", (side, side), (255, 255, 255))
    sheet.paste(part.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(sheet)


def _distance(picture: Picture) -> np.ndarray:
    """Return how far each pixel is from the ground, as the largest difference of a channel."""
    return np.asarray(np.abs(picture.astype(np.float32) - np.array(ground_rgb(picture), np.float32)).max(axis=2))
