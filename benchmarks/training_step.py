"""One step of training the embedded base's U-Net: forward, loss, backward, clipping, AdamW; text given, batch 64."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.compare import agree, in_turns, report
from benchmarks.machine import measure
from benchmarks.options import for_sides, side_parser
from benchmarks.random_base import denoiser_recipe
from benchmarks.side import serve
from benchmarks.unet_step import diffusers_unet, fill
from sfumato.models.unet import UNet
from sfumato.models.unet_config import UNetConfig
from sfumato.runtime.memory import keep_freed_memory
from sfumato.runtime.precision import Precision, computing_in

_TOLERANCE = 2e-3


def step_of(
    unet: nn.Module, config: UNetConfig, batch: int, precision: Precision, read: Callable[..., Tensor], side: int = 8
) -> Callable[[], Tensor]:
    """Return one training step on fixed inputs of `side` cells along a side; it returns the loss before the update."""
    draw = torch.Generator().manual_seed(0)
    x_t = torch.randn(batch, config.in_channels, side, side, generator=draw)
    wanted = torch.randn(x_t.shape, generator=draw)
    t = torch.randint(1000, (batch,), generator=draw)
    context = torch.randn(batch, 32, config.context_dim or 1, generator=draw)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with computing_in(precision, torch.device("cpu")):
            output = read(unet, x_t, t, context)
        loss = F.mse_loss(output.float(), wanted)
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        return loss.detach()[None]

    return step


def sfumato_work(config: UNetConfig, batch: int, precision: Precision, side: int = 8) -> Callable[[], Tensor]:
    """Return our step."""
    unet = UNet(config)
    fill(unet)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    keep_freed_memory()
    return step_of(unet, config, batch, precision, lambda unet, *inputs: unet(*inputs), side)


def diffusers_work(
    config: UNetConfig, batch: int, precision: Precision, *, channels_last: bool
) -> Callable[[], Tensor]:
    """Return diffusers' step."""
    unet = diffusers_unet(config, 8, channels_last=channels_last)
    unet.train()
    return step_of(unet, config, batch, precision, lambda unet, *inputs: unet(*inputs).sample)


def _serve(options: argparse.Namespace) -> None:
    """Be one side: save the losses of the first steps, then repeat on demand."""
    torch.set_num_threads(options.threads)
    config = denoiser_recipe(tiny=options.tiny).unet
    batch, precision = 4 if options.tiny else options.batch, options.precision
    if options.side == "sfumato":
        work = sfumato_work(config, batch, precision)
    else:
        work = diffusers_work(config, batch, precision, channels_last=options.channels_last)
    result = options.folder / f"{options.side}-{precision}.npy"
    np.save(result, torch.cat([work() for _ in range(3)]).numpy())
    serve(work, {"result": str(result)})


def main(words: Sequence[str] | None = None) -> int:
    """Compare and print.

    Args:
        words: Options.

    Returns:
        Exit code: 0, or 1 when the losses of the first steps differ.
    """
    made = side_parser("training_step", __doc__)
    made.add_argument("--batch", type=int, default=64, help="pictures a step (default: 64)")
    made.add_argument("--precision", choices=("fp32", "bf16"), default=None, help="one only (default: both)")
    options = made.parse_args(words)
    if options.side:
        _serve(options)
        return 0
    peak = measure(options.threads, tiny=options.tiny)
    sys.stdout.write(f"  {peak}\n")
    same = True
    with tempfile.TemporaryDirectory() as name:
        shared = [*for_sides(options, name), "--batch", str(options.batch)]
        for precision in (options.precision,) if options.precision else ("fp32", "bf16"):
            result = in_turns("training_step", [*shared, "--precision", precision], options.repeats)
            items = 4 if options.tiny else options.batch
            report(f"training step, {precision}", result, peak, items=items, unit="pictures", memory=True)
            same = agree(result, _TOLERANCE if precision == "fp32" else 20 * _TOLERANCE) and same
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
