"""Named random numbers: (seed, purpose, index) always gives the same stream, on every device and in any order.

Noise is drawn on the CPU, one picture at a time, so that a picture depends on its own seed and not on its neighbours in
the batch. Training draws are keyed by the step, so a resumed run needs no generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str, index: int = 0) -> int:
    """Derive a 63-bit seed from a user's seed, a purpose such as `"noise"` and an index."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str, index: int = 0) -> torch.Generator:
    """Return a CPU generator for one purpose. Use one per purpose, never one for everything."""
    return torch.Generator("cpu").manual_seed(derive_seed(seed, purpose, index))


def noise(shape: Sequence[int], seeds: Sequence[int], purpose: str = "noise", index: int = 0) -> Tensor:
    """Draw standard normal noise, each row from its own seed.

    Args:
        shape: Shape of one row, for example `(c, h, w)`.
        seeds: One seed per row.
        purpose: What the noise is for.
        index: Number of the draw within the purpose, such as the sampler step.

    Returns:
        Noise of shape `(len(seeds), *shape)`, float32 on the CPU.
    """
    return torch.stack([torch.randn(tuple(shape), generator=generator(seed, purpose, index)) for seed in seeds])
