"""Lay pictures out in labelled rows on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

GROUND, INK = (250, 249, 246), (40, 40, 44)
MARGIN, GAP, LABEL_HEIGHT, TEXT_SIZE = 24, 8, 34, 18


@dataclass(frozen=True)
class Row:
    """One row of the sheet: what is written above it and its pictures."""

    label: str
    pictures: Sequence[Image.Image]


def contact_sheet(rows: Sequence[Row], side: int = 192) -> Image.Image:
    """Draw a sheet of labelled rows.

    Args:
        rows: From top to bottom; every picture is fitted into a square.
        side: Side of a square in pixels.

    Returns:
        The sheet, RGB.
    """
    columns = max((len(row.pictures) for row in rows), default=1)
    width = 2 * MARGIN + columns * side + (columns - 1) * GAP
    height = 2 * MARGIN + len(rows) * (LABEL_HEIGHT + side) + max(0, len(rows) - 1) * GAP
    sheet = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(TEXT_SIZE)
    for number, row in enumerate(rows):
        top = MARGIN + number * (LABEL_HEIGHT + side + GAP)
        draw.text((MARGIN, top + 6), _cut(row.label, draw, font, width - 2 * MARGIN), fill=INK, font=font)
        for column, picture in enumerate(row.pictures):
            fitted = _fit(picture, side)
            left = MARGIN + column * (side + GAP) + (side - fitted.width) // 2
            sheet.paste(fitted, (left, top + LABEL_HEIGHT + (side - fitted.height) // 2))
    return sheet


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Scale a picture so that its longer side fills the square."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _cut(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a label that is wider than the sheet."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
