"""A base model with random weights in the shape that recipes describe: as fast as a trained one of that shape."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from benchmarks.side import ROOT
from sfumato.diffusion.schedules import Schedule
from sfumato.formats.bundle import Bundle, save_bundle
from sfumato.models.autoencoder import Autoencoder
from sfumato.models.text_encoder import TextEncoder, TextEncoderConfig
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.unet import UNet
from sfumato.training.recipe_file import AutoencoderRecipe, DenoiserRecipe, load_recipe

PROMPTS = (
    "a red apple on a white background",
    "a dog on a blue background",
    "a guitar to the left of a cake",
    "portrait of a person with round glasses, laughing",
)
_SMALLEST_VOCABULARY = 600


def denoiser_recipe(*, tiny: bool) -> DenoiserRecipe:
    """Read the recipe of the embedded base, or of the tiny one."""
    return load_recipe(ROOT / "recipes" / ("tiny.toml" if tiny else "primer-denoiser.toml"), DenoiserRecipe)


def autoencoder_recipe(*, tiny: bool) -> AutoencoderRecipe:
    """Read the recipe of the first stage that belongs to it."""
    return load_recipe(ROOT / "recipes" / f"{'tiny' if tiny else 'primer'}-autoencoder.toml", AutoencoderRecipe)


def write_random_base(folder: Path, *, tiny: bool) -> None:
    """Write a base with random weights in diffusers layout.

    Args:
        folder: Where to.
        tiny: The shape of `recipes/tiny.toml` instead of the embedded base's.
    """
    torch.manual_seed(0)
    recipe, first = denoiser_recipe(tiny=tiny), autoencoder_recipe(tiny=tiny)
    tokenizer = Tokenizer.train([*PROMPTS] * 4, _SMALLEST_VOCABULARY, recipe.tokenizer.context_length)
    assert recipe.text_encoder is not None
    text = TextEncoderConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.context_length,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        **recipe.text_encoder.model_dump(),
    )
    autoencoder = Autoencoder(first.autoencoder)
    bundle = Bundle(
        autoencoder=autoencoder,
        unet=UNet(recipe.unet),
        text_encoder=TextEncoder(text),
        tokenizer=tokenizer,
        schedule=Schedule(recipe.schedule),
        prediction=recipe.prediction,
        name="random",
        native_size=first.data.size,
    )
    for module in bundle.modules.values():
        for parameter in module.parameters():
            if parameter.ndim > 1 and not bool(parameter.any()):  # a branch that starts silent would hide errors
                nn.init.normal_(parameter, std=0.02)
    save_bundle(bundle, folder, torch.float16)
