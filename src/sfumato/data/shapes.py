"""Pictures made in code: coloured shapes with captions, for tests and first steps without any download."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sfumato.errors import ConfigError
from sfumato.runtime.seeding import derive_seed

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 50, 47),
    "green": (60, 160, 70),
    "blue": (45, 95, 200),
    "yellow": (245, 205, 50),
    "purple": (130, 70, 170),
    "orange": (240, 140, 40),
    "white": (245, 245, 245),
    "black": (30, 30, 35),
}
SHAPES = ("circle", "square", "triangle", "diamond", "ring")
SIZES: dict[str, float] = {"small": 0.22, "large": 0.36}
_OVERSAMPLING = 4


@dataclass(frozen=True)
class ShapePicture:
    """One picture with its caption.

    Attributes:
        image: uint8 `(size, size, 3)`.
        caption: What is there, for example `a large red circle on a blue background`.
    """

    image: NDArray[np.uint8]
    caption: str


class ShapeSampler:
    """Draws shapes; picture i depends on the seed and i alone.

    Args:
        seed: Seed of the whole series.
        size: Height and width in pixels, at least 8.

    Raises:
        ConfigError: The size is too small.
    """

    def __init__(self, seed: int = 0, size: int = 32) -> None:
        if size < 8:
            raise ConfigError(f"size is {size}; needed: at least 8 pixels.", field="size")
        self.seed = seed
        self.size = size

    def scene(self, index: int) -> ShapePicture:
        """Draw picture number `index`."""
        random = np.random.default_rng(derive_seed(self.seed, "data/shapes", index))
        shape = SHAPES[random.integers(len(SHAPES))]
        scale = list(SIZES)[random.integers(len(SIZES))]
        front, back = (list(COLORS)[i] for i in random.choice(len(COLORS), 2, replace=False))
        radius = SIZES[scale]
        x, y = random.uniform(radius + 0.03, 0.97 - radius, 2)
        side = self.size * _OVERSAMPLING
        canvas = Image.new("RGB", (side, side), COLORS[back])
        _draw(ImageDraw.Draw(canvas), shape, x * side, y * side, radius * side, COLORS[front], COLORS[back])
        image = np.asarray(canvas.resize((self.size, self.size), Image.Resampling.BOX), dtype=np.uint8)
        return ShapePicture(image, f"a {scale} {front} {shape} on a {back} background")


def _draw(
    pen: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    radius: float,
    color: tuple[int, int, int],
    ground: tuple[int, int, int],
) -> None:
    """Draw one shape around a point."""
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape in ("circle", "ring"):
        pen.ellipse(box, fill=color)
        if shape == "ring":
            inner = radius / 2
            pen.ellipse((x - inner, y - inner, x + inner, y + inner), fill=ground)
    elif shape == "square":
        pen.rectangle(box, fill=color)
    elif shape == "triangle":
        pen.polygon([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)], fill=color)
    else:
        pen.polygon([(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)], fill=color)
