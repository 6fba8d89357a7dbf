"""Refuse values of a recipe that nothing can be done with, as soon as it is read."""

from __future__ import annotations

from typing import Literal

import torch

from sfumato.errors import ConfigError
from sfumato.models.autoencoder import AutoencoderConfig
from sfumato.models.discriminator import smallest_side


def usable_device(device: str) -> str:
    """Return a device that computes here.

    Args:
        device: Its name, as torch writes it.

    Raises:
        ConfigError: It is none, is not there, or holds no numbers.
    """
    try:
        torch.zeros(1, device=device).item()
    except Exception as error:  # what is raised depends on the kind of device and on how torch was built
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise ConfigError(
            f"device is {device!r}, which cannot be used here ({reason}); there are {', '.join(_devices())}.",
            field="device",
            hint="Set device='cpu'.",
        ) from error
    return device


def check_first_stage(
    autoencoder: AutoencoderConfig, learns: Literal["all", "decoder"], latent_noise: float, shift: bool
) -> None:
    """Refuse settings of an autoencoder's training that would change nothing, and a shift without a place.

    Args:
        autoencoder: The network.
        learns: What of it learns.
        latent_noise: Noise on the latents.
        shift: Whether the latents' mean is to be removed.

    Raises:
        ConfigError: There is such a setting.
    """
    if latent_noise and autoencoder.kind == "vq":
        raise ConfigError(
            f"latent_noise is {latent_noise:g} but the kind is 'vq', whose latents are those of a codebook.",
            field="latent_noise",
            hint="Set latent_noise=0, or autoencoder.kind='kl'.",
        )
    if not shift:
        return
    if learns == "decoder":
        raise ConfigError(
            "shift is true but learns is 'decoder', which keeps the scale and shift of init_from.",
            field="shift",
            hint="Set shift=false.",
        )
    missing = [name for name in ("quant_conv", "post_quant_conv") if not getattr(autoencoder, name)]
    if missing:
        raise ConfigError(
            f"shift is true but the autoencoder has no {missing[0]}; the shift lies in the biases of quant_conv and "
            "post_quant_conv, since diffusers reads none beside them.",
            field="shift",
            hint="Set shift=false, or leave autoencoder.quant_conv and autoencoder.post_quant_conv on.",
        )


def check_discriminator(side: int, layers: int) -> None:
    """Refuse a discriminator that the pictures are too small for.

    Args:
        side: Height and width of the pictures, in pixels.
        layers: Its layers of stride 2.

    Raises:
        ConfigError: No verdict would be left of a picture.
    """
    needed = smallest_side(layers)
    if side < needed:
        raise ConfigError(
            f"objective.discriminator_layers is {layers}, which needs pictures of {needed} pixels a side; they have "
            f"{side}.",
            field="objective.discriminator_layers",
            hint="Use fewer layers.",
        )


def _devices() -> list[str]:
    """Name the devices that are there."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found is None:
        return ["cpu"]
    return ["cpu", *(f"{found.type}:{index}" for index in range(torch.accelerator.device_count()))]
