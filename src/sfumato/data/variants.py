"""Variants of a picture: random crops and small changes of colour, drawn once so that they can be encoded once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageEnhance
from torch import Tensor

from sfumato.data.images import crop_box, to_tensor

_FINENESS = 65_536


@dataclass(frozen=True)
class Frame:
    """A picture cut and scaled for learning.

    Attributes:
        image: In [-1, 1].
        mask: How much each pixel counts, in [0, 1]; `None` without a mask.
    """

    image: Float[Tensor, "3 H W"]
    mask: Float[Tensor, "1 H W"] | None

    def mirrored(self) -> Frame:
        """Return the same with left and right exchanged."""
        return Frame(self.image.flip(-1), None if self.mask is None else self.mask.flip(-1))


def frame(
    rgb: UInt8[np.ndarray, "H W 3"],
    mask: UInt8[np.ndarray, "H W"] | None,
    size: tuple[int, int],
    *,
    crop: float = 0.0,
    jitter: float = 0.0,
    draw: torch.Generator | None = None,
) -> Frame:
    """Cut a picture to the proportions of a size and scale it: its middle, or a random part.

    Args:
        rgb: The picture.
        mask: What counts of it.
        size: Width and height of the result, in pixels.
        crop: Largest share of a side that is cut off at random, in [0, 1).
        jitter: Largest relative change of brightness, contrast and saturation, in [0, 1).
        draw: Source of randomness; without one the middle is taken as it is.

    Returns:
        The picture, its mask scaled by area.
    """
    width, height = rgb.shape[1], rgb.shape[0]
    box = crop_box(width, height, size[0] / size[1])
    image = Image.fromarray(rgb)
    if draw is not None:
        shares = torch.rand(6, generator=draw).tolist()
        box = _part(width, height, box, crop, shares[:3])
        image = _recoloured(image, [1 + jitter * (2 * share - 1) for share in shares[3:]])
    scaled = np.asarray(image.crop(box).resize(size, Image.Resampling.LANCZOS))
    if mask is None:
        return Frame(to_tensor(scaled), None)
    return Frame(to_tensor(scaled), scaled_mask(mask, box, size))


def scaled_mask(
    mask: UInt8[np.ndarray, "_H _W"], box: tuple[int, int, int, int], size: tuple[int, int]
) -> Float[Tensor, "1 H W"]:
    """Cut a box out of a mask and scale it by area.

    Args:
        mask: How much each pixel counts, 0 to 255.
        box: Left, top, right, bottom in pixels.
        size: Width and height of the result, in pixels.

    Returns:
        How much each place counts, in [0, 1].
    """
    part = torch.from_numpy(mask[box[1] : box[3], box[0] : box[2]] / np.float32(255))
    area = _areas(part.shape[0], size[1]) @ part @ _areas(part.shape[1], size[0]).T
    return (area * _FINENESS).round()[None] / _FINENESS  # what is all white stays 1


def misses_middle(mask: UInt8[np.ndarray, "H W"], size: int) -> bool:
    """Say whether nothing of a mask is left in the middle square, scaled to a side in pixels."""
    box = crop_box(mask.shape[1], mask.shape[0])
    return not bool(scaled_mask(mask, box, (size, size)).any())


def latent_mask(mask: Float[Tensor, "1 H W"], factor: int) -> Float[Tensor, "1 h w"]:
    """Scale a mask to the grid of the latents by area: each latent counts as much as its pixels do on average.

    Args:
        mask: How much each pixel counts.
        factor: Pixels per latent along a side.
    """
    return torch.nn.functional.avg_pool2d(mask[None], factor)[0]


def _areas(before: int, after: int) -> Float[Tensor, "after before"]:
    """Return the matrix that scales a line by area: how much of each new place lies in each old one.

    Pillow's box filter takes the nearest pixel where it enlarges, and what a mask covers would change.
    """
    new, old = torch.arange(after)[:, None] * before / after, torch.arange(before)[None].float()
    ends = torch.minimum(new + before / after, old + 1) - torch.maximum(new, old)
    return ends.clamp(min=0) * (after / before)


def _part(
    width: int, height: int, whole: tuple[int, int, int, int], crop: float, shares: list[float]
) -> tuple[int, int, int, int]:
    """Draw a box of the proportions of the largest one, anywhere in the picture."""
    scale = 1 - crop * shares[0]
    box_width, box_height = (max(1, round(scale * side)) for side in (whole[2] - whole[0], whole[3] - whole[1]))
    left, top = round(shares[1] * (width - box_width)), round(shares[2] * (height - box_height))
    return left, top, left + box_width, top + box_height


def _recoloured(image: Image.Image, factors: list[float]) -> Image.Image:
    """Change brightness, contrast and saturation."""
    for kind, factor in zip((ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True):
        image = kind(image).enhance(factor)
    return image
