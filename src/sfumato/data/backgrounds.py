"""Grounds for scenes: named colours, two-tone, patterns; each is described exactly and painted from its description."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from sfumato.errors import ConfigError

SIZE = 128

COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (18, 18, 20),
    "grey": (138, 140, 144),
    "red": (212, 40, 44),
    "orange": (244, 134, 34),
    "yellow": (252, 216, 62),
    "green": (62, 164, 76),
    "teal": (24, 148, 152),
    "blue": (52, 112, 224),
    "navy": (26, 40, 98),
    "purple": (132, 68, 176),
    "pink": (246, 158, 196),
    "brown": (122, 78, 44),
    "beige": (234, 218, 188),
}
"""The named colours, in sRGB; a shade drawn for a name is always nearer to it than to any other."""

Kind = Literal["plain", "split", "gradient", "stripes", "dots", "checks", "grain"]
KINDS: tuple[Kind, ...] = ("plain", "split", "gradient", "stripes", "dots", "checks", "grain")
Direction = Literal["horizontal", "vertical", "diagonal", "none"]
DIRECTIONS: dict[Kind, tuple[Direction, ...]] = {
    "plain": ("none",),
    "split": ("horizontal", "vertical"),
    "gradient": ("horizontal", "vertical"),
    "stripes": ("horizontal", "vertical", "diagonal"),
    "dots": ("none",),
    "checks": ("none",),
    "grain": ("none",),
}
_SHADE = 9
_Y, _X = np.meshgrid(np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32), indexing="ij")


@dataclass(frozen=True)
class Background:
    """What lies behind the things of a scene.

    Attributes:
        kind: Plain, two-tone (`split`, `gradient`) or patterned (`stripes`, `dots`, `checks`, `grain`).
        colours: Names: one for `plain` and `grain`, two for the others. `split` and `gradient` run from the first, at
            the left or top, to the second; `dots` of the second lie on the first.
        direction: `horizontal` runs from left to right and `vertical` from top to bottom; stripes are named by the way
            the lines point.
        period: Pixels after which a pattern repeats.
        shades: The very colours, one for each name; `None` takes the named colours themselves.
        texture_seed: Decides the grain.
    """

    kind: Kind = "plain"
    colours: tuple[str, ...] = ("white",)
    direction: Direction = "none"
    period: int = 16
    shades: tuple[tuple[int, int, int], ...] | None = None
    texture_seed: int = 0

    def __post_init__(self) -> None:
        needed = 1 if self.kind in ("plain", "grain") else 2
        if self.kind not in KINDS:
            raise ConfigError(f"Background kind '{self.kind}' is not one of {', '.join(KINDS)}.", field="kind")
        unknown = [name for name in self.colours if name not in COLOURS]
        if unknown:
            raise ConfigError(f"Colour '{unknown[0]}' is not one of {', '.join(COLOURS)}.", field="colours")
        if len(self.colours) != needed or len(set(self.colours)) != needed:
            raise ConfigError(
                f"A {self.kind} background has {needed} different colours; given: {', '.join(self.colours)}.",
                field="colours",
            )
        if self.direction not in DIRECTIONS[self.kind]:
            raise ConfigError(
                f"A {self.kind} background has the direction {' or '.join(DIRECTIONS[self.kind])}; "
                f"given: {self.direction}.",
                field="direction",
            )
        if self.shades is not None and len(self.shades) != needed:
            raise ConfigError(f"{needed} shades are needed; given: {len(self.shades)}.", field="shades")
        if self.period < 4:
            raise ConfigError(f"A pattern repeats after 4 pixels or more; given: {self.period}.", field="period")


def draw_background(
    rng: np.random.Generator,
    weights: Mapping[Kind, float],
    avoid: frozenset[str] = frozenset(),
    white_share: float = 0.15,
) -> Background:
    """Draw a random background.

    Args:
        rng: Where the randomness comes from.
        weights: How often each kind is drawn, relative to one another.
        avoid: Colours that would hide the thing in front.
        white_share: Extra share of white among plain grounds, since most requests are for white.

    Returns:
        A background whose shades vary a little around the named colours.
    """
    kinds = [kind for kind in KINDS if weights.get(kind, 0.0) > 0]
    kind = kinds[pick(rng, [weights[k] for k in kinds])]
    names = [name for name in COLOURS if name not in avoid] or list(COLOURS)
    count = 1 if kind in ("plain", "grain") else 2
    colours = _two_apart(rng, names) if count == 2 else (names[int(rng.integers(len(names)))],)
    if kind == "plain" and "white" in names and rng.random() < white_share:
        colours = ("white",)
    directions = DIRECTIONS[kind]
    return Background(
        kind,
        colours,
        directions[int(rng.integers(len(directions)))],
        int(rng.integers(6, 15)) * 2,
        tuple(shade(rng, name) for name in colours),
        int(rng.integers(2**31)),
    )


def shade(rng: np.random.Generator, name: str) -> tuple[int, int, int]:
    """Draw a colour that a person would call by this name: the named one, a little lighter, darker or shifted."""
    offset = rng.integers(-_SHADE, _SHADE + 1) + rng.integers(-3, 4, 3)
    red, green, blue = np.clip(np.array(COLOURS[name]) + offset, 0, 255).tolist()
    return red, green, blue


def nearest_colour(rgb: Iterable[float | int]) -> str:
    """Name the palette colour nearest to this one, by distance in sRGB."""
    point = tuple(rgb)
    return min(COLOURS, key=lambda name: sum((a - b) ** 2 for a, b in zip(COLOURS[name], point, strict=True)))


def paint(background: Background) -> UInt8[np.ndarray, "128 128 3"]:
    """Paint a background; the same description always gives the same pixels."""
    shades = background.shades or tuple(COLOURS[name] for name in background.colours)
    first = np.array(shades[0], dtype=np.float32)
    if background.kind == "plain":
        return np.full((SIZE, SIZE, 3), shades[0], dtype=np.uint8)
    if background.kind == "grain":
        grain = _grain(background.texture_seed)[..., None]
        return np.asarray((first + grain + 0.5).clip(0, 255), dtype=np.uint8)
    share = _share(background)[..., None]
    second = np.array(shades[1], dtype=np.float32)
    return np.asarray(first + share * (second - first) + 0.5, dtype=np.uint8)


def pick(rng: np.random.Generator, weights: Sequence[float]) -> int:
    """Draw an index with a probability in proportion to its weight."""
    bar = rng.random() * sum(weights)
    for index, weight in enumerate(weights):
        bar -= weight
        if bar < 0:
            return index
    return len(weights) - 1


def _share(background: Background) -> Float32[np.ndarray, "128 128"]:
    """Return how much of the second colour each pixel has, with smooth edges."""
    period = float(background.period)
    if background.kind == "split":
        return np.asarray((_X if background.direction == "horizontal" else _Y) >= SIZE / 2, dtype=np.float32)
    if background.kind == "gradient":
        ramp = (_X if background.direction == "horizontal" else _Y) / (SIZE - 1)
        return np.asarray(ramp, dtype=np.float32)
    if background.kind == "stripes":
        along = {"vertical": _X, "horizontal": _Y, "diagonal": (_X + _Y) * np.float32(0.7071)}
        return _wave(along[background.direction], period)
    if background.kind == "checks":
        across, down = _wave(_X, period), _wave(_Y, period)
        return np.asarray(across + down - 2 * across * down, dtype=np.float32)
    fold_x, fold_y = (np.abs((axis + 0.5) % period - period / 2) for axis in (_X, _Y))
    return np.asarray(np.clip(0.3 * period + 0.5 - np.hypot(fold_x, fold_y), 0, 1), dtype=np.float32)


def _wave(axis: Float32[np.ndarray, "128 128"], period: float) -> Float32[np.ndarray, "128 128"]:
    """Return a square wave from 0 to 1 with edges one pixel wide."""
    distance = np.abs((axis + 0.5) % period - period / 2)
    return np.asarray(np.clip(distance - period / 4 + 0.5, 0, 1), dtype=np.float32)


def _grain(seed: int) -> Float32[np.ndarray, "128 128"]:
    """Return speckles of two sizes with mean near 0."""
    rng = np.random.default_rng(seed)
    fine = rng.integers(-20, 21, (SIZE, SIZE)).astype(np.float32)
    coarse = Image.fromarray(rng.integers(0, 256, (SIZE // 4, SIZE // 4), dtype=np.uint8))
    wide = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC), dtype=np.float32)
    return np.asarray(fine + (wide - 127.5) * 0.16, dtype=np.float32)


def _two_apart(rng: np.random.Generator, names: Sequence[str]) -> tuple[str, str]:
    """Draw two colours that can be told from each other at a glance."""
    first = names[int(rng.integers(len(names)))]
    others = [name for name in names if _distance(first, name) > 90] or [n for n in COLOURS if _distance(first, n) > 90]
    return first, others[int(rng.integers(len(others)))]


def _distance(one: str, other: str) -> float:
    """Return the distance of two named colours in sRGB."""
    return float(np.linalg.norm(np.subtract(COLOURS[one], COLOURS[other])))
