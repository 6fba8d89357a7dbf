"""Recipes of both stages, small enough to be trained in a second, on pictures drawn in code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sfumato.events import Artifact, Event
from sfumato.training.recipe_file import AutoencoderRecipe, DenoiserRecipe, parse_recipe

DATA = {"kind": "shapes", "size": 16, "workers": 0}
LOOP = {"steps": 4, "save_every": 2, "log_every": 1, "tensorboard": False}
FIRST: dict[str, Any] = {
    "kind": "autoencoder",
    "batch_size": 4,
    "validation_pictures": 4,
    "scaling_pictures": 64,
    "data": DATA,
    "autoencoder": {
        "channels": [8, 16],
        "blocks_per_level": 1,
        "latent_channels": 4,
        "norm_groups": 8,
        "mid_attention": False,
    },
    "objective": {"perceptual_weight": 0.0},
    "optim": {"lr": 2e-3},
    "ema": {"decay": 0.9},
    "loop": LOOP,
}
SECOND: dict[str, Any] = {
    "kind": "denoiser",
    "name": "small",
    "batch_size": 4,
    "validation_pictures": 8,
    "prediction": "v",
    "data": DATA,
    "tokenizer": {"vocab_size": 600, "context_length": 24, "captions": 128},
    "text_encoder": {"width": 32, "layers": 1, "heads": 2, "mlp_width": 32},
    "unet": {
        "in_channels": 4,
        "out_channels": 4,
        "channels": [16, 32],
        "blocks_per_level": 1,
        "attention_downsamples": [2],
        "num_heads": 2,
        "context_dim": 32,
        "norm_groups": 8,
        "dropout": 0.1,
    },
    "schedule": {"zero_terminal_snr": True},
    "objective": {"weighting": "min_snr", "offset_noise": 0.05, "text_dropout": 0.3},
    "latents": {"shard_size": 8, "window": 2, "rotate_every": 2, "encode_batch": 4},
    "optim": {"name": "muon", "lr": 1e-3},
    "ema": {"decay": 0.9},
    "preview": {"prompts": ["a small red ring on a white background"], "count": 2, "steps": 2},
    "loop": LOOP,
}


def first(**changes: Any) -> AutoencoderRecipe:
    """The first stage."""
    return parse_recipe({**FIRST, **changes}, AutoencoderRecipe, "first")


def second(place: Path, **changes: Any) -> DenoiserRecipe:
    """The second stage on a trained first one."""
    return parse_recipe({**SECOND, "autoencoder": str(place), **changes}, DenoiserRecipe, "second")


def artifact(events: list[Event]) -> Artifact:
    """Return the one artifact."""
    (found,) = [event for event in events if isinstance(event, Artifact)]
    return found
