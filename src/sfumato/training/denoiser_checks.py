"""Refuse a denoiser that cannot be trained, before anything is computed."""

from __future__ import annotations

import torch

from sfumato.diffusion.schedules import Schedule
from sfumato.errors import ConfigError
from sfumato.formats.diffusers_unet import write_unet_config
from sfumato.models.autoencoder import AutoencoderConfig
from sfumato.models.unet import UNet
from sfumato.nn.attention import check_heads
from sfumato.runtime.empty_weights import empty_weights
from sfumato.training.recipe_file import DenoiserRecipe


def check_recipe(recipe: DenoiserRecipe) -> None:
    """Refuse what the recipe alone shows to be wrong.

    Args:
        recipe: The recipe.

    Raises:
        ConfigError: A text encoder is to learn alone but is not there, or has nothing that understands it; two first
            stages are given; bundles are due where nothing is saved; at one of the times no loss can be computed; or
            the U-Net cannot be built, needs more than a text, or texts of another
            width.
        UnknownFormat: The U-Net is one that no model folder can express.
    """
    _check_what_learns(recipe)
    _check_first_stage(recipe)
    _check_bundles(recipe)
    _check_levels(recipe)
    _check_conditions(recipe)
    _check_previews(recipe)
    if recipe.text_encoder is not None:
        check_heads(recipe.text_encoder.width, recipe.text_encoder.heads)
        write_unet_config(recipe.unet, 1)  # what ends as a model folder must be one that can be written
    with empty_weights():
        UNet(recipe.unet)


def _check_previews(recipe: DenoiserRecipe) -> None:
    """Refuse previews of more steps than the schedule has times."""
    steps, most = recipe.preview.steps, Schedule(recipe.schedule).num_train_steps
    if recipe.loop.preview_every and steps > most:
        raise ConfigError(
            f"preview.steps is {steps}, but the schedule has {most} times.",
            field="preview.steps",
            hint=f"Set preview.steps to {most} or less, or loop.preview_every to 0.",
        )


def _check_first_stage(recipe: DenoiserRecipe) -> None:
    """Refuse an autoencoder beside the recipe of another, of which one would be left out."""
    if recipe.autoencoder is not None and recipe.autoencoder_recipe is not None:
        raise ConfigError(
            f"Both are given, autoencoder '{recipe.autoencoder}' and autoencoder_recipe '{recipe.autoencoder_recipe}'; "
            "needed: one of them.",
            field="autoencoder",
            hint="Leave out autoencoder to train one, or take autoencoder_recipe out of the recipe.",
        )


def _check_bundles(recipe: DenoiserRecipe) -> None:
    """Refuse bundles between saves: they are written when a state has been saved."""
    every, saves = recipe.bundle_every, recipe.loop.save_every
    if every % saves:
        raise ConfigError(
            f"bundle_every is {every}, but states are saved every {saves} steps, and bundles with them; needed: a "
            f"multiple of {saves}.",
            field="bundle_every",
            hint=f"Set bundle_every={saves * max(1, round(every / saves))}, or 0 for none but the last.",
        )


def check_fit(recipe: DenoiserRecipe, autoencoder: AutoencoderConfig) -> None:
    """Refuse a U-Net that does not fit the latents.

    Args:
        recipe: Says what the U-Net and the pictures are.
        autoencoder: What the first stage is made of.

    Raises:
        ConfigError: The U-Net has another number of channels than the latents, or halves them too often.
    """
    for key in ("in_channels", "out_channels"):
        _check_number(recipe, key, autoencoder.denoiser_channels)
    side, f, halvings = recipe.data.side, autoencoder.downsample_factor, len(recipe.unet.channels) - 1
    multiple = f * recipe.unet.downsample_factor
    if side % multiple:
        other_size = "" if recipe.data.kind == "primer" else f", or set data.size to a multiple of {multiple}"
        raise ConfigError(
            f"The pictures are {side} × {side} pixels; the autoencoder makes them {f} times smaller and the U-Net "
            f"halves that {halvings} time{'' if halvings == 1 else 's'}; needed: a multiple of {multiple}.",
            field="unet.channels",
            hint=f"Give unet.channels fewer entries{other_size}.",
        )


def _check_number(recipe: DenoiserRecipe, key: str, needed: int | None) -> None:
    """Refuse a number of the U-Net that the other parts do not have."""
    given = getattr(recipe.unet, key)
    if given != needed:
        raise ConfigError(
            f"unet.{key} is {given}; the autoencoder and the text encoder need {needed}.",
            field=f"unet.{key}",
            hint="Change it in the recipe, or name the autoencoder that belongs to it.",
        )


def _check_conditions(recipe: DenoiserRecipe) -> None:
    """Refuse a U-Net that needs what its training does not give it."""
    for key, none in (("num_classes", None), ("vector_width", None), ("concat_channels", 0)):
        given = getattr(recipe.unet, key)
        if given != none:
            raise ConfigError(
                f"unet.{key} is {given}, but a denoiser learns from pictures and their captions, and nothing else.",
                field=f"unet.{key}",
                hint="Leave it out.",
            )
    _check_number(recipe, "context_dim", None if recipe.text_encoder is None else recipe.text_encoder.width)


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
