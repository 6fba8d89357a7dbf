"""Training-free inpainting and outpainting: any sampler, with a part of the picture held to the original."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level
from sfumato.diffusion.process import q_sample
from sfumato.errors import ConfigError, ShapeError
from sfumato.events import Step
from sfumato.samplers.protocol import Draw, Sampler


def inpaint(
    sampler: Sampler,
    denoise: Denoise,
    x_t: Tensor,
    levels: Sequence[Level],
    *,
    draw: Draw,
    original: Tensor,
    keep: Tensor,
    eps: Tensor,
    **options: Any,
) -> Iterator[Step]:
    """Run a sampler with the kept region replaced by the original at every level.

    Before each evaluation the kept part of x_t becomes the original noised to that level, and after it the kept part of
    x_0 becomes the original itself, so that multistep samplers carry no error out of the kept region ([lugmayr2022] eq.
    8, without resampling). After a last step to the clean level the kept latents equal the original exactly.

    Args:
        sampler: One of `SAMPLERS`.
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`, `(b, c, h, w)`.
        levels: Falling noise levels; start in the middle to keep the composition of the original in the open region.
        draw: Noise of a step.
        original: Clean latents to hold to, same shape as x_t.
        keep: 1 where the original stays, 0 where the sampler paints, `(b or 1, c or 1, h, w)`. A soft seam is a matter
            of pixels: what is mixed at every level would end as nearly the original.
        eps: Noise put on the original, same shape as x_t.
        **options: Those of the sampler.

    Returns:
        The steps of the sampler, the kept region pasted into their x_t and x_0.

    Raises:
        ShapeError: original, eps or keep do not fit x_t.
        ConfigError: keep has other values than 0 and 1; see `Sampler`.
    """
    _check_shapes(x_t, original, keep, eps)
    kept = keep == 1
    if not bool((kept | (keep == 0)).all()):
        raise ConfigError(
            "keep has values other than 0 and 1.", field="keep", hint="Mix the finished pictures instead."
        )

    def paste(latents: Tensor, level: Level) -> Tensor:
        known = q_sample(original, eps, level.alpha, level.sigma) if level.sigma > 0 else original
        return torch.where(kept, known, latents)

    def held(x_t: Tensor, level: Level) -> Tensor:
        return torch.where(kept, original, denoise(paste(x_t, level), level))

    steps = sampler(held, paste(x_t, levels[0]), levels, draw=draw, **options)
    return (Step(s.step, s.steps, paste(s.x_t, levels[s.step + 1]), s.x_0) for s in steps)


def kept_latents(mask: Tensor, count: int, size: tuple[int, int], latent_size: tuple[int, int]) -> Tensor:
    """Shrink a mask to the latents: a latent is kept only where none of its pixels is drawn anew.

    Args:
        mask: 1 where pixels are drawn anew, 0 where they stay, `(1 or count, 1, H, W)`.
        count: Number of pictures.
        size: Height and width of the pictures.
        latent_size: Those of the latents.

    Returns:
        `keep` of `inpaint`, `(count, 1, h, w)`.

    Raises:
        ShapeError: The mask does not fit the pictures.
    """
    if mask.shape[2:] != size or len(mask) not in (1, count):
        raise ShapeError(
            f"The mask has shape {tuple(mask.shape)}; needed: (1 or {count}, 1, {size[0]}, {size[1]}), the size of "
            "the initial picture.",
            field="mask",
        )
    return (1 - F.adaptive_max_pool2d((mask > 0).float(), latent_size)).expand(count, -1, -1, -1)


def _check_shapes(x_t: Tensor, original: Tensor, keep: Tensor, eps: Tensor) -> None:
    """Refuse latents and masks of another shape than x_t."""
    for name, value in (("original", original), ("eps", eps)):
        if value.shape != x_t.shape:
            raise ShapeError(
                f"{name} has shape {tuple(value.shape)}; needed: {tuple(x_t.shape)}, that of x_t.", field=name
            )
    fits = keep.ndim == 4 and keep.shape[2:] == x_t.shape[2:]
    if not fits or any(size not in (1, full) for size, full in zip(keep.shape[:2], x_t.shape[:2], strict=True)):
        b, c, h, w = x_t.shape
        raise ShapeError(f"keep has shape {tuple(keep.shape)}; needed: ({b} or 1, {c} or 1, {h}, {w}).", field="keep")
