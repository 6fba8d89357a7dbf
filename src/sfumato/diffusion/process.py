"""The forward process, its posterior, the deterministic move between levels, and the terms of the training loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.diffusion.noise_level import Level
from sfumato.diffusion.parameterization import Prediction, check_prediction, over_pixels
from sfumato.errors import ConfigError
from sfumato.tensors import Latents, PerRow

LOSSES = ("l1", "l2", "huber", "pseudo_huber")
WEIGHTINGS = ("none", "min_snr", "debiased")


def q_sample(x_0: Latents, eps: Latents, alpha: float | PerRow, sigma: float | PerRow) -> Latents:
    """Noise clean latents to a level: `x_t = alpha x_0 + sigma eps` ([ho2020] eq. 4).

    Args:
        x_0: Clean latents.
        eps: Standard normal noise.
        alpha: Signal factor, one for all or one a row.
        sigma: Noise factor, one for all or one a row.

    Returns:
        x_t, same shape as x_0.
    """
    return over_pixels(alpha, x_0) * x_0 + over_pixels(sigma, x_0) * eps


def posterior(x_0: Latents, x_t: Latents, level: Level, next_level: Level) -> tuple[Latents, float]:
    """Return mean and variance of `q(x_{t'} | x_t, x_0)` for any less noisy t'.

    With `a = alpha / alpha'` and `beta = 1 - a²`: mean `(alpha' beta x_0 + a sigma'² x_t) / sigma²`, variance
    `beta sigma'² / sigma²` ([ho2020] eq. 6 and 7, written for a jump over any number of steps). At alpha 0 the mean
    is `alpha' x_0`.

    Args:
        x_0: Clean latents.
        x_t: Noisy latents at `level`.
        level: Where x_t stands, `sigma > 0`.
        next_level: Where to go, less noisy.

    Returns:
        Mean, same shape as x_t, and variance, one number.
    """
    a = level.alpha / next_level.alpha
    beta = step_variance(level, next_level)
    kept = (next_level.sigma / level.sigma) ** 2
    mean = (next_level.alpha * beta / level.sigma**2) * x_0 + (a * kept) * x_t
    return mean, beta * kept


def step_variance(level: Level, next_level: Level) -> float:
    """Return the noise variance that the forward process adds from the next level to this one.

    `1 - alpha² / alpha'²`, written as `(sigma² - sigma'²) / alpha'²` to keep its digits when the levels are close;
    `betas[t]` when they are neighbours.

    Args:
        level: The noisier level.
        next_level: The less noisy level, `alpha > 0`.

    Returns:
        Variance in (0, 1].
    """
    spread = (level.sigma - next_level.sigma) * (level.sigma + next_level.sigma)
    return spread / next_level.alpha**2


def transfer(x_t: Latents, x_0: Latents, level: Level, next_level: Level) -> Latents:
    """Move to the next level along the noise that x_t and x_0 imply: `x_{t'} = alpha' x_0 + sigma' eps`.

    `eps = (x_t - alpha x_0) / sigma`. The deterministic DDIM step ([song2021] eq. 12 at eta 0), the exact solution of
    the probability flow when x_0 does not change, and finite at alpha 0.

    Args:
        x_t: Noisy latents at `level`.
        x_0: Clean latents.
        level: Where x_t stands, `sigma > 0`.
        next_level: Where to go.

    Returns:
        Latents at the next level, same shape.
    """
    kept = next_level.sigma / level.sigma
    return (next_level.alpha - kept * level.alpha) * x_0 + kept * x_t


def loss_weight(kind: str, snr: PerRow, prediction: Prediction, gamma: float = 5.0) -> PerRow:
    """Return the weight of each row's loss.

    A squared error on eps is SNR times, on v SNR + 1 times, that on x_0. `min_snr`: `min(SNR, gamma)` on x_0, hence
    `min(SNR, gamma) / SNR` on eps and `/ (SNR + 1)` on v ([hang2023] sec. 3.4). `debiased`: `1 / sqrt(SNR)` on eps
    ([yu2023]), hence `sqrt(SNR)` on x_0 and `sqrt(SNR) / (SNR + 1)` on v.

    Args:
        kind: `none`, `min_snr` or `debiased`.
        snr: Signal-to-noise ratio of each row, finite; 0 at pure noise.
        prediction: What the network predicts.
        gamma: Where min-SNR stops growing, above 0.

    Returns:
        One weight a row, finite.

    Raises:
        ConfigError: Unknown kind, gamma not above 0, or `debiased` on eps at SNR 0.
    """
    check_prediction(prediction)
    if kind not in WEIGHTINGS:
        raise ConfigError(f"loss weight is {kind!r}; needed: one of {', '.join(WEIGHTINGS)}.", field="loss_weight")
    if kind == "none":
        return torch.ones_like(snr)
    if gamma <= 0:
        raise ConfigError(f"gamma is {gamma}; needed: more than 0.", field="gamma")
    if kind == "min_snr" and prediction == "eps":
        return (gamma / snr).clamp(max=1.0)  # the same as min(SNR, gamma) / SNR, and 1 at SNR 0
    if kind == "debiased" and prediction == "eps":
        if bool((snr == 0).any()):
            raise ConfigError(
                "The debiased weight 1 / sqrt(SNR) of an eps prediction is infinite at SNR 0; needed: SNR above 0.",
                field="loss_weight",
                hint="Use prediction 'v', or weight 'min_snr'.",
            )
        return snr.rsqrt()
    on_x_0 = snr.clamp(max=gamma) if kind == "min_snr" else snr.sqrt()
    return on_x_0 / (snr + 1) if prediction == "v" else on_x_0


def elementwise_loss(kind: str, output: Tensor, target: Tensor, delta: float = 1.0) -> Tensor:
    """Return the loss of every element, to be weighted and averaged by the caller.

    With `d = output - target`: `l1` |d| · `l2` d² · `huber` d²/2 up to |d| = delta, then delta (|d| - delta/2)
    ([huber1964]) · `pseudo_huber` delta² (sqrt(1 + (d/delta)²) - 1), its smooth form.

    Args:
        kind: Which loss.
        output: What the network said.
        target: What it should have said, same shape.
        delta: Where the Huber losses turn from square to linear, above 0.

    Returns:
        Loss of every element, same shape.

    Raises:
        ConfigError: Unknown kind, or delta not above 0.
    """
    if kind not in LOSSES:
        raise ConfigError(f"loss is {kind!r}; needed: one of {', '.join(LOSSES)}.", field="loss")
    if delta <= 0:
        raise ConfigError(f"delta is {delta}; needed: more than 0.", field="delta")
    if kind == "l1":
        return F.l1_loss(output, target, reduction="none")
    if kind == "l2":
        return F.mse_loss(output, target, reduction="none")
    if kind == "huber":
        return F.huber_loss(output, target, reduction="none", delta=delta)
    ratio_squared = ((output - target) / delta) ** 2
    return delta**2 * ratio_squared / (1 + (1 + ratio_squared).sqrt())  # no cancellation near 0
