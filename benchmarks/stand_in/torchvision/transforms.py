"""Operations on pictures, on PIL and numpy, under torchvision's names and with its conventions.

Chance is drawn from torch's own generator in the same order, so that a seed means the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class InterpolationMode(Enum):
    """How a picture is scaled."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    HAMMING = "hamming"
    BICUBIC = "bicubic"
    LANCZOS = "lanczos"


class Compose:
    """One operation after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, picture: Any) -> Any:
        for transform in self.transforms:
            picture = transform(picture)
        return picture


class Resize:
    """Scale so that the shorter side gets a length; what the longer one gets is cut to whole pixels."""

    def __init__(self, size: int, interpolation: InterpolationMode = InterpolationMode.BILINEAR) -> None:
        self.size, self.resampling = size, Image.Resampling[interpolation.name]

    def __call__(self, picture: Image.Image) -> Image.Image:
        shorter, size = min(picture.size), self.size
        width, height = (size if side == shorter else int(size * side / shorter) for side in picture.size)
        return picture if shorter == size else picture.resize((width, height), self.resampling)


class CenterCrop:
    """Cut out the middle square."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        x, y = (round((side - self.size) / 2) for side in picture.size)
        return _cut(picture, x, y, self.size)


class RandomCrop:
    """Cut out a square anywhere; nothing is drawn where there is one place only."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, picture: Image.Image) -> Image.Image:
        width, height = picture.size
        x = y = 0
        if picture.size != (self.size, self.size) and min(picture.size) >= self.size:
            y = int(torch.randint(0, height - self.size + 1, (1,)))
            x = int(torch.randint(0, width - self.size + 1, (1,)))
        return _cut(picture, x, y, self.size)


class RandomHorizontalFlip:
    """Mirror a picture with a probability."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, picture: Image.Image) -> Image.Image:
        mirrored = bool(torch.rand(1) < self.p)
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else picture


class ToTensor:
    """Turn a picture of 8 bits a channel into `(channels, height, width)` in [0, 1]."""

    def __call__(self, picture: Image.Image) -> Tensor:
        pixels = np.asarray(picture, dtype=np.uint8)
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1).copy()).float().div(255)


class Normalize:
    """Take a mean away from each channel and divide by a standard deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


def _cut(picture: Image.Image, x: int, y: int, size: int) -> Image.Image:
    """Cut out a square."""
    if min(picture.size) < size:
        raise ValueError(f"The picture is {picture.width}x{picture.height}; needed: at least {size} on each side.")
    return picture.crop((x, y, x + size, y + size))
