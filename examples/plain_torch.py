"""Use the parts by hand: latents, text features, a sampler, the decoder. All of them are plain torch modules.

python examples/plain_torch.py [BASE]
"""

import sys

import torch

import sfumato
from sfumato.diffusion.levels import spaced_levels
from sfumato.models.denoiser import Condition
from sfumato.runtime.seeding import noise


@torch.no_grad()
def main(base: str = "primer") -> None:
    """Run the example."""
    bundle = sfumato.load_bundle(base)

    def condition(text: str) -> Condition:
        return Condition(bundle.text_encoder(bundle.tokenizer.encode([text])).context)

    denoise = bundle.denoiser().bind_guided(condition("a red fox"), condition(""), guidance_scale=4.0)
    side = bundle.native_size // bundle.autoencoder.downsample_factor
    shape = (bundle.unet.config.in_channels, side, side)
    seeds = [0]
    steps = sfumato.SAMPLERS["ddim"](
        denoise,
        noise(shape, seeds),
        spaced_levels(bundle.schedule, 10),
        draw=lambda step: noise(shape, seeds, "sampler", step),  # only asked for by samplers that add noise
    )
    latents = [step.x_t for step in steps][-1]
    images = bundle.autoencoder.to_images(latents)
    print(f"pictures: {tuple(images.shape)}, from {float(images.min()):.2f} to {float(images.max()):.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:2])
