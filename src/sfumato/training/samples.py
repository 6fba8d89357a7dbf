"""Sheets of samples while a denoiser trains: fixed prompts, fixed seeds, DDIM with guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.diffusion.levels import spaced_levels
from sfumato.models.autoencoder import Autoencoder
from sfumato.models.denoiser import Condition, Denoiser
from sfumato.runtime.seeding import noise
from sfumato.samplers.ddim import ddim
from sfumato.tensors import Images, Latents

OneText = Float[Tensor, "1 l d"]


def sample_images(
    denoiser: Denoiser,
    autoencoder: Autoencoder,
    latent_shape: Sequence[int],
    cond: OneText | None,
    uncond: OneText | None,
    *,
    count: int,
    steps: int,
    guidance_scale: float,
) -> Images:
    """Draw pictures with seeds 0, 1, … for one condition.

    Args:
        denoiser: Network, schedule, prediction.
        autoencoder: Decoder.
        latent_shape: Channels, height and width of the latents.
        cond: Context of the prompt, `(1, l, d)`; `None` for an unconditional network.
        uncond: Context of the empty prompt, same shape.
        count: Number of pictures.
        steps: Number of DDIM steps.
        guidance_scale: 1 = off.

    Returns:
        Pictures, `(count, 3, H, W)`.
    """
    device = next(denoiser.unet.parameters()).device
    x_t: Latents = noise(tuple(latent_shape), range(count)).to(device)
    if cond is None or uncond is None:
        denoise = denoiser.bind()
    else:
        wanted, empty = (Condition(context.expand(count, -1, -1)) for context in (cond, uncond))
        denoise = denoiser.bind_guided(wanted, empty, guidance_scale)

    def draw(step: int) -> Latents:
        return noise(tuple(latent_shape), range(count), "sampler", step).to(device)

    levels = spaced_levels(denoiser.schedule, steps)
    with torch.no_grad():
        for step in ddim(denoise, x_t, levels, draw=draw):
            x_t = step.x_t
        return autoencoder.to_images(x_t)
