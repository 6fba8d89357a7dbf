"""DDIM: from deterministic to ancestral, after [song2021] eq. 12 and 16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level
from sfumato.diffusion.parameterization import to_eps
from sfumato.diffusion.process import posterior, transfer
from sfumato.events import Step
from sfumato.samplers.protocol import Draw, check_share


def ddim(denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw, eta: float = 0.0) -> Iterator[Step]:
    """Step along the predicted noise, replacing a part of it by fresh noise.

    `x_{t'} = alpha' x_0 + sqrt(sigma'² - s²) eps + s z` ([song2021] eq. 12), `s = eta sqrt(posterior variance)` (eq.
    16). Order 1. eta 0 is the probability flow, eta 1 is DDPM.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Noise z of a step; not called at eta 0.
        eta: Share of the ancestral noise, 0 to 1.

    Yields:
        One step per pair of levels.

    Raises:
        ConfigError: eta is out of range.
    """
    check_share("eta", eta)
    for step, (level, next_level) in enumerate(pairwise(levels)):
        x_0 = denoise(x_t, level)
        if eta == 0 or next_level.sigma == 0:
            x_t = transfer(x_t, x_0, level, next_level)
        else:
            variance = eta**2 * posterior(x_0, x_t, level, next_level)[1]
            eps = to_eps("x_0", x_0, x_t, level.alpha, level.sigma)
            kept = max(next_level.sigma**2 - variance, 0.0) ** 0.5
            x_t = next_level.alpha * x_0 + kept * eps + variance**0.5 * draw(step)
        yield Step(step, len(levels) - 1, x_t, x_0)
