"""LCM: multistep consistency sampling, after [song2023] alg. 1 and [luo2023]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level
from sfumato.diffusion.process import q_sample
from sfumato.errors import ConfigError
from sfumato.events import Step
from sfumato.samplers.protocol import Draw

SIGMA_DATA = 0.5


def lcm(
    denoise: Denoise, x_t: Tensor, levels: Sequence[Level], *, draw: Draw, boundary_scaling: float = 0.0
) -> Iterator[Step]:
    """Jump to x_0 and noise it to the next level, for networks distilled to do so in 1 to 8 steps.

    `x_{t'} = alpha' f(x_t, t) + sigma' z` ([song2023] alg. 1). `f` is x_0, or, with a boundary scaling k,
    `c_skip x_t + c_out x_0` with `c_skip = d² / ((k t)² + d²)`, `c_out = k t / sqrt((k t)² + d²)`, d = 0.5 ([luo2023];
    k = 10 in its code). For t of 1 or more the two differ by less than 0.3 %.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Noise z of a step.
        boundary_scaling: k, 0 or more; 0 leaves the boundary condition out.

    Yields:
        One step per pair of levels; x_0 is f.

    Raises:
        ConfigError: A negative boundary scaling.
    """
    if boundary_scaling < 0:
        raise ConfigError(f"boundary_scaling is {boundary_scaling}; needed: 0 or more.", field="boundary_scaling")
    for step, (level, next_level) in enumerate(pairwise(levels)):
        x_0 = denoise(x_t, level)
        if boundary_scaling > 0:
            scaled_t = boundary_scaling * level.t
            square = scaled_t**2 + SIGMA_DATA**2
            x_0 = (SIGMA_DATA**2 / square) * x_t + (scaled_t / square**0.5) * x_0
        x_t = q_sample(x_0, draw(step), next_level.alpha, next_level.sigma) if next_level.sigma > 0 else x_0
        yield Step(step, len(levels) - 1, x_t, x_0)
