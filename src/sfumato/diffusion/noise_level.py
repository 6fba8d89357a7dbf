"""A noise level, and the one function type that stands between networks and samplers.

`x_t = alpha x_0 + sigma eps` with `alpha² + sigma² = 1`. `alpha = 0` (pure noise, zero terminal SNR) and `sigma = 0`
(the clean latents) are ordinary levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Level:
    """One noise level of a variance-preserving process.

    Attributes:
        t: Training time in [0, T), may be fractional; -1 for the clean latents, which no network ever sees.
        alpha: Factor of the signal, in [0, 1].
        sigma: Factor of the noise, in [0, 1].
    """

    t: float
    alpha: float
    sigma: float

    @property
    def snr(self) -> float:
        """Signal-to-noise ratio `alpha² / sigma²`; infinite at the clean level."""
        return math.inf if self.sigma == 0 else (self.alpha / self.sigma) ** 2

    @property
    def log_snr(self) -> float:
        """Natural logarithm of the SNR, from -inf (pure noise) to inf (clean)."""
        return -math.inf if self.alpha == 0 else math.inf if self.sigma == 0 else 2 * math.log(self.alpha / self.sigma)

    @property
    def noise_to_signal(self) -> float:
        """`sigma / alpha`: the "sigma" of k-diffusion and EDM; infinite for pure noise."""
        return math.inf if self.alpha == 0 else self.sigma / self.alpha


CLEAN = Level(t=-1.0, alpha=1.0, sigma=0.0)
"""The end of every complete run: no noise left."""

LARGEST_RATIO = 80.0
"""`sigma / alpha` above which formulas that divide by alpha lose their meaning: the largest of [karras2022] table 1."""

Denoise = Callable[[Tensor, Level], Tensor]
"""`(x_t, level) -> x_0`, all that a sampler knows about a network."""


def is_nearly_noise(level: Level) -> bool:
    """Say whether next to nothing of the signal is left: `sigma / alpha` above `LARGEST_RATIO`, or infinite."""
    return level.noise_to_signal > LARGEST_RATIO


def noise_decay(level: Level, next_level: Level) -> float:
    """Return how much of the relative noise a step keeps.

    `q = (sigma' / alpha') / (sigma / alpha) = exp(-h)` with `h` the step in `log(alpha / sigma)`. Written with `q`, the
    exponential integrators stay finite at both ends: `q = 0` (h infinite) when the step starts at pure noise or
    ends at the clean latents.

    Args:
        level: Where the step starts, `sigma > 0`.
        next_level: Where it ends, less noisy, so `alpha > 0`.

    Returns:
        A number in [0, 1).
    """
    return (next_level.sigma * level.alpha) / (next_level.alpha * level.sigma)
