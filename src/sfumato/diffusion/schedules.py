"""Noise schedules: how fast the signal fades with the training time t.

Symbols follow [ho2020]: `alphas = 1 - betas`, `alphas_cumprod[t] = prod(alphas[: t + 1])`. A latent at time t is
`sqrt(alphas_cumprod[t]) x_0 + sqrt(1 - alphas_cumprod[t]) eps`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.diffusion.noise_level import Level
from sfumato.errors import ConfigError
from sfumato.tensors import PerRow

Times = Int[Tensor, "b"]
"""Training times t in [0, T), one per row."""

OnePerStep = Float[Tensor, "T"]
"""One number per training step."""

KINDS = ("linear", "scaled_linear", "sqrt", "cosine", "given")
COSINE_OFFSET = 8e-3
COSINE_LARGEST_BETA = 0.999


@dataclass(frozen=True)
class ScheduleConfig:
    """How the betas are made.

    The defaults are those of Stable Diffusion v1. Beware of names: what LDM's code calls "linear" is linear in
    sqrt(beta), here `scaled_linear`, and its "sqrt_linear" is `linear` here.

    Attributes:
        kind: `linear` (in beta), `scaled_linear` (linear in sqrt(beta)), `sqrt` (square root of a linear ramp),
            `cosine` ([nichol2021] eq. 17, s = 0.008, betas at most 0.999) or `given`.
        beta_start: First beta, in (0, 1); not used by `cosine` and `given`.
        beta_end: Last beta, in (0, 1), at least `beta_start`.
        num_train_steps: Number of training times T, at least 1.
        zero_terminal_snr: Rescale so that the last level is pure noise ([lin2023] alg. 1).
        betas: The betas of kind `given`, T of them, each in (0, 1); the last may be 1.

    Raises:
        ConfigError: A value is out of range.
    """

    kind: str = "scaled_linear"
    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_train_steps: int = 1000
    zero_terminal_snr: bool = False
    betas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"schedule kind is {self.kind!r}; needed: one of {', '.join(KINDS)}.", field="kind")
        smallest = 2 if self.zero_terminal_snr else 1
        if self.num_train_steps < smallest:
            raise ConfigError(
                f"num_train_steps is {self.num_train_steps}; needed: at least {smallest}.", field="num_train_steps"
            )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"beta_start is {self.beta_start} and beta_end is {self.beta_end}; "
                "needed: 0 < beta_start <= beta_end < 1.",
                field="beta_start",
            )
        self._check_given()

    def _check_given(self) -> None:
        """Check that betas are there exactly when the kind is `given`, and that they are usable."""
        if (self.betas is None) == (self.kind == "given"):
            state = "missing" if self.betas is None else "present"
            raise ConfigError(f"betas are {state} with kind {self.kind!r}; they belong to kind 'given'.", field="betas")
        if self.betas is None:
            return
        if len(self.betas) != self.num_train_steps:
            raise ConfigError(
                f"{len(self.betas)} betas given; needed: {self.num_train_steps}, one a training step.", field="betas"
            )
        for t, beta in enumerate(self.betas):
            if not (0 < beta < 1 or (beta == 1 and t == len(self.betas) - 1)):
                raise ConfigError(
                    f"betas[{t}] is {beta}; needed: more than 0 and less than 1 (the last may be 1).", field="betas"
                )


class Schedule:
    """The arrays of a schedule, float64 on the CPU, and lookups by training time.

    Attributes:
        config: What it was made from.
        num_train_steps: T.
        betas: Noise variance of one training step, `(T,)`.
        alphas: `1 - betas`, `(T,)`.
        alphas_cumprod: Squared signal factor, `(T,)`; the last is exactly 0 with zero terminal SNR.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.num_train_steps = config.num_train_steps
        betas = _betas(config)
        self.betas = rescale_to_zero_terminal_snr(betas) if config.zero_terminal_snr else betas
        self.alphas = 1 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, 0)
        self._angles = torch.atan2((1 - self.alphas_cumprod).sqrt(), self.alphas_cumprod.sqrt()).numpy()
        self._on_device: dict[torch.device, Tensor] = {}

    def alpha(self, t: Times) -> PerRow:
        """Return the signal factor `sqrt(alphas_cumprod[t])` of each row, float32 on the device of t."""
        return self._cumprod_at(t).sqrt().float()

    def sigma(self, t: Times) -> PerRow:
        """Return the noise factor `sqrt(1 - alphas_cumprod[t])` of each row, float32 on the device of t."""
        return (1 - self._cumprod_at(t)).sqrt().float()

    def snr(self, t: Times) -> PerRow:
        """Return the signal-to-noise ratio `alpha² / sigma²` of each row, float32 on the device of t."""
        cumprod = self._cumprod_at(t)
        return (cumprod / (1 - cumprod)).float()

    def level(self, t: float) -> Level:
        """Return the level at a time that may lie between two training times.

        Between them the angle `atan2(sigma, alpha)` is interpolated linearly: it is finite at both ends of the scale
        and keeps `alpha² + sigma² = 1`.

        Args:
            t: Time in [0, T - 1].

        Returns:
            The level; at whole t exactly that of the arrays.

        Raises:
            ConfigError: t lies outside the schedule.
        """
        if not 0 <= t <= self.num_train_steps - 1:
            raise ConfigError(
                f"t is {t}; needed: 0 to {self.num_train_steps - 1}, the times of the schedule.", field="t"
            )
        if float(t).is_integer():
            cumprod = float(self.alphas_cumprod[int(t)])
            return Level(float(t), math.sqrt(cumprod), math.sqrt(1 - cumprod))
        angle = float(np.interp(t, np.arange(self.num_train_steps), self._angles))
        return Level(float(t), math.cos(angle), math.sin(angle))

    def time(self, alpha: float, sigma: float) -> float:
        """Return the time at which the schedule has this level; the inverse of `level`.

        Args:
            alpha: Signal factor, in [0, 1].
            sigma: Noise factor, in [0, 1].

        Returns:
            Time in [0, T - 1]; a level outside the schedule gives the nearer end.
        """
        return float(np.interp(math.atan2(sigma, alpha), self._angles, np.arange(self.num_train_steps)))

    def _cumprod_at(self, t: Tensor) -> Tensor:
        """Look up alphas_cumprod in float64 where t lives."""
        if t.device not in self._on_device:
            # Apple's GPU has no float64; float32 is then the best there is.
            dtype = torch.float32 if t.device.type == "mps" else torch.float64
            self._on_device[t.device] = self.alphas_cumprod.to(device=t.device, dtype=dtype)
        return self._on_device[t.device][t.long()]


