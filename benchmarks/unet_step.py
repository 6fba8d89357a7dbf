"""One evaluation of a Stable-Diffusion-1-size U-Net: random weights, 64×64 latents, 77 tokens, batch 2."""

from __future__ import annotations

import argparse
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.compare import agree, in_turns, report
from benchmarks.machine import measure
from benchmarks.options import for_sides, side_parser
from benchmarks.side import serve
from sfumato.models.presets import UNETS
from sfumato.models.unet import UNet
from sfumato.models.unet_config import UNetConfig
from sfumato.runtime.memory import keep_freed_memory

_TOLERANCE = 2e-3
TINY = UNetConfig(4, 4, (32, 64), blocks_per_level=1, attention_downsamples=(1, 2), num_heads=2, context_dim=768)
_BLOCK = 2**18 - 1
"""Random numbers of one weight, repeated in a large one: to draw 860 million takes longer than a step."""


def fill(unet: nn.Module) -> None:
    """Give every weight random numbers that depend on its name alone, so that both sides have the same.

    They are numbers that half precision holds, as those of files in half precision are.

    Call it before the memory layout changes: random numbers fill memory in its order.
    """
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if weight.ndim == 1:
                weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
                continue
            draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            block = (
                torch.empty(min(weight.numel(), _BLOCK)).normal_(std=weight[0].numel() ** -0.5, generator=draw).half()
            )
            times = -(-weight.numel() // len(block))
            weight.copy_(block.repeat(times)[: weight.numel()].view(weight.shape))


def inputs(*, tiny: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, times and context."""
    draw = torch.Generator().manual_seed(0)
    side, length = (8, 7) if tiny else (64, 77)
    x_t = torch.randn(2, 4, side, side, generator=draw)
    return x_t, torch.tensor([500, 500]), torch.randn(2, length, 768, generator=draw)


def sfumato_work(*, tiny: bool) -> Callable[[], Tensor]:
    """Return our evaluation: the context prepared once, as a sampler does."""
    unet = UNet(TINY if tiny else UNETS["sd1"]())
    fill(unet)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    keep_freed_memory()
    x_t, t, context = inputs(tiny=tiny)
    with torch.no_grad():
        prepared = unet.prepare_context(context)
    return lambda: unet(x_t, t[0], prepared)


def diffusers_unet(
    config: UNetConfig, side: int, *, channels_last: bool, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """Build diffusers' network of a configuration, for latents of a side, with the same weights as ours."""
    from benchmarks.diffusers_side import diffusers
    from sfumato.formats.diffusers_unet import write_unet_config

    written = {key: value for key, value in write_unet_config(config, side).items() if not key.startswith("_")}
    with torch.device("meta"):
        unet: nn.Module = diffusers.UNet2DConditionModel.from_config(written)
    unet.to(dtype).to_empty(device="cpu")
    fill(unet)
    if channels_last:
        unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return unet


def diffusers_work(*, tiny: bool, channels_last: bool) -> Callable[[], Tensor]:
    """Return diffusers' evaluation."""
    config = TINY if tiny else UNETS["sd1"]()
    unet = diffusers_unet(config, 8 if tiny else 64, channels_last=channels_last)
    x_t, t, context = inputs(tiny=tiny)
    return lambda: unet(x_t, t, context).sample


def _serve(options: argparse.Namespace) -> None:
    """Be one side: save the result once, then repeat on demand."""
    torch.set_num_threads(options.threads)
    if options.side == "sfumato":
        work = sfumato_work(tiny=options.tiny)
    else:
        work = diffusers_work(tiny=options.tiny, channels_last=options.channels_last)
    with torch.no_grad():
        result = options.folder / f"{options.side}.npy"
        np.save(result, work().contiguous().numpy())
        serve(work, {"result": str(result)})


def main(words: Sequence[str] | None = None) -> int:
    """Compare and print.

    Args:
        words: Options.

    Returns:
        Exit code: 0, or 1 when the results differ.
    """
    made = side_parser("unet_step", __doc__, repeats=3)
    options = made.parse_args(words)
    if options.side:
        _serve(options)
        return 0
    peak = measure(options.threads, tiny=options.tiny)
    sys.stdout.write(f"  {peak}\n")
    with tempfile.TemporaryDirectory() as name:
        result = in_turns("unet_step", for_sides(options, name), options.repeats)
        report("SD-1-size U-Net, 64×64, batch 2", result, peak, memory=True)
        return 0 if agree(result, _TOLERANCE) else 1


if __name__ == "__main__":
    sys.exit(main())
