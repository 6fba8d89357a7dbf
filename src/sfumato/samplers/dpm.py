"""DPM-Solver++ 2M, deterministic and stochastic, after [lu2022b]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level, noise_decay
from sfumato.events import Step
from sfumato.samplers.protocol import Draw, check_share


def dpmpp_2m(denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw) -> Iterator[Step]:
    """Solve the probability flow in log-SNR, with x_0 extrapolated from two steps.

    `x' = (sigma' / sigma) x + alpha' (1 - e^-h) D` with `D = (1 + 1/2r) x_0 - 1/2r x_0_before`, `r = h_before / h` and
    h the step in `log(alpha / sigma)` ([lu2022b] alg. 2). Order 2, one evaluation a step. See `extrapolate` for first
    and last step.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Not called.

    Yields:
        One step per pair of levels.
    """
    return dpmpp_2m_sde(denoise, x_t, levels, draw=draw, eta=0.0)


def dpmpp_2m_sde(
    denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw, eta: float = 1.0
) -> Iterator[Step]:
    """Solve the reverse stochastic equation in log-SNR, with x_0 extrapolated from two steps.

    `x' = (sigma' / sigma) e^(-eta h) x + alpha' (1 - e^(-(1 + eta) h)) D + sigma' sqrt(1 - e^(-2 eta h)) z`: [lu2022b]
    (SDE-DPM-Solver++ 2M) at eta 1, the probability flow at eta 0. Written with `q = e^-h`, so that infinite h
    (from alpha 0, to the clean level) needs no special case.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Noise z of a step.
        eta: Share of the stochastic part, 0 to 1.

    Yields:
        One step per pair of levels.

    Raises:
        ConfigError: eta is out of range.
    """
    check_share("eta", eta)
    before: Tensor | None = None
    q_before = 0.0
    for step, (level, next_level) in enumerate(pairwise(levels)):
        x_0 = denoise(x_t, level)
        q = noise_decay(level, next_level)
        d = extrapolate(x_0, before, q, q_before)
        x_t = (next_level.sigma / level.sigma * q**eta) * x_t + (next_level.alpha * (1 - q ** (1 + eta))) * d
        if eta > 0 and next_level.sigma > 0:
            x_t = x_t + (next_level.sigma * (1 - q ** (2 * eta)) ** 0.5) * draw(step)
        before, q_before = x_0, q
        yield Step(step, len(levels) - 1, x_t, x_0)


def extrapolate(x_0: Tensor, before: Tensor | None, q: float, q_before: float) -> Tensor:
    """Extrapolate x_0 to the middle of a step in log-SNR.

    `x_0 + (h / h_before) (x_0 - before) / 2`, `h = -log q` ([lu2022b] alg. 2). Where a step is infinitely long the line
    through two points says nothing: after a step from alpha 0 the factor is 0 by itself, and in a step to the clean
    level x_0 is used alone.

    Args:
        x_0: Prediction of this step.
        before: Prediction of the step before; None in the first.
        q: Noise decay of this step.
        q_before: Noise decay of the step before.

    Returns:
        The extrapolated x_0.
    """
    if before is None or q == 0 or q_before == 0:
        return x_0
    return x_0 + (math.log(q) / math.log(q_before) / 2) * (x_0 - before)
