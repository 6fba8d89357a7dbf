"""What a network predicts, and how the three choices turn into one another. The only such algebra in the package.

With `x_t = alpha x_0 + sigma eps` and `alpha² + sigma² = 1`, `v = alpha eps - sigma x_0` ([salimans2022] app. D).
Levels are given as numbers (one level for the batch) or as `(b,)` tensors (one a row).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.tensors import Latents, PerRow

Prediction = Literal["eps", "x_0", "v"]
PREDICTIONS: tuple[Prediction, ...] = ("eps", "x_0", "v")


def to_x_0(
    prediction: Prediction, output: Latents, x_t: Latents, alpha: float | PerRow, sigma: float | PerRow
) -> Latents:
    """Turn a network's output into the clean latents that it implies.

    eps: `(x_t - sigma eps) / alpha` ([ho2020] eq. 15) · v: `alpha x_t - sigma v` ([salimans2022] app. D).

    Args:
        prediction: What the output is.
        output: Output of the network.
        x_t: Noisy latents that the network saw.
        alpha: Signal factor of the level.
        sigma: Noise factor of the level.

    Returns:
        x_0, same shape as x_t.

    Raises:
        ConfigError: Unknown prediction; or eps at alpha 0, where x_t and eps say nothing about x_0.
    """
    check_prediction(prediction)
    if prediction == "x_0":
        return output
    signal, noise = over_pixels(alpha, x_t), over_pixels(sigma, x_t)
    if prediction == "v":
        return signal * x_t - noise * output
    _need_signal(alpha, "turned into x_0")
    return (x_t - noise * output) / signal


def to_eps(
    prediction: Prediction, output: Latents, x_t: Latents, alpha: float | PerRow, sigma: float | PerRow
) -> Latents:
    """Turn a network's output into the noise that it implies.

    x_0: `(x_t - alpha x_0) / sigma`, finite at alpha 0 · v: `sigma x_t + alpha v` ([salimans2022] app. D).

    Args:
        prediction: What the output is.
        output: Output of the network.
        x_t: Noisy latents that the network saw.
        alpha: Signal factor of the level.
        sigma: Noise factor of the level.

    Returns:
        eps, same shape as x_t.

    Raises:
        ConfigError: Unknown prediction; or x_0 at sigma 0, where no noise is left to find.
    """
    check_prediction(prediction)
    if prediction == "eps":
        return output
    signal, noise = over_pixels(alpha, x_t), over_pixels(sigma, x_t)
    if prediction == "v":
        return noise * x_t + signal * output
    _need_noise(sigma, "eps")
    return (x_t - signal * output) / noise


def to_v(
    prediction: Prediction, output: Latents, x_t: Latents, alpha: float | PerRow, sigma: float | PerRow
) -> Latents:
    """Turn a network's output into the v that it implies.

    eps: `(eps - sigma x_t) / alpha` · x_0: `(alpha x_t - x_0) / sigma`, both from `v = alpha eps - sigma x_0`.

    Args:
        prediction: What the output is.
        output: Output of the network.
        x_t: Noisy latents that the network saw.
        alpha: Signal factor of the level.
        sigma: Noise factor of the level.

    Returns:
        v, same shape as x_t.

    Raises:
        ConfigError: Unknown prediction; or eps at alpha 0; or x_0 at sigma 0.
    """
    check_prediction(prediction)
    if prediction == "v":
        return output
    signal, noise = over_pixels(alpha, x_t), over_pixels(sigma, x_t)
    if prediction == "eps":
        _need_signal(alpha, "turned into v")
        return (output - noise * x_t) / signal
    _need_noise(sigma, "v")
    return (signal * x_t - output) / noise


def target(prediction: Prediction, x_0: Latents, eps: Latents, alpha: float | PerRow, sigma: float | PerRow) -> Latents:
    """Return what a network of this kind should have predicted.

    Args:
        prediction: What the network predicts.
        x_0: Clean latents.
        eps: Noise that was added.
        alpha: Signal factor of the level.
        sigma: Noise factor of the level.

    Returns:
        The training target, same shape as x_0.

    Raises:
        ConfigError: Unknown prediction; or eps at alpha 0, where the network could only copy its input.
    """
    check_prediction(prediction)
    if prediction == "x_0":
        return x_0
    if prediction == "eps":
        _need_signal(alpha, "trained")
        return eps
    return over_pixels(alpha, x_0) * eps - over_pixels(sigma, x_0) * x_0


def over_pixels(value: float | PerRow, like: Latents) -> float | Tensor:
    """Shape one number per row so that it multiplies whole latents; a single number stays as it is."""
    return value.to(like)[:, None, None, None] if isinstance(value, Tensor) else value


def check_prediction(prediction: str) -> None:
    """Refuse an unknown kind of prediction.

    Args:
        prediction: The name to check.

    Raises:
        ConfigError: It is not `eps`, `x_0` or `v`.
    """
    if prediction not in PREDICTIONS:
        raise ConfigError(f"prediction is {prediction!r}; needed: one of {', '.join(PREDICTIONS)}.", field="prediction")


def _need_signal(alpha: float | Tensor, what: str) -> None:
    """Refuse eps at pure noise, where it holds no information about the picture."""
    if bool(torch.any(alpha == 0)) if isinstance(alpha, Tensor) else alpha == 0:
        raise ConfigError(
            f"An eps prediction cannot be {what} at alpha 0, the pure noise of zero terminal SNR; "
            "needed: alpha above 0.",
            field="prediction",
            hint="Use a network with prediction 'v' or 'x_0', or a schedule without zero_terminal_snr.",
        )


def _need_noise(sigma: float | Tensor, what: str) -> None:
    """Refuse to read the noise off clean latents."""
    if bool(torch.any(sigma == 0)) if isinstance(sigma, Tensor) else sigma == 0:
        raise ConfigError(
            f"{what} cannot be found from x_0 at sigma 0, the clean latents; needed: sigma above 0.", field="sigma"
        )
