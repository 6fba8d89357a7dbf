"""Text to pictures with guidance, end to end in memory: texts encoded, all steps, pictures decoded.

Each text is encoded anew in every repetition. DDIM steps on trailing spacing from the same noise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.compare import agree, in_turns, report
from benchmarks.machine import measure
from benchmarks.options import for_sides, side_parser
from benchmarks.random_base import PROMPTS, write_random_base
from benchmarks.side import serve
from sfumato.formats.bundle import load_bundle
from sfumato.pipeline import Pipeline, Settings
from sfumato.runtime.seeding import noise

_GUIDANCE = 4.0
_TOLERANCE = 1 / 255
"""Pictures are alike when no pixel differs by more than one 8-bit value."""


def sfumato_work(base: Path, batch: int, steps: int) -> Callable[[], Tensor]:
    """Return our way to draw a batch, pictures in [0, 1]."""
    pipeline = Pipeline(load_bundle(base))
    settings = Settings(steps=steps, sampler="ddim", guidance_scale=_GUIDANCE, batch_size=batch)
    prompts, seeds = _prompts(batch), range(batch)

    def work() -> Tensor:
        pipeline.forget()
        return pipeline.images(prompts, seeds, settings) / 2 + 0.5

    return work


def diffusers_work(base: Path, batch: int, steps: int, *, channels_last: bool) -> Callable[[], Tensor]:
    """Return diffusers' way to draw the same batch."""
    from benchmarks.diffusers_side import load_pipeline

    pipeline = load_pipeline(base)
    if channels_last:
        for part in (pipeline.unet, pipeline.vae):
            part.to(memory_format=torch.channels_last)
    side = pipeline.unet.config.sample_size
    latents = noise((pipeline.unet.config.in_channels, side, side), range(batch))
    prompts = _prompts(batch)

    def work() -> Tensor:
        images: Tensor = pipeline(
            prompts, num_inference_steps=steps, guidance_scale=_GUIDANCE, latents=latents, output_type="pt"
        ).images
        return images

    return work


def _prompts(batch: int) -> list[str]:
    """Return one prompt per picture."""
    return [PROMPTS[row % len(PROMPTS)] for row in range(batch)]


def _serve(options: argparse.Namespace) -> None:
    """Be one side: save the pictures once, then repeat on demand."""
    torch.set_num_threads(options.threads)
    base, batch, steps = options.base, options.batch[0], options.steps
    if options.side == "sfumato":
        work = sfumato_work(base, batch, steps)
    else:
        work = diffusers_work(base, batch, steps, channels_last=options.channels_last)
    result = options.folder / f"{options.side}-{batch}.npy"
    np.save(result, work().numpy())
    serve(work, {"result": str(result)})


def main(words: Sequence[str] | None = None) -> int:
    """Compare and print.

    Args:
        words: Options.

    Returns:
        Exit code: 0, or 1 when the pictures differ.
    """
    made = side_parser("generate", __doc__)
    made.add_argument("--base", type=Path, help="folder of a base (default: random weights, the embedded base's shape)")
    made.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="pictures at once (default: 1 4)")
    made.add_argument("--steps", type=int, default=20, help="must divide 1000 (default: 20)")
    options = made.parse_args(words)
    if options.side:
        _serve(options)
        return 0
    peak = measure(options.threads, tiny=options.tiny)
    sys.stdout.write(f"  {peak}\n")
    same = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = options.base or folder / "base"
        if options.base is None:
            write_random_base(base, tiny=options.tiny)
        shared = [*for_sides(options, name), "--base", str(base.resolve()), "--steps", str(options.steps)]
        for batch in options.batch:
            result = in_turns("generate", [*shared, "--batch", str(batch)], options.repeats)
            report(f"{options.steps} steps, batch {batch}", result, peak, items=batch, unit="pictures")
            same = agree(result, _TOLERANCE) and same
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
