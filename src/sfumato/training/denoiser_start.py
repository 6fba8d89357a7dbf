"""What a denoiser starts from, its weights and its pictures, beside what its recipe makes of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from sfumato.diffusion.parameterization import Prediction
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.errors import CheckpointError, ConfigError
from sfumato.events import Event, Notice
from sfumato.formats.diffusers_config import read_scheduler
from sfumato.models.autoencoder import Autoencoder
from sfumato.runtime.json_file import naming, read_json
from sfumato.training.autoencoder import without_shift
from sfumato.training.in_use import said_of_tables
from sfumato.training.latents import check_pool
from sfumato.training.parts import encoder_hash, load_autoencoder, start_weights
from sfumato.training.pictures import check_pictures, number_to_learn
from sfumato.training.recipe_file import DenoiserRecipe
from sfumato.training.state import CHECKPOINTS, has_checkpoints, latest, read_state

_AS_IT_WAS = "A U-Net that does not change must be used as it was trained."


def beginning(recipe: DenoiserRecipe, run_dir: Path) -> Iterator[Event]:
    """Check the weights to start from, and for a run that has saved nothing, nor its first stage, the pictures.

    Args:
        recipe: The recipe.
        run_dir: Folder of the run.

    Yields:
        What the user should know before anything is learned; `Progress` in pictures of a folder.

    Raises:
        ConfigError: See `check_start`; or the pool would never hold some of the pictures.
        SfumatoError: See `check_pictures`.
    """
    difference = check_start(recipe)
    if has_checkpoints(run_dir):
        return
    if difference is not None:
        yield Notice(0, difference)
    yield from said_of_tables(recipe)
    if recipe.text_encoder is None:
        yield Notice(0, "A denoiser without text ends with samples in previews/ and no bundle: nothing draws with it.")
    if not has_checkpoints(run_dir / "autoencoder"):
        yield from check_pictures(recipe.data, are_captions_read=recipe.text_encoder is not None)
    check_pool(recipe.latents, number_to_learn(recipe.data))


def check_start(recipe: DenoiserRecipe) -> str | None:
    """Compare what the U-Net of `init_from` was trained for with the recipe.

    Args:
        recipe: The recipe.

    Returns:
        What differs, for the user, where the U-Net learns: it may be meant to learn something else. `None` where
        nothing differs, or nothing tells.

    Raises:
        ConfigError: `init_from` does not exist; or something differs and the U-Net does not learn.
    """
    start = recipe.init_from
    if start is None:
        return None
    if not start.exists():
        start_weights(start, "unet")  # says what was needed
    differences = _differences(recipe, start)
    if not differences:
        return None
    listed = "; ".join(f"{key} is {_shown(here)}, there {_shown(there)}" for key, here, there in differences)
    what = f"the U-Net of '{start}' was trained for something else: {listed}."
    if recipe.learns == "all":
        return f"{what[0].upper()}{what[1:]} It learns the new ones from here on."
    raise ConfigError(
        f"learns is '{recipe.learns}', but {what} {_AS_IT_WAS}",
        field=differences[0][0],
        hint=f"Set {' and '.join(f'{key}={_shown(there)}' for key, _, there in differences)}.",
    )


def check_latents(recipe: DenoiserRecipe, autoencoder: Autoencoder) -> None:
    """Refuse a U-Net that stays as it is beside latents that it has never seen.

    Args:
        recipe: The recipe.
        autoencoder: The first stage.

    Raises:
        ConfigError: It was trained on latents of another encoder; where nothing tells, nothing is refused.
    """
    start = recipe.init_from
    if recipe.learns == "all" or start is None:
        return
    known = _settings(start).get("facts", {}).get("autoencoder")
    if known == encoder_hash(autoencoder):
        return
    run = start.parent.parent if start.parent.name == CHECKPOINTS else start
    bundle = next((place for place in (run, run / "bundle") if (place / "vae" / "config.json").is_file()), None)
    if bundle is None and known is None:
        return
    if bundle is not None and _rounded_hash(load_autoencoder(bundle)) == _rounded_hash(autoencoder):
        return
    here = recipe.autoencoder or "autoencoder_recipe"
    raise ConfigError(
        f"learns is '{recipe.learns}', but the U-Net of '{start}' was trained on latents of another encoder than that "
        f"of '{here}'. {_AS_IT_WAS}",
        field="autoencoder",
        hint="Name the autoencoder that it was trained with.",
    )


def _differences(recipe: DenoiserRecipe, start: Path) -> list[tuple[str, Any, Any]]:
    """Return the keys that the U-Net was trained with other values of, with the recipe's and its own."""
    trained = _trained_for(start)
    if trained is None:
        return []
    prediction, schedule = trained
    found: list[tuple[str, Any, Any]] = []
    if prediction != recipe.prediction:
        found.append(("prediction", recipe.prediction, prediction))
    if not _are_same(recipe.schedule, schedule):
        found += _differing(recipe.schedule, schedule)
    return found


def _differing(here: ScheduleConfig, there: ScheduleConfig) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys in which two schedules differ."""
    for item in fields(ScheduleConfig):
        values = getattr(here, item.name), getattr(there, item.name)
        if values[0] != values[1]:
            yield f"schedule.{item.name}", *values


def _are_same(one: ScheduleConfig, other: ScheduleConfig) -> bool:
    """Say whether two schedules give the same levels, in whatever words."""
    levels, others = (Schedule(config).alphas_cumprod for config in (one, other))
    return levels.shape == others.shape and torch.allclose(levels, others)


def _trained_for(start: Path) -> tuple[Prediction, ScheduleConfig] | None:
    """Read what a U-Net was trained for, of a bundle or of a run; `None` where nothing tells."""
    file = start / "scheduler" / "scheduler_config.json"
    if file.is_file():
        with naming(file):
            schedule, prediction = read_scheduler(read_json(file), str(file))
        return prediction, schedule
    settings = _settings(start)
    if not {"prediction", "schedule"} <= settings.keys():
        return None
    return settings["prediction"], TypeAdapter(ScheduleConfig).validate_python(settings["schedule"])


def _settings(start: Path) -> Mapping[str, Any]:
    """Read the settings of a run or of one of its checkpoints; empty where it is none."""
    folder = latest(start).path if (start / CHECKPOINTS).is_dir() else start
    try:
        return read_state(folder or start).settings
    except CheckpointError:
        return {}


def _rounded_hash(autoencoder: Autoencoder) -> str:
    """Return the hash of what decides the latents as a bundle holds it: in half precision, the shift in the layers."""
    return encoder_hash(copy.deepcopy(without_shift(autoencoder)).half())


def _shown(value: Any) -> str:
    """Write a value as in a recipe; of many numbers say how many they are."""
    if isinstance(value, tuple):
        return f"{len(value)} numbers"
    return str(value).lower() if isinstance(value, bool) else repr(value)
