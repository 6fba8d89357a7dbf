"""Charts on a canvas: a curve over steps with its interval and bound, a plane with the front, and rows side by side."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sfumato.evaluation.canvas import Canvas, Number, Point

INK, FAINT, LINE, CHOSEN, BOUND = "#28282c", "#8c8c90", "#2f6db3", "#c2410c", "#a3262a"
Box = tuple[Number, Number, Number, Number]

_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 12, 30, 34


@dataclass(frozen=True)
class Curve:
    """Values over the saved steps.

    Attributes:
        title: What is shown.
        steps: The steps, ascending.
        values: One value each.
        intervals: Low and high end of each.
        bound: What must be kept; None for no bound.
        is_floor: Whether values must lie above the bound.
    """

    title: str
    steps: Sequence[int]
    values: Sequence[Number]
    intervals: Sequence[tuple[Number, Number]]
    bound: Number | None = None
    is_floor: bool = False


@dataclass(frozen=True)
class Rows:
    """Values of rows of a table, side by side.

    Attributes:
        title: What is shown.
        names: Name of each row.
        values: One value each.
        intervals: Low and high end of each.
        marks: Values to compare with, by name.
    """

    title: str
    names: Sequence[str]
    values: Sequence[Number]
    intervals: Sequence[tuple[Number, Number]]
    marks: Mapping[str, Number]


@dataclass(frozen=True)
class Frame:
    """A box with two scales.

    Attributes:
        box: Left, top, width and height on the canvas.
        x: Least and largest value to the right.
        y: Least and largest value upwards.
    """

    box: Box
    x: tuple[Number, Number]
    y: tuple[Number, Number]

    def at(self, x: Number, y: Number) -> Point:
        """Return where two values lie."""
        left, top, width, height = self.box
        across, up = (x - self.x[0]) / (self.x[1] - self.x[0]), (y - self.y[0]) / (self.y[1] - self.y[0])
        return (
            left + _LEFT + across * (width - _LEFT - _RIGHT),
            top + height - _BOTTOM - up * (height - _TOP - _BOTTOM),
        )


def draw_curve(canvas: Canvas, box: Box, curve: Curve, chosen: int) -> None:
    """Draw a curve with its interval as a band, its bound as a dashed line and the chosen step marked.

    Args:
        canvas: Where.
        box: Left, top, width and height.
        curve: What.
        chosen: The step to mark.
    """
    ends = [end for pair in curve.intervals for end in pair]
    frame = Frame(box, _padded(curve.steps, 0.08), _padded([*ends, *curve.values, 0.0, 1.0, curve.bound or 0.0], 0.05))
    _axes(canvas, frame, curve.title, "step")
    for step in curve.steps:
        x, y = frame.at(step, frame.y[0])
        canvas.text((x, y + 13), str(step), 9, FAINT, "middle")
    if curve.bound is not None:
        canvas.line([frame.at(frame.x[0], curve.bound), frame.at(frame.x[1], curve.bound)], BOUND, 1, dashed=True)
        x, y = frame.at(frame.x[1], curve.bound)
        canvas.text((x, y - 4), f"{'at least' if curve.is_floor else 'at most'} {curve.bound:g}", 9, BOUND, "end")
    lows = [frame.at(step, low) for step, (low, _) in zip(curve.steps, curve.intervals, strict=True)]
    highs = [frame.at(step, high) for step, (_, high) in zip(curve.steps, curve.intervals, strict=True)]
    if len(curve.steps) > 1:
        canvas.area([*lows, *reversed(highs)], LINE, 0.18)
    else:
        canvas.line([lows[0], highs[0]], LINE, 2)
    points = [frame.at(step, value) for step, value in zip(curve.steps, curve.values, strict=True)]
    canvas.line(points, LINE, 1.8)
    for step, point in zip(curve.steps, points, strict=True):
        canvas.dot(point, 4.5 if step == chosen else 2.5, CHOSEN if step == chosen else LINE)


def draw_plane(
    canvas: Canvas,
    box: Box,
    points: Sequence[tuple[int, Number, Number]],
    front: Sequence[int],
    chosen: int,
    names: tuple[str, str, str],
) -> None:
    """Draw the steps in a plane of two measures, those of the front joined.

    Args:
        canvas: Where.
        box: Left, top, width and height.
        points: Step, value to the right, value upwards.
        front: Steps that no other beats.
        chosen: The step to mark.
        names: Title, name of the value to the right and of that upwards.
    """
    frame = Frame(box, _padded([x for _, x, _ in points], 0.18), _padded([y for _, _, y in points], 0.18))
    _axes(canvas, frame, names[0], names[1])
    left, top, *_ = box
    canvas.text((left + _LEFT, top + _TOP - 3), names[2], 9, FAINT)
    for value in ticks(*frame.x):
        x, y = frame.at(value, frame.y[0])
        canvas.text((x, y + 13), f"{value:g}", 9, FAINT, "middle")
    joined = sorted((x, y) for step, x, y in points if step in front)
    canvas.line([frame.at(x, y) for x, y in joined], FAINT, 1.2, dashed=True)
    for step, x, y in points:
        place = frame.at(x, y)
        colour = CHOSEN if step == chosen else LINE if step in front else FAINT
        canvas.dot(place, 4.5 if step == chosen else 3, colour)
        canvas.text((place[0] + 7, place[1] + 3), str(step), 9, colour)


def draw_rows(canvas: Canvas, box: Box, rows: Rows) -> None:
    """Draw a dot for each row with its interval as an upright line, and a dashed line for each value to compare with.

    Why dots: the scale ends at what is shown and not at 0, where bars would have to stand.

    Args:
        canvas: Where.
        box: Left, top, width and height.
        rows: What.
    """
    ends = [end for pair in rows.intervals for end in pair]
    places = range(len(rows.names))
    frame = Frame(box, (-0.5, len(rows.names) - 0.5), _padded([*ends, *rows.values, *rows.marks.values()], 0.08))
    _axes(canvas, frame, rows.title, "")
    for number, (name, value) in enumerate(rows.marks.items()):
        canvas.line([frame.at(frame.x[0], value), frame.at(frame.x[1], value)], FAINT, 1, dashed=True)
        x, y = frame.at(frame.x[number % 2], value)  # left and right in turns: two may lie close together
        canvas.text((x, y - 3), name, 9, FAINT, "end" if number % 2 else "start")
    letters = max(4, int((box[2] - _LEFT - _RIGHT) / len(rows.names) / 5.1))
    for place, name, value, (low, high) in zip(places, rows.names, rows.values, rows.intervals, strict=True):
        canvas.line([frame.at(place, low), frame.at(place, high)], LINE, 2)
        canvas.dot(frame.at(place, value), 3.5, LINE)
        x, y = frame.at(place, frame.y[0])
        for line, text in enumerate(textwrap.wrap(name, letters, max_lines=2, placeholder="…")):
            canvas.text((x, y + 12 + 10 * line), text, 9, INK, "middle")


def ticks(low: Number, high: Number) -> list[float]:
    """Return two to six round numbers between two others: multiples of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(one * power for one in (0.2, 0.5, 1, 2, 5) if (high - low) / (one * power) <= 5)
    first = math.ceil(low / step)
    return [round(number * step, 10) + 0.0 for number in range(first, math.floor(high / step) + 1)]


def _axes(canvas: Canvas, frame: Frame, title: str, below: str) -> None:
    """Draw the frame of a chart."""
    left, top, width, height = frame.box
    canvas.text((left, top + 12), title, 11.5, INK)
    canvas.line([frame.at(frame.x[0], frame.y[0]), frame.at(frame.x[1], frame.y[0])], FAINT, 0.8)
    for value in ticks(*frame.y):
        x, y = frame.at(frame.x[0], value)
        canvas.line([(x, y), frame.at(frame.x[1], value)], "#e2e0da", 0.8)
        canvas.text((x - 4, y + 3), f"{value:g}", 9, FAINT, "end")
    canvas.text((left + _LEFT + (width - _LEFT - _RIGHT) / 2, top + height - 8), below, 9, FAINT, "middle")


def _padded(values: Sequence[Number], share: Number) -> tuple[Number, Number]:
    """Return the range of some values with room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * share or 0.5
    return low - room, high + room
