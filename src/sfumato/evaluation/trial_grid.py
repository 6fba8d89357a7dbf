"""One sheet for the eye: what every method drew for the same prompts, beside what was to be drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from sfumato.data.images import png_bytes
from sfumato.evaluation.trial import Picture, Trial, in_turns

_GROUND, _INK, _FAINT = (250, 249, 246), (40, 40, 44), (120, 120, 126)
_MARGIN, _GAP, _LINE, _TEXT, _HEAD = 16, 6, 16, 12, 26


@dataclass(frozen=True)
class GridRow:
    """One row: what stands above it, and one picture a column; `None` leaves a place empty."""

    label: str
    pictures: Sequence[Picture | None]


def trial_rows(
    trials: Sequence[Trial],
    wanted: Mapping[str, Sequence[Picture]],
    learned: Picture,
    methods: Sequence[str],
    rows: int,
) -> list[GridRow]:
    """Choose rows of one subject: one prompt of each kind before a second of any.

    Args:
        trials: Of one subject.
        wanted: For each prompt what stands beside, such as the true picture; nothing leaves the place empty.
        learned: One of the pictures that it was learned from.
        methods: The columns.
        rows: Most rows.

    Returns:
        Rows of a picture to learn from, what stands beside, and the first picture of every method.
    """
    case, by_method = trials[0].case, {trial.method: trial for trial in trials}
    found = []
    for asked in in_turns(case.asked, rows):
        truth = wanted.get(asked.name, ())
        drawn = [by_method[method].drawn[asked.name][0] if method in by_method else None for method in methods]
        label = f"{case.name}: {asked.text.format(case.class_noun)}"
        found.append(GridRow(label, [learned, truth[0] if truth else None, *drawn]))
    return found


def trial_grid(columns: Sequence[str], rows: Sequence[GridRow], side: int = 112) -> bytes:
    """Draw the sheet.

    Args:
        columns: What stands above each column.
        rows: From top to bottom.
        side: Side of a picture in pixels.

    Returns:
        The bytes of a PNG.
    """
    width = 2 * _MARGIN + len(columns) * (side + _GAP) - _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _HEAD + len(rows) * (side + _LINE + _GAP)), _GROUND)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_TEXT)
    for place, title in enumerate(columns):
        text = _cut(title, side // 6)
        draw.text((_MARGIN + place * (side + _GAP), _MARGIN), text, fill=_INK, font=font)
    for number, row in enumerate(rows):
        top = _MARGIN + _HEAD + number * (side + _LINE + _GAP)
        draw.text((_MARGIN, top), _cut(row.label, width // 6), fill=_FAINT, font=font)
        for place, picture in enumerate(row.pictures):
            if picture is not None:
                scaled = Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS)
                sheet.paste(scaled, (_MARGIN + place * (side + _GAP), top + _LINE))
    return png_bytes(sheet)


def _cut(text: str, letters: int) -> str:
    """Shorten a text."""
    return text if len(text) <= letters else text[: letters - 1] + "…"
