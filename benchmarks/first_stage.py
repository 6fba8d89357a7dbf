"""Which first stage? Autoencoders that are trained for the same time, and how fast the U-Net learns on their latents.

The question of the latent diffusion paper's figure 6 and table 8, at the size of the embedded base: a small factor
keeps more of the picture, a large one leaves fewer places for the second stage to compute.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import fastest
from benchmarks.options import parser
from benchmarks.random_base import autoencoder_recipe, denoiser_recipe
from benchmarks.training_step import sfumato_work
from sfumato.errors import SfumatoError
from sfumato.events import Artifact, Event
from sfumato.models.autoencoder import Autoencoder
from sfumato.training.autoencoder import train_autoencoder
from sfumato.training.loop import LoopConfig
from sfumato.training.recipe_file import AutoencoderRecipe, parse_recipe, settings_of

SHAPES = ((8, 4), (8, 16), (16, 8), (16, 16), (32, 64))
_WIDTHS = (32, 48, 96, 128, 160, 192)
_KL_OF_A_NUMBER = 3e-4
_UNSCHEDULED = 10_000_000


@dataclass(frozen=True)
class FirstStage:
    """What one autoencoder came to.

    Attributes:
        factor: Pixels along a side of a latent cell.
        channels: Latent channels.
        side: Cells along a side.
        weights: Millions.
        seen: Pictures shown in the time given.
        values: `l1`, `psnr` and `perceptual` on fixed pictures.
        encodes: Pictures a second that it encodes.
        learns: Pictures a second of a training step of the U-Net on its latents.
    """

    factor: int
    channels: int
    side: int
    weights: float
    seen: int
    values: dict[str, float]
    encodes: float
    learns: float

    def __str__(self) -> str:
        shape = f"f = {self.factor}, {self.channels}×{self.side}×{self.side}"
        return (
            f"  {shape:<20} {self.weights:5.1f} M  {self.seen:>6,} pictures  L1 {self.values['l1']:.4f}  "
            f"PSNR {self.values['psnr']:5.2f} dB  perceptual {self.values['perceptual']:.3f}  "
            f"encodes {self.encodes:6.1f}/s  U-Net learns {self.learns:6.1f}/s"
        )


def recipe_of(given: AutoencoderRecipe, factor: int, channels: int, options: argparse.Namespace) -> AutoencoderRecipe:
    """Return the recipe of the base's first stage for another shape of latents, at one weight of the KL a number."""
    levels = factor.bit_length()
    side = 32 if options.tiny else 128
    numbers = channels * (side // factor) ** 2
    content: dict[str, Any] = settings_of(given)
    del content["facts"]
    content["autoencoder"] |= {"channels": _WIDTHS[:levels], "latent_channels": channels, "norm_groups": 2}
    content["objective"] |= {"perceptual_weight": 0.25, "kl_weight": _KL_OF_A_NUMBER * 3 * side**2 / numbers}
    content["optim"] |= {"schedule": "constant", "decay_steps": 0}
    content["precision"] = options.precision
    if not options.tiny:
        content["data"]["folder"] = str(options.data)
    content["loop"] |= {
        "steps": _UNSCHEDULED,
        "log_every": 1000,
        "validate_every": 0,
        "preview_every": 0,
        "save_every": _UNSCHEDULED,
        "tensorboard": False,
        "max_seconds": 1.0 if options.tiny else 60 * options.minutes,
        "threads": options.threads,
    }
    return parse_recipe(content, AutoencoderRecipe, f"f = {factor}")


def trained(recipe: AutoencoderRecipe, folder: Path) -> tuple[int, Artifact]:
    """Train for the time that the recipe gives, then one step more that measures and writes."""
    *_, last = train_autoencoder(recipe, folder)
    steps = int(last.info["step"]) + 1  # type: ignore[attr-defined]
    loop = LoopConfig(**{**recipe.loop.model_dump(), "steps": steps, "max_seconds": None})
    events: Iterator[Event] = train_autoencoder(recipe.model_copy(update={"loop": loop}), folder, resume=True)
    (made,) = [event for event in events if isinstance(event, Artifact)]
    return steps, made


def measured(factor: int, channels: int, options: argparse.Namespace) -> FirstStage:
    """Train one first stage and measure it."""
    given = autoencoder_recipe(tiny=options.tiny)
    recipe = recipe_of(given, factor, channels, options)
    with tempfile.TemporaryDirectory() as folder:
        steps, made = trained(recipe, Path(folder))
    values = {name.removeprefix("validation/"): value for name, value in made.info.items()}
    side = (32 if options.tiny else 128) // factor
    network = Autoencoder(recipe.autoencoder).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(8, 3, side * factor, side * factor).to(memory_format=torch.channels_last)
    seconds, batch, precision = (0.2, 4, "fp32") if options.tiny else (6.0, 64, options.precision)
    with torch.no_grad():
        encodes = len(images) / fastest(lambda: network.moments(images), seconds)
    unet = replace(denoiser_recipe(tiny=options.tiny).unet, in_channels=channels, out_channels=channels)
    learns = batch / fastest(sfumato_work(unet, batch, precision, side), seconds)
    weights = sum(weight.numel() for weight in network.parameters()) / 1e6
    return FirstStage(factor, channels, side, weights, steps * recipe.batch_size, values, encodes, learns)


def main(words: Sequence[str] | None = None) -> int:
    """Train, measure and print.

    Args:
        words: Options.

    Returns:
        Exit code: 0, or 2 when the training pictures are not there.
    """
    made = parser("first_stage", __doc__)
    made.add_argument("--data", type=Path, default=Path("runs/primer"), help="what `sfumato data primer` wrote")
    made.add_argument("--minutes", type=float, default=3.0, help="training time of each (default: 3)")
    made.add_argument(
        "--precision", choices=("fp32", "bf16"), default="bf16", help="numbers of products (default: bf16)"
    )
    options = made.parse_args(words)
    torch.set_num_threads(options.threads)
    shapes = ((2, 4), (4, 4)) if options.tiny else SHAPES
    try:
        for factor, channels in shapes:
            sys.stdout.write(f"{measured(factor, channels, options)}\n")
            sys.stdout.flush()
    except SfumatoError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0
