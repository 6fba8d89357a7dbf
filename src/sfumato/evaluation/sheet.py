"""Generated pictures with their prompts below them, on one sheet for the eye."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sfumato.data.images import png_bytes
from sfumato.evaluation.questions import Answer

_GROUND, _INK = (250, 249, 246), (40, 40, 44)
_SIDE, _MARGIN, _GAP, _LINE, _TEXT = 128, 16, 10, 12, 10
_LINES, _LETTERS = 5, 24


def prompt_sheet(sections: Sequence[tuple[str, Sequence[Answer]]], columns: int = 8) -> bytes:
    """Draw a sheet.

    Args:
        sections: Titles with the pictures that stand below them; one row each.
        columns: Pictures in a row; the rest is left out.

    Returns:
        The bytes of a PNG.
    """
    rows = [(title, answers[:columns]) for title, answers in sections if answers]
    cell = _SIDE + _LINES * _LINE + _GAP
    heading = 2 * _LINE
    width = 2 * _MARGIN + columns * (_SIDE + _GAP) - _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + len(rows) * (cell + heading)), _GROUND)
    draw = ImageDraw.Draw(sheet)
    title_font, font = ImageFont.load_default(_TEXT + 4), ImageFont.load_default(_TEXT)
    top = _MARGIN
    for title, answers in rows:
        draw.text((_MARGIN, top), title, fill=_INK, font=title_font)
        top += heading
        for column, answer in enumerate(answers):
            left = _MARGIN + column * (_SIDE + _GAP)
            sheet.paste(Image.fromarray(answer.picture), (left, top))
            lines = textwrap.wrap(answer.scene.caption, _LETTERS, max_lines=_LINES, placeholder=" …")
            for number, line in enumerate(lines):
                draw.text((left, top + _SIDE + 2 + number * _LINE), line, fill=_INK, font=font)
        top += cell
    return png_bytes(sheet)
