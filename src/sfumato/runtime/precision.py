"""In which numbers a network computes, and in which it holds weights that do not learn.

What learns, losses and averages stay in float32 either way.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

Precision = Literal["fp32", "bf16"]


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute convolutions and matrix products inside the block in the given numbers.

    Args:
        precision: `bf16` keeps 8 bits of each number. On processors with matrix units (AMX) it is 5 to 8 times faster
            than float32 in convolutions, on others slower; see `benchmarks/machine.py`.
        device: Where the networks are.
    """
    if precision == "fp32":
        is_inside = torch.is_autocast_enabled(device.type)
        return torch.autocast(device.type, enabled=False) if is_inside else nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def hold(network: nn.Module, precision: Precision) -> None:
    """Hold the weights of linear layers and convolutions in the given numbers; they must not learn in bf16.

    These are the weights that `computing_in` rounds at each use: held so, a network computes the very same numbers from
    half the memory. Biases, norms and tables of embeddings stay as they are.

    Args:
        network: Changed in place; on the meta device no number is touched, and what fills it later is rounded.
        precision: `fp32` leaves the network as it is.
    """
    if precision == "fp32":
        return
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            rounded = module.weight.detach().to(torch.bfloat16)
            module.weight = nn.Parameter(rounded, requires_grad=module.weight.requires_grad)


def computing_as_held(held_in: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute inside the block in the numbers that weights are held in; weights in float32 change nothing.

    Layers whose weights are held in bf16 take no float32 input outside of such a block.

    Args:
        held_in: What `hold` was told.
        device: Where the networks are.
    """
    return nullcontext() if held_in == "fp32" else computing_in(held_in, device)