def rescale_to_zero_terminal_snr(betas: OnePerStep) -> OnePerStep:
    """Rescale betas so that the last level is pure noise and the first stays.

    A network trained on a schedule whose last level still shows the picture never learns to start from pure noise, and
    all its pictures come out with medium brightness. [lin2023] alg. 1:
    `s_t <- (s_t - s_T) s_1 / (s_1 - s_T)` with `s = sqrt(alphas_cumprod)`.

    Args:
        betas: The betas, at least two, float64.

    Returns:
        New betas; the last is exactly 1.
    """
    roots = torch.cumprod(1 - betas, 0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    cumprod = ((roots - last) * (first / (first - last))) ** 2
    alphas = torch.cat([cumprod[:1], cumprod[1:] / cumprod[:-1]])
    return 1 - alphas


def _betas(config: ScheduleConfig) -> Tensor:
    """Make the betas in float64."""
    start, end, total = config.beta_start, config.beta_end, config.num_train_steps
    if config.kind == "given":
        return torch.tensor(config.betas, dtype=torch.float64)
    if config.kind == "cosine":
        u = torch.arange(total + 1, dtype=torch.float64) / total
        cumprod = torch.cos((u + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
        return (1 - cumprod[1:] / cumprod[:-1]).clamp(0, COSINE_LARGEST_BETA)
    if config.kind == "scaled_linear":
        return torch.linspace(math.sqrt(start), math.sqrt(end), total, dtype=torch.float64) ** 2
    ramp = torch.linspace(start, end, total, dtype=torch.float64)
    return ramp.sqrt() if config.kind == "sqrt" else ramp
