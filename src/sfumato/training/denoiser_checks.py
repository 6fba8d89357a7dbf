"""Refuse a denoiser that cannot be trained, before anything is computed."""

from __future__ import annotations

import torch

from sfumato.diffusion.schedules import Schedule
from sfumato.errors import ConfigError
from sfumato.formats.diffusers_config import write_autoencoder_config
from sfumato.formats.diffusers_unet import write_unet_config
from sfumato.models.autoencoder import Autoencoder
from sfumato.training.recipe_file import DenoiserRecipe


def check_recipe(recipe: DenoiserRecipe) -> None:
    """Refuse what the recipe alone shows to be wrong.

    Args:
        recipe: The recipe.

    Raises:
        ConfigError: A text encoder is to learn alone but is not there, or has nothing that understands it; or at one of
            the times no loss can be computed.
    """
    _check_what_learns(recipe)
    _check_levels(recipe)


def check_fit(recipe: DenoiserRecipe, autoencoder: Autoencoder) -> None:
    """Refuse parts that do not fit one another.

    Args:
        recipe: Says what the U-Net and the text encoder are.
        autoencoder: The first stage.

    Raises:
        ConfigError: The U-Net has another number of channels than the latents, or another width than the texts.
        UnknownFormat: A part is one that no model folder can express.
    """
    needed = {
        "in_channels": autoencoder.config.denoiser_channels,
        "out_channels": autoencoder.config.denoiser_channels,
        "context_dim": None if recipe.text_encoder is None else recipe.text_encoder.width,
    }
    for key, value in needed.items():
        if getattr(recipe.unet, key) != value:
            raise ConfigError(
                f"unet.{key} is {getattr(recipe.unet, key)}; the autoencoder and the text encoder need {value}.",
                field=f"unet.{key}",
                hint="Change it in the recipe, or name the autoencoder that belongs to it.",
            )
    if recipe.text_encoder is not None:  # what ends as a model folder must be one that can be written
        write_unet_config(recipe.unet, 1)
        write_autoencoder_config(autoencoder.config, 1)


def _check_what_learns(recipe: DenoiserRecipe) -> None:
    """Refuse a text encoder that is to learn alone but is not there, or has nothing that understands it."""
    if recipe.learns == "all":
        return
    if recipe.text_encoder is None:
        raise ConfigError(
            "learns is 'text_encoder' but the recipe has none.",
            field="learns",
            hint="Add the table [text_encoder], or set learns='all'.",
        )
    if recipe.init_from is None:
        raise ConfigError(
            "learns is 'text_encoder' but init_from is not given; a U-Net that does not change must be able to draw.",
            field="init_from",
            hint="Name the folder of a run or of a base.",
        )
    if recipe.alignment.weight > 0:
        raise ConfigError(
            f"learns is 'text_encoder' but alignment.weight is {recipe.alignment.weight:g}; only a U-Net is aligned.",
            field="alignment.weight",
            hint="Set alignment.weight=0.",
        )


def _check_levels(recipe: DenoiserRecipe) -> None:
    """Refuse eps at pure noise, and its debiased weight at SNR 0: the first draw of that time would end the run."""
    if recipe.prediction != "eps":
        return
    schedule = Schedule(recipe.schedule)
    t = torch.arange(schedule.num_train_steps)
    if bool((schedule.alpha(t) == 0).any()):
        is_rescaled = recipe.schedule.zero_terminal_snr
        end = f"the betas of kind {recipe.schedule.kind!r} end in {float(schedule.betas[-1]):g}"
        raise ConfigError(
            "prediction is 'eps' but the schedule ends in pure noise "
            f"({'schedule.zero_terminal_snr is true' if is_rescaled else end}), where a network could only copy what "
            "it sees; needed: some signal at every time.",
            field="prediction",
            hint="Set prediction='v' or 'x_0', or "
            f"{'schedule.zero_terminal_snr=false' if is_rescaled else 'give smaller betas'}.",
        )
    if recipe.objective.weighting == "debiased" and bool((schedule.snr(t) == 0).any()):
        raise ConfigError(
            "objective.weighting is 'debiased' and prediction is 'eps', but the signal-to-noise ratio of the schedule "
            "falls to 0 in 32 bits, where the weight 1 / sqrt(SNR) is infinite; needed: more than 0 at every time.",
            field="objective.weighting",
            hint="Set prediction='v', or objective.weighting='min_snr', or give smaller betas.",
        )
