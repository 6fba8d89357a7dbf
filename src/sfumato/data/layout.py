"""Where the things of a scene stand: boxes from sizes, places and relations, all in whole pixels."""

from __future__ import annotations

import numpy as np

from sfumato.data.backgrounds import SIZE
from sfumato.data.facts import PLACES, SIZES, Box, PlaceName, Relation, SizeName

MARGIN = 3
PAIR_SIDES: dict[Relation, tuple[tuple[float, float], tuple[float, float]]] = {
    "left of": ((0.38, 0.46), (0.38, 0.46)),
    "right of": ((0.38, 0.46), (0.38, 0.46)),
    "next to": ((0.38, 0.46), (0.38, 0.46)),
    "above": ((0.37, 0.45), (0.37, 0.45)),
    "below": ((0.37, 0.45), (0.37, 0.45)),
    "on top of": ((0.34, 0.42), (0.44, 0.52)),
}
"""Longer sides of the first and the second thing, as shares of the picture."""

_ROOM_FOR_A_PLACE = 0.2 * SIZE
_JITTER = 0.12


def fit(width: int, height: int, side: float) -> tuple[int, int]:
    """Scale a size so that its longer side takes this share of the picture; at least 4 pixels each way."""
    factor = side * SIZE / max(width, height)
    return max(4, round(width * factor)), max(4, round(height * factor))


def between(rng: np.random.Generator, low: float, high: float, spread: float = 1.0) -> float:
    """Draw a number from the middle part of a range.

    Args:
        rng: Where the randomness comes from; one number is taken whatever the spread.
        low: Lower end.
        high: Upper end.
        spread: Part of the range that is used; 0 is its middle.
    """
    return float(low + (high - low) * (0.5 + spread * (rng.random() - 0.5)))


def draw_side(rng: np.random.Generator, size: SizeName, spread: float = 1.0) -> float:
    """Draw the longer side of a thing of this size, as a share of the picture."""
    return between(rng, *SIZES[size], spread)


def size_name(side: float) -> SizeName:
    """Name the size whose range is nearest to this side."""
    return min(SIZES, key=lambda name: max(SIZES[name][0] - side, side - SIZES[name][1], 0.0))


def draw_place(rng: np.random.Generator, width: int, height: int, centered: float) -> PlaceName:
    """Draw a place that a thing of this size has room for.

    Args:
        rng: Where the randomness comes from.
        width: Width of the thing, in pixels.
        height: Height of the thing, in pixels.
        centered: Probability of the middle; a tenth of the rest is anywhere.
    """
    room_x, room_y = (SIZE - 2 * MARGIN - length >= _ROOM_FOR_A_PLACE for length in (width, height))
    fitting: list[PlaceName] = [
        name
        for name, (across, down) in PLACES.items()
        if name != "center" and (room_x or across == 0.5) and (room_y or down == 0.5)
    ]
    if not fitting or rng.random() < centered:
        return "center"
    return "free" if rng.random() < 0.1 else fitting[int(rng.integers(len(fitting)))]


def place_one(rng: np.random.Generator, width: int, height: int, place: PlaceName, spread: float = 1.0) -> Box:
    """Put one thing at a place, moved a little so that no two scenes are alike.

    Args:
        rng: Where the randomness comes from.
        width: Width of the thing, in pixels, at most `SIZE - 2 * MARGIN`.
        height: Height of the thing, in pixels, likewise.
        place: Where it goes; `free` is anywhere.
        spread: How much of the little is used; 0 puts it exactly there.
    """
    jitter = rng.random(2)
    room = np.array([SIZE - 2 * MARGIN - width, SIZE - 2 * MARGIN - height])
    if place == "free":
        share = jitter
    else:
        anchor = np.array(PLACES[place])
        share = np.clip(anchor + (jitter - 0.5) * 2 * _JITTER * spread, 0, 1)
    left, top = (MARGIN + np.round(share * room)).astype(int).tolist()
    return Box(left, top, left + width, top + height)


def place_pair(
    rng: np.random.Generator,
    relation: Relation,
    first: tuple[int, int],
    second: tuple[int, int],
    spread: float = 1.0,
) -> tuple[Box, Box]:
    """Put two things so that the first lies to the second as the relation says.

    Args:
        rng: Where the randomness comes from.
        relation: How the first lies to the second; `next to` leaves open which one is on the left.
        first: Width and height of the first thing, in pixels.
        second: Width and height of the second.
        spread: How much gap, height and middle of the two vary; 0 not at all.

    Returns:
        The boxes of the first and the second; they touch only for `on top of`.
    """
    swapped = relation in ("right of", "below") or (relation == "next to" and rng.random() < 0.5)
    one, other = (second, first) if swapped else (first, second)
    if relation in ("above", "below", "on top of"):
        gap = -_gap(rng, 3, 6, spread) if relation == "on top of" else _gap(rng, 2, 8, spread)
        boxes = tuple(_transpose(box) for box in _row(rng, one[::-1], other[::-1], gap, 5, spread))
    else:
        boxes = _row(rng, one, other, _gap(rng, 2, 10, spread), 8, spread)
    return (boxes[1], boxes[0]) if swapped else (boxes[0], boxes[1])


def _gap(rng: np.random.Generator, low: int, high: int, spread: float) -> int:
    """Draw a distance in whole pixels, both ends included."""
    drawn = int(rng.integers(low, high + 1))
    return round((low + high) / 2 + (drawn - (low + high) / 2) * spread)


def _row(
    rng: np.random.Generator, one: tuple[int, ...], other: tuple[int, ...], gap: int, wobble: int, spread: float
) -> tuple[Box, Box]:
    """Put two things side by side, on about one height, somewhere near the middle."""
    room = SIZE - 2 * MARGIN - one[0] - other[0] - gap
    left = MARGIN + round(room * between(rng, 0.25, 0.75, spread))
    middle = SIZE / 2 + (rng.random() - 0.5) * 0.2 * SIZE * spread
    boxes = []
    for width, height in (one, other):
        top = round(middle + (rng.random() - 0.5) * wobble * spread - height / 2)
        top = min(max(top, MARGIN), SIZE - MARGIN - height)
        boxes.append(Box(left, top, left + width, top + height))
        left += width + gap
    return boxes[0], boxes[1]


def _transpose(box: Box) -> Box:
    """Mirror a box at the diagonal, so that side by side becomes one above the other."""
    return Box(box.top, box.left, box.bottom, box.right)
