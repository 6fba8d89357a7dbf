"""Euler and Euler ancestral, after [karras2022] and k-diffusion.

Both integrate `dX/ds = (X - x_0) / s` in `X = x_t / alpha` and `s = sigma / alpha`. Multiplied by alpha again, no
division by alpha is left, so they hold at alpha 0 too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level, noise_decay
from sfumato.diffusion.parameterization import to_eps
from sfumato.diffusion.process import transfer
from sfumato.events import Step
from sfumato.samplers.protocol import Draw, check_share


def euler(denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw) -> Iterator[Step]:
    """Follow the probability flow with Euler steps.

    `X' = X + (s' - s) (X - x_0) / s` ([karras2022] alg. 1 without its correction), that is
    `X' = x_0 + (s' / s) (X - x_0)`. Times alpha' it reads `x' = alpha' x_0 + sigma' (x - alpha x_0) / sigma`: the DDIM
    step at eta 0. Order 1.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Not called.

    Yields:
        One step per pair of levels.
    """
    for step, (level, next_level) in enumerate(pairwise(levels)):
        x_0 = denoise(x_t, level)
        x_t = transfer(x_t, x_0, level, next_level)
        yield Step(step, len(levels) - 1, x_t, x_0)


def euler_ancestral(
    denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw, eta: float = 1.0
) -> Iterator[Step]:
    """Take an Euler step further down than asked and go back up with fresh noise.

    `s_up = eta s' sqrt(1 - q²)`, `s_down = sqrt(s'² - s_up²)`, `q = s' / s` (k-diffusion). Times alpha':
    `x' = alpha' x_0 + sigma' (sqrt(1 - u²) eps + u z)` with `u = eta sqrt(1 - q²)`. For a variance-preserving process
    this is DDIM with the same eta, and DDPM at eta 1.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Noise z of a step.
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
            fresh = eta * (1 - noise_decay(level, next_level) ** 2) ** 0.5
            eps = to_eps("x_0", x_0, x_t, level.alpha, level.sigma)
            noise = (1 - fresh**2) ** 0.5 * eps + fresh * draw(step)
            x_t = next_level.alpha * x_0 + next_level.sigma * noise
        yield Step(step, len(levels) - 1, x_t, x_0)
