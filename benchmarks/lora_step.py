"""One step of learning low-rank factors on a Stable-Diffusion-1-size U-Net, beside peft on diffusers.

Random weights, 64×64 latents (512² pixels), 77 tokens, batch 1, rank 8 on q, k, v and out of every attention; forward,
loss, backward, AdamW on the factors. Both sides have the same weights, factors, inputs and numbers to compute in.
Each holds frozen weights in its own way. In float32 sfumato leaves those of linear layers and convolutions in the half
precision that their file has, as `learn` does; diffusers has them in float32. In bf16 sfumato holds these in bf16;
diffusers all of them and the inputs, as its training programs do: the network moved to bf16, under autocast.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.compare import SIDES, Comparison, agree, in_turns, report
from benchmarks.machine import measure
from benchmarks.options import for_sides, side_parser
from benchmarks.side import Side, serve
from benchmarks.unet_step import TINY, diffusers_unet, fill
from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.models.presets import UNETS
from sfumato.models.unet import UNet
from sfumato.models.unet_config import UNetConfig
from sfumato.nn.stored import hold_as_stored
from sfumato.runtime.empty_weights import empty_weights
from sfumato.runtime.memory import keep_freed_memory
from sfumato.runtime.precision import Precision, computing_in, hold

_RANK = 8
_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
_TOLERANCE: Mapping[Precision, float] = {"fp32": 1e-3, "bf16": 2e-2}
_STEPS = 2


def set_factor(name: str, factor: Tensor) -> None:
    """Give a factor random numbers that depend on its name alone; none starts at zero, so that both learn at once."""
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    with torch.no_grad():
        factor.copy_(torch.randn(factor.shape, generator=draw) / factor.shape[1] ** 0.5 / 4)


def sfumato_parts(
    config: UNetConfig, precision: Precision, *, checkpointing: bool
) -> tuple[nn.Module, list[nn.Parameter]]:
    """Return our network as `learn` uses it and the factors that learn."""
    with empty_weights():
        unet = UNet(config)
    if precision == "bf16":
        hold(unet)
    else:
        hold_as_stored(unet, dict.fromkeys(unet.state_dict(), torch.float16))
    unet.to_empty(device="cpu")
    fill(unet)
    unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    unet.eval().requires_grad_(False)
    unet.gradient_checkpointing = checkpointing
    keep_freed_memory()
    lora = LoRA(unet, LoRAConfig(_RANK, targets=("attention",)))
    for name, factor in lora.state().items():
        set_factor(name, factor)
    lora.attach()
    lora.train()
    return unet, list(lora.parameters())


def peft_parts(
    config: UNetConfig, dtype: torch.dtype, *, checkpointing: bool, channels_last: bool, side: int
) -> tuple[nn.Module, list[nn.Parameter]]:
    """Return diffusers' network with peft's factors, in the numbers that peft gives them."""
    unet = diffusers_unet(config, side, channels_last=channels_last, dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft
    unet.requires_grad_(False)
    asked = peft.LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=list(_TARGETS))
    peft.inject_adapter_in_model(asked, unet)
    unet.train()
    if checkpointing:
        unet.enable_gradient_checkpointing()
    for name, factor in unet.named_parameters():
        if factor.requires_grad:
            ours = name.replace(".lora_A.default.weight", ".down").replace(".lora_B.default.weight", ".up")
            set_factor(ours, factor)
    return unet, [factor for factor in unet.parameters() if factor.requires_grad]


def step_of(
    call: Callable[[Tensor, Tensor, Tensor], Tensor],
    factors: Sequence[nn.Parameter],
    config: UNetConfig,
    precision: Precision,
    *,
    tiny: bool,
) -> Callable[[], Tensor]:
    """Return one step on fixed inputs; it returns the loss before the update."""
    draw = torch.Generator().manual_seed(0)
    side, length = (8, 7) if tiny else (64, 77)
    x_t = torch.randn(1, config.in_channels, side, side, generator=draw)
    wanted = torch.randn(x_t.shape, generator=draw)
    t, context = torch.tensor([500]), torch.randn(1, length, 768, generator=draw)
    optimizer = torch.optim.AdamW(factors, lr=1e-3, weight_decay=0.0, fused=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with computing_in(precision, torch.device("cpu")):
            output = call(x_t, t, context)
        loss = F.mse_loss(output.float(), wanted)
        loss.backward()
        optimizer.step()
        return loss.detach()[None]

    return step


def _serve(options: argparse.Namespace) -> None:
    """Be one side: save the losses of the first steps, then repeat on demand."""
    torch.set_num_threads(options.threads)
    tiny = options.tiny
    config, how = TINY if tiny else UNETS["sd1"](), {"checkpointing": options.checkpointing}
    if options.side == SIDES[0]:
        unet, factors = sfumato_parts(config, options.precision, **how)
        work = step_of(unet, factors, config, options.precision, tiny=tiny)
    else:
        dtype = torch.float32 if options.precision == "fp32" else torch.bfloat16
        unet, factors = peft_parts(config, dtype, **how, channels_last=options.channels_last, side=8 if tiny else 64)

        def call(x_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
            out: Tensor = unet(x_t.to(dtype), t, context.to(dtype)).sample
            return out

        work = step_of(call, factors, config, options.precision, tiny=tiny)
    result = options.folder / f"{options.side}.npy"
    np.save(result, torch.cat([work() for _ in range(_STEPS)]).numpy())
    serve(work, {"result": str(result)})


def _alone(options: argparse.Namespace, precision: Precision, words: Sequence[str]) -> None:
    """Measure and print one side."""
    with Side("lora_step", options.only, words) as side:
        facts = side.read()
        seconds = median(side.repeat() for _ in range(options.repeats))
    rate, losses = facts["flops"] / seconds / 1e9, np.load(facts["result"])
    sys.stdout.write(
        f"  LoRA step, SD-1-size U-Net, {precision}: {options.only} alone {seconds:.3f} s  {rate:.1f} GFLOP/s"
        f"  {facts['memory'] / 2**30:.2f} GiB, first losses {', '.join(f'{loss:.4f}' for loss in losses)}\n"
    )
    sys.stdout.flush()


def memory_ratio(result: Comparison) -> float:
    """Return the peak memory of our process by that of the other; below 1 we need less."""
    ours, theirs = (result.facts[side]["memory"] for side in SIDES)
    return float(ours / theirs)


def main(words: Sequence[str] | None = None) -> int:
    """Compare and print.

    Args:
        words: Options.

    Returns:
        Exit code: 0, or 1 when the losses of the first steps differ.
    """
    made = side_parser("lora_step", __doc__, repeats=3)
    made.add_argument("--precision", choices=("fp32", "bf16"), default=None, help="one only (default: both)")
    made.add_argument("--checkpointing", action="store_true", help="gradient checkpointing on both sides")
    made.add_argument("--only", choices=SIDES, help="measure one side alone; nothing is compared")
    options = made.parse_args(words)
    if options.side:
        _serve(options)
        return 0
    same, peak = True, None if options.only else measure(options.threads, tiny=options.tiny)
    sys.stdout.write("" if peak is None else f"  {peak}\n")
    for precision in (options.precision,) if options.precision else ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as name:
            shared = [*for_sides(options, name), "--precision", precision]
            shared += ["--checkpointing"] if options.checkpointing else []
            if peak is None:
                _alone(options, precision, shared)
                continue
            result = in_turns("lora_step", shared, options.repeats)
            how = ", checkpointing" if options.checkpointing else ""
            report(f"LoRA step, SD-1-size U-Net, {precision}{how}", result, peak, memory=True)
            sys.stdout.write(f"    memory ratio {memory_ratio(result):.2f} (ours by theirs, peak of each process)\n")
            same = agree(result, _TOLERANCE[precision]) and same
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
