"""Classifier-free guidance, on x_0."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level
from sfumato.errors import ConfigError
from sfumato.tensors import Latents

__all__ = ["Denoise", "guide", "guided", "rescale_std"]

Condition = TypeVar("Condition")


def guided(
    denoise: Callable[[Tensor, Level, Condition], Tensor],
    cond: Condition,
    uncond: Condition,
    guidance_scale: float,
    rescale: float = 0.0,
    interval: tuple[float, float] = (0.0, 1.0),
    *,
    stack: Callable[[Condition, Condition], Condition] | None = None,
) -> Denoise:
    """Join two conditions into one denoise function.

    `uncond + guidance_scale (cond - uncond)` ([ho2022] eq. 6 with w = guidance_scale - 1). At a fixed x_t the maps
    between x_0, eps and v are affine, so guiding x_0 is guiding any of them. Scale 1 is cond exactly and scale 0 is
    uncond exactly, with a single evaluation.

    Args:
        denoise: `(x_t, level, condition) -> x_0`.
        cond: The wanted condition.
        uncond: The empty or unwanted condition.
        guidance_scale: 1 = off; more pulls towards cond and away from uncond.
        rescale: Share in [0, 1] of the standard deviation of cond to restore ([lin2023] sec. 3.4; 0.7 there).
        interval: Noise levels `level.sigma`, both ends included, at which guidance acts; outside, cond alone is used,
            one evaluation ([kynkaanniemi2024]). An EDM sigma s is `s / sqrt(1 + s²)` here.
        stack: `(cond, uncond) -> both`, the two conditions as one batch of twice the rows, cond first. If given, both
            are evaluated in one call of `denoise` on `cat([x_t, x_t])`; if not, in two calls.

    Returns:
        `(x_t, level) -> x_0`, as samplers take it.

    Raises:
        ConfigError: `rescale` or `interval` is out of range.
    """
    low, high = interval
    if not 0 <= rescale <= 1:
        raise ConfigError(f"rescale is {rescale}; needed: 0 to 1.", field="rescale")
    if not 0 <= low <= high <= 1:
        raise ConfigError(f"interval is {interval}; needed: 0 <= low <= high <= 1, values of sigma.", field="interval")
    both = None if stack is None or guidance_scale in (0, 1) else stack(cond, uncond)

    def evaluate(x_t: Tensor, level: Level) -> Tensor:
        if guidance_scale == 1 or not low <= level.sigma <= high:
            return denoise(x_t, level, cond)
        if guidance_scale == 0:
            return denoise(x_t, level, uncond)
        if both is None:
            with_cond, without = denoise(x_t, level, cond), denoise(x_t, level, uncond)
        else:
            with_cond, without = denoise(torch.cat([x_t, x_t]), level, both).chunk(2)
        return guide(with_cond, without, guidance_scale, rescale)

    return evaluate


def guide(cond: Latents, uncond: Latents, guidance_scale: float, rescale: float = 0.0) -> Latents:
    """Combine two predictions of x_0: `uncond + guidance_scale (cond - uncond)` ([ho2022] eq. 6).

    Args:
        cond: x_0 under the wanted condition.
        uncond: x_0 under the empty or unwanted condition.
        guidance_scale: 1 = cond, 0 = uncond.
        rescale: Share of the standard deviation of cond to restore, 0 to 1.

    Returns:
        Guided x_0, same shape.
    """
    x_0 = torch.lerp(uncond, cond, guidance_scale)
    return rescale_std(x_0, cond, rescale) if rescale else x_0


def rescale_std(x_0: Latents, cond: Latents, share: float) -> Latents:
    """Pull the standard deviation of guided latents back to that of the conditional ones.

    Strong guidance makes x_0 too large and pictures over-exposed. `share x_0 std(cond) / std(x_0) + (1 - share) x_0`,
    deviations over all but the batch ([lin2023] eq. 15 and 16). The paper scales the network's output; at alpha 0, the
    case it is about, its v is -x_0 and both are the same. On x_0 the result does not depend on what the network
    predicts.

    Args:
        x_0: Guided x_0.
        cond: x_0 under the wanted condition.
        share: 0 = no change, 1 = the full correction.

    Returns:
        Rescaled x_0, same shape.
    """
    over = (1, 2, 3)
    wanted, given = cond.std(over, keepdim=True), x_0.std(over, keepdim=True)
    factor = torch.where(given > 0, wanted / given.clamp(min=torch.finfo(x_0.dtype).tiny), torch.ones_like(given))
    return x_0 * (share * factor + (1 - share))
