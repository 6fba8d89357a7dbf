"""Distribution of latents: of one picture (the encoder's answer) and of many (their scale)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sfumato.errors import ConfigError, DataError
from sfumato.tensors import Latents, PerRow


@dataclass(frozen=True)
class Posterior:
    """What the encoder says of the latents: N(mean, exp(logvar)) per number; a point for `vq`.

    Attributes:
        mean: Mean.
        logvar: Logarithm of the variance, in [-30, 20]; None for a point.
    """

    mean: Latents
    logvar: Latents | None

    @classmethod
    def from_moments(cls, moments: Float[Tensor, "b c2 h w"]) -> Posterior:
        """Split the encoder output in mean and log-variance and clamp the latter to [-30, 20]."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(-30.0, 20.0))

    def mode(self) -> Latents:
        """Return the most likely latents."""
        return self.mean

    def sample(self, eps: Latents) -> Latents:
        """Draw latents: mean + std * eps; a point ignores the noise.

        Args:
            eps: Standard normal noise of the shape of the mean.
        """
        return self.mean if self.logvar is None else self.mean + (0.5 * self.logvar).exp() * eps

    def kl(self) -> PerRow:
        """Measure the distance from N(0, 1), summed over the latents of each picture.

        KL = 1/2 sum (mean^2 + var - 1 - log var)  ([kingma2014] appendix B). Take `.mean()` for the batch.

        Raises:
            ConfigError: If this is a point, which has no density.
        """
        if self.logvar is None:
            raise ConfigError("A 'vq' autoencoder has no KL term; use the loss of its quantiser.", field="kind")
        terms = self.mean.square() + self.logvar.exp() - 1.0 - self.logvar
        return 0.5 * terms.sum(dim=(1, 2, 3))


@dataclass(frozen=True)
class LatentStatistics:
    """Mean and standard deviation over all numbers of some latents."""

    mean: float
    std: float

    @property
    def scaling_factor(self) -> float:
        """Return the factor that gives unit variance."""
        return 1.0 / self.std


def measure_scaling(latents: Iterable[Float[Tensor, "_b _c _h _w"]]) -> LatentStatistics:
    """Measure one scale for all latents, so that the noise schedule fits them ([rombach2022] appendix G).

    sigma^2 = mean (z - mean z)^2 over batch, channels, height and width. One batch is enough; more are exact as well.

    Args:
        latents: Batches of latents that are not scaled, of any sizes.

    Returns:
        Mean and standard deviation; `scaling_factor` is 1 / std.

    Raises:
        DataError: If there are no latents, or they are not finite or all equal.
    """
    count, mean, squares = 0, 0.0, 0.0
    for batch in latents:
        values = batch.detach().cpu().double()
        n, batch_mean = values.numel(), float(values.mean())
        squares += float((values - batch_mean).square().sum()) + (batch_mean - mean) ** 2 * count * n / (count + n)
        mean += (batch_mean - mean) * n / (count + n)
        count += n
    std = math.sqrt(squares / count) if count else 0.0
    if not (math.isfinite(std) and std > 0):
        raise DataError(
            f"The standard deviation of {count} latent numbers is {std}; needed: finite and above 0.",
            hint="Give latents of several different pictures from a trained autoencoder.",
        )
    return LatentStatistics(mean, std)
