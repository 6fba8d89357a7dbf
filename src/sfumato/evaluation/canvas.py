"""Shapes that can be shown twice: as SVG inside a page, and as pixels on a sheet; one layout, no plotting library."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFont

from sfumato.data.images import png_bytes

Picture = UInt8[np.ndarray, "H W 3"]
Number = float | int
Point = tuple[Number, Number]
Anchor = Literal["start", "middle", "end"]

_SCALE = 2
_PIL_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


class Canvas:
    """Collects shapes; sizes and places are in pixels from the top left.

    Args:
        width: Width of the drawing.
        height: Height of the drawing.
    """

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._svg: list[str] = []
        self._paint: list[Callable[[Image.Image], None]] = []

    def rect(self, left: Number, top: Number, width: Number, height: Number, colour: str) -> None:
        """Fill a box."""
        self.area([(left, top), (left + width, top), (left + width, top + height), (left, top + height)], colour)

    def area(self, points: Sequence[Point], colour: str, opacity: Number = 1.0) -> None:
        """Fill the inside of a closed line."""
        self._svg.append(f'<polygon points="{_joined(points)}" fill="{colour}" fill-opacity="{opacity:g}"/>')

        def paint(sheet: Image.Image) -> None:
            layer = Image.new("L", sheet.size)
            ImageDraw.Draw(layer).polygon(_scaled(points), fill=round(255 * opacity))
            sheet.paste(Image.new("RGB", sheet.size, colour), mask=layer)

        self._paint.append(paint)

    def line(self, points: Sequence[Point], colour: str, width: Number = 1, *, dashed: bool = False) -> None:
        """Draw a line through points."""
        dashes = ' stroke-dasharray="4 3"' if dashed else ""
        self._svg.append(
            f'<polyline points="{_joined(points)}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes}/>'
        )
        parts = _dashes(points) if dashed else [list(points)]

        def paint(sheet: Image.Image) -> None:
            draw = ImageDraw.Draw(sheet)
            for part in parts:
                draw.line(_scaled(part), fill=colour, width=round(width * _SCALE), joint="curve")

        self._paint.append(paint)

    def dot(self, at: Point, radius: Number, colour: str) -> None:
        """Draw a filled circle."""
        x, y = at
        self._svg.append(f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius:g}" fill="{colour}"/>')
        box = _scaled([(x - radius, y - radius), (x + radius, y + radius)])
        self._paint.append(lambda sheet: ImageDraw.Draw(sheet).ellipse(box, fill=colour))

    def text(self, at: Point, text: str, size: Number = 11, colour: str = "#28282c", anchor: Anchor = "start") -> None:
        """Write one line; `at` is on its base line."""
        x, y = at
        self._svg.append(
            f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}">'
            f"{escape(text)}</text>"
        )
        font = ImageFont.load_default(size * _SCALE)
        place = (x * _SCALE, y * _SCALE)
        self._paint.append(
            lambda sheet: ImageDraw.Draw(sheet).text(place, text, colour, font, anchor=_PIL_ANCHORS[anchor])
        )

    def picture(self, left: Number, top: Number, side: Number, pixels: Picture) -> None:
        """Place a square picture."""
        image = Image.fromarray(pixels)
        data = base64.b64encode(png_bytes(image)).decode()
        self._svg.append(
            f'<image x="{left:.2f}" y="{top:.2f}" width="{side:g}" height="{side:g}" '
            f'href="data:image/png;base64,{data}"/>'
        )
        size = (round(side * _SCALE), round(side * _SCALE))
        place = (round(left * _SCALE), round(top * _SCALE))
        self._paint.append(lambda sheet: sheet.paste(image.resize(size, Image.Resampling.LANCZOS), place))

    def svg(self) -> str:
        """Return the shapes as an SVG element."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'font-family="system-ui, sans-serif">{"".join(self._svg)}</svg>'
        )

    def png(self, ground: str = "#faf9f6") -> bytes:
        """Return the shapes as a PNG, at twice the size."""
        sheet = Image.new("RGB", (self.width * _SCALE, self.height * _SCALE), ImageColor.getrgb(ground))
        for paint in self._paint:
            paint(sheet)
        return png_bytes(sheet)


def _joined(points: Sequence[Point]) -> str:
    """Write points for SVG."""
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _scaled(points: Sequence[Point]) -> list[Point]:
    """Return points in pixels of the sheet."""
    return [(x * _SCALE, y * _SCALE) for x, y in points]


def _dashes(points: Sequence[Point], dash: Number = 4, gap: Number = 3) -> list[list[Point]]:
    """Cut straight lines into dashes."""
    parts: list[list[Point]] = []
    for (x, y), (u, v) in pairwise(points):
        length = max(1e-9, float(np.hypot(u - x, v - y)))
        for start in np.arange(0, length, dash + gap).tolist():
            a, b = start / length, min(1.0, (start + dash) / length)
            parts.append([(x + a * (u - x), y + a * (v - y)), (x + b * (u - x), y + b * (v - y))])
    return parts
