"""UniPC: a predictor of order 2, corrected to 3, with B(h) = e^h - 1 ("bh2"), predicting x_0, after [zhao2023]."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level, noise_decay
from sfumato.events import Step
from sfumato.samplers.dpm import extrapolate
from sfumato.samplers.protocol import Draw


@dataclass(frozen=True)
class _Past:
    """What the corrector needs of the step before: where it began, what the network said, how long it was."""

    x_t: Tensor
    level: Level
    x_0: Tensor
    q: float


def unipc(denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw) -> Iterator[Step]:
    """Predict as DPM-Solver++ 2M does, and correct each step with the evaluation of the next.

    The evaluation at the predicted point both corrects that point (UniC) and predicts the next (UniP), so a step costs
    one evaluation. UniP-2 with bh2 is the DPM-Solver++ 2M step, of order 2; the corrector raises it to order 3.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Not called.

    Yields:
        One step per pair of levels; x_t is predicted, not yet corrected.
    """
    past: list[_Past] = []
    for step, (level, next_level) in enumerate(pairwise(levels)):
        x_0 = denoise(x_t, level)
        if past:
            x_t = _corrected(past, x_0, level)
        q = noise_decay(level, next_level)
        before = past[-1] if past else None
        d = extrapolate(x_0, before.x_0 if before else None, q, before.q if before else 0.0)
        past = [*past[-1:], _Past(x_t, level, x_0, q)]
        x_t = _exponential_step(x_t, d, level, next_level, q)
        yield Step(step, len(levels) - 1, x_t, x_0)


def _exponential_step(x_t: Tensor, x_0: Tensor, level: Level, next_level: Level, q: float) -> Tensor:
    """Solve the flow exactly for a constant x_0: `(sigma' / sigma) x + alpha' (1 - e^-h) x_0`."""
    return (next_level.sigma / level.sigma) * x_t + (next_level.alpha * (1 - q)) * x_0


def _corrected(past: Sequence[_Past], x_0: Tensor, level: Level) -> Tensor:
    """Redo the last step, now that the network was asked at its end (UniC).

    The weights a solve `sum_m a_m r_m^(n-1) = b_n` for n = 1, 2 and `r = (-h_before / h, 1)` (UniC-2 of [zhao2023]).
    With one past step the paper sets a = 1/2.
    """
    last = past[-1]
    change = x_0 - last.x_0
    if len(past) == 1:
        mean = last.x_0 + change / 2
    elif past[0].q == 0:  # a step from alpha 0 is infinitely long, r too, and so older predictions carry no weight
        mean = last.x_0 + _moments(last.q)[0] * change
    else:
        r = -math.log(past[0].q) / math.log(last.q)
        b_1, b_2 = _moments(last.q)
        a_past = (b_1 - b_2) / (1 - r)
        mean = last.x_0 + (a_past / r) * (past[0].x_0 - last.x_0) + (b_1 - a_past) * change
    return _exponential_step(last.x_t, mean, last.level, level, last.q)


def _moments(q: float) -> tuple[float, float]:
    """Return the right-hand side (b_1, b_2): the means of u and u², u in [0, 1] with density ~ e^(u h)."""
    h = -math.log(q)
    share = -1 / math.expm1(-h)
    b_1 = share - 1 / h
    return b_1, share - 2 * b_1 / h
