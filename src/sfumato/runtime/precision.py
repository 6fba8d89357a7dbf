"""In which numbers a network computes, and in which it holds weights that do not learn.

What learns, losses and averages stay in float32 either way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]
Holding = Literal["fp32", "bf16", "stored"]
"""Numbers that weights are held in; `stored` are those of their files, see `sfumato.nn.stored`."""


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute convolutions and matrix products inside the block in the given numbers.

    Args:
        precision: `bf16` keeps 8 bits of each number. With AMX convolutions are 5 to 8 times faster than in
            float32, with AVX512-bf16 less so, on other processors slower; see `benchmarks/machine.py`.
        device: Where the networks are.
    """
    if precision == "fp32":
        is_inside = torch.is_autocast_enabled(device.type)
        return torch.autocast(device.type, enabled=False) if is_inside else nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def hold(network: nn.Module) -> None:
    """Hold the weights of linear layers and convolutions in bf16; they must not learn.

    These are the weights that `computing_in` rounds at each use: held so, a network computes the very same numbers from
    half the memory. Biases, norms and tables of embeddings stay as they are.

    Args:
        network: Changed in place; on the meta device no number is touched, and what fills it later is rounded.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            rounded = module.weight.detach().to(torch.bfloat16)
            module.weight = nn.Parameter(rounded, requires_grad=module.weight.requires_grad)


def computed_in(held_in: Holding) -> Precision:
    """Return the numbers that a network computes in whose weights are held in these."""
    return "bf16" if held_in == "bf16" else "fp32"


def computing_as_held(held_in: Holding, device: torch.device) -> AbstractContextManager[object]:
    """Compute inside the block as the weights are held; nothing changes unless they are held in bf16.

    Layers whose weights are held in bf16 take no float32 input outside of such a block.

    Args:
        held_in: How the weights are held.
        device: Where the networks are.
    """
    return computing_in("bf16", device) if held_in == "bf16" else nullcontext()
