"""Heun: two evaluations a step, second order, after [karras2022] alg. 1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level, is_nearly_noise
from sfumato.diffusion.process import transfer
from sfumato.events import Step
from sfumato.samplers.protocol import Draw


def heun(denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw) -> Iterator[Step]:
    """Follow the probability flow with the trapezoidal rule.

    In `X = x_t / alpha` and `s = sigma / alpha`: `X' = X + (s' - s) (d + d') / 2`, `d = (X - x_0) / s` here and
    `d'` the same at the end of an Euler step ([karras2022] alg. 1). Order 2.

    A step to the clean level is an Euler step, as in the paper (no network can be asked there). So is a step from where
    s is infinite or above 80, the largest of [karras2022] table 1: the trapezoidal correction grows with s / s' and
    has no limit, while the Euler step has.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Not called.

    Yields:
        One step per pair of levels; x_0 is the prediction at its start.
    """
    for step, (level, next_level) in enumerate(pairwise(levels)):
        x_0 = denoise(x_t, level)
        trial = transfer(x_t, x_0, level, next_level)
        if is_nearly_noise(level) or next_level.sigma == 0:
            x_t = trial
        else:
            s, next_s = level.noise_to_signal, next_level.noise_to_signal
            start = x_t / level.alpha
            slope = (start - x_0) / s
            next_slope = (trial / next_level.alpha - denoise(trial, next_level)) / next_s
            x_t = next_level.alpha * (start + (next_s - s) * (slope + next_slope) / 2)
        yield Step(step, len(levels) - 1, x_t, x_0)
