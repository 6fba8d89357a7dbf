"""PLMS: linear multistep on the noise, after [liu2022] (PNDM without its Runge-Kutta start)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level, is_nearly_noise
from sfumato.diffusion.parameterization import to_eps, to_x_0
from sfumato.diffusion.process import transfer
from sfumato.events import Step
from sfumato.samplers.protocol import Draw

ADAMS_BASHFORTH: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def plms(denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw) -> Iterator[Step]:
    """Combine the noise of up to four steps, then take the DDIM step with it.

    `eps' = (55 eps_t - 59 eps_{t-1} + 37 eps_{t-2} - 9 eps_{t-3}) / 24`, the linear multistep part of [liu2022], with
    lower orders while the history is short; then their transfer part, a DDIM step. Order 2. The first step is an
    improved Euler step, so it costs one more evaluation. The formulas suppose evenly spaced times; Karras spacing loses
    their gain.

    Some steps have no room for this and take the plain DDIM step: from where next to nothing but noise is left (sigma
    above 80 alpha), where errors of eps count a hundredfold in x_0 and at alpha 0 it does not follow from it; and a
    single step to the clean level, where no network can be asked.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Not called.

    Yields:
        One step per pair of levels.
    """
    history: list[Tensor] = []
    for step, (level, next_level) in enumerate(pairwise(levels)):
        x_0 = denoise(x_t, level)
        eps = to_eps("x_0", x_0, x_t, level.alpha, level.sigma)
        first = not history
        history = [eps, *history[:3]]
        if is_nearly_noise(level):
            x_t = transfer(x_t, x_0, level, next_level)
        else:
            slope = _weighted(history)
            if first and next_level.sigma > 0:
                trial = transfer(x_t, x_0, level, next_level)
                next_x_0 = denoise(trial, next_level)
                slope = (eps + to_eps("x_0", next_x_0, trial, next_level.alpha, next_level.sigma)) / 2
            implied = to_x_0("eps", slope, x_t, level.alpha, level.sigma)
            x_t = next_level.alpha * implied + next_level.sigma * slope
        yield Step(step, len(levels) - 1, x_t, x_0)


def _weighted(history: Sequence[Tensor]) -> Tensor:
    """Combine the past noise, newest first, with the Adams-Bashforth weights of its length."""
    weights = ADAMS_BASHFORTH[len(history)]
    total = weights[0] * history[0]
    for weight, eps in zip(weights[1:], history[1:], strict=True):
        total = total + weight * eps
    return total
