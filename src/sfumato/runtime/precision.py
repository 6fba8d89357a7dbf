"""In which numbers a network computes while it learns: weights, losses and averages stay in float32 either way."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

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
