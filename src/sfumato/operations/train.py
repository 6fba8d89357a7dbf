"""Train an autoencoder, a denoiser or a dual encoder from a recipe."""

from __future__ import annotations

from pathlib import Path

from sfumato.operations.overrides import key_and_value
from sfumato.operations.stream import Events
from sfumato.requests import TrainRequest
from sfumato.runtime.locks import only_one
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
        ConfigError: The recipe or a change to it is not usable, or another process trains in the same folder.
        CannotResume: The folder holds another run.
    """
    changes = dict(key_and_value(text) for text in request.overrides)
    if request.part == "autoencoder":
        first = load_recipe(request.recipe, AutoencoderRecipe, changes)
        run_dir = request.output or RUNS / first.name
        events = train_autoencoder(first, run_dir, request.resume)
    elif request.part == "dual-encoder":
        third = load_recipe(request.recipe, DualEncoderRecipe, changes)
        run_dir = request.output or RUNS / third.name
        events = train_dual_encoder(third, run_dir, request.resume)
    else:
        second = load_recipe(request.recipe, DenoiserRecipe, changes)
        run_dir = request.output or RUNS / second.name
        events = train_denoiser(second, run_dir, request.resume)
    with only_one(run_dir):
        yield from events
