"""Train an autoencoder, a denoiser or a dual encoder from a recipe."""

from __future__ import annotations

from pathlib import Path

from sfumato.operations.overrides import key_and_value
from sfumato.operations.stream import Events
from sfumato.requests import TrainRequest
from sfumato.training.autoencoder import train_autoencoder
from sfumato.training.denoiser import train_denoiser
from sfumato.training.dual_encoder import train_dual_encoder
from sfumato.training.recipe_file import AutoencoderRecipe, DenoiserRecipe, DualEncoderRecipe, load_recipe

RUNS = Path("runs")


def train(request: TrainRequest) -> Events:
    """Train what the recipe says; closing the events saves the state, and `resume` goes on from it.

    Args:
        request: Which part, which recipe, what to change in it.

    Yields:
        Metrics, previews, checkpoints and the finished folder.

    Raises:
        ConfigError: The recipe or a change to it is not usable.
        CannotResume: The folder holds another run.
    """
    changes = dict(key_and_value(text) for text in request.overrides)
    if request.part == "autoencoder":
        first = load_recipe(request.recipe, AutoencoderRecipe, changes)
        yield from train_autoencoder(first, request.output or RUNS / first.name, request.resume)
    elif request.part == "dual-encoder":
        third = load_recipe(request.recipe, DualEncoderRecipe, changes)
        yield from train_dual_encoder(third, request.output or RUNS / third.name, request.resume)
    else:
        second = load_recipe(request.recipe, DenoiserRecipe, changes)
        yield from train_denoiser(second, request.output or RUNS / second.name, request.resume)
