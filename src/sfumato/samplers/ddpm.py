"""DDPM: ancestral sampling from the posterior, after [ho2020] alg. 2."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor

from sfumato.diffusion.noise_level import Denoise, Level
from sfumato.diffusion.process import posterior, step_variance
from sfumato.errors import ConfigError
from sfumato.events import Step
from sfumato.samplers.protocol import Draw


def ddpm(
    denoise: Denoise,
    x_t: Tensor,
    levels: Sequence[Level],
    *,
    draw: Draw,
    variance: str = "posterior",
    temperature: float = 1.0,
) -> Iterator[Step]:
    """Draw each level from the posterior given the predicted x_0.

    `x_{t'} ~ N(mean(x_t, x_0), variance)` with the posterior of [ho2020] eq. 6 and 7 between any two levels of the
    list; with all T levels this is alg. 2. The last step, to the clean level, has no noise.

    Args:
        denoise: `(x_t, level) -> x_0`.
        x_t: Noisy latents at `levels[0]`.
        levels: Falling noise levels.
        draw: Noise of a step.
        variance: `posterior`, the lower bound of [ho2020] sec. 3.2, or `forward`, the upper bound beta_t.
        temperature: Factor of the noise, 0 or more; 1 is the paper.

    Yields:
        One step per pair of levels.

    Raises:
        ConfigError: Unknown variance, or a negative temperature.
    """
    if variance not in ("posterior", "forward"):
        raise ConfigError(f"variance is {variance!r}; needed: posterior or forward.", field="variance")
    if temperature < 0:
        raise ConfigError(f"temperature is {temperature}; needed: 0 or more.", field="temperature")
    for step, (level, next_level) in enumerate(pairwise(levels)):
        x_0 = denoise(x_t, level)
        x_t, spread = posterior(x_0, x_t, level, next_level)
        if next_level.sigma > 0:
            if variance == "forward":
                spread = step_variance(level, next_level)
            x_t = x_t + (temperature * spread**0.5) * draw(step)
        yield Step(step, len(levels) - 1, x_t, x_0)
