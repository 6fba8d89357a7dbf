"""Embeddings of the training time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.nn.stored import Linear
from sfumato.tensors import Times


def sinusoidal(t: Times, width: int, max_period: float = 10_000.0) -> Float[Tensor, "b {width}"]:
    """Embed times as cosines and sines of geometrically spaced frequencies.

    The order is cosines first, then sines; `f_i = max_period ** (-i / (width // 2))`, as in guided-diffusion
    and Stable Diffusion ([vaswani2017] 3.5 has the sines first). An odd width gets one column of zeros.

    Args:
        t: Times, whole or fractional.
        width: Length of one embedding.
        max_period: Longest period over `2 * pi`.

    Returns:
        One float32 embedding per time.
    """
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / max(half, 1)
    angles = t.float()[:, None] * torch.exp(-math.log(max_period) * exponents)
    embedding = torch.cat((angles.cos(), angles.sin()), dim=1)
    return F.pad(embedding, (0, width % 2))


class TimeEmbedding(nn.Module):
    """Turn sinusoids into the vector that steers the residual blocks: linear, SiLU, linear.

    Args:
        in_width: Length of the sinusoidal embedding.
        out_width: Length of the result, four times the base width in the papers.
    """

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(in_width, out_width)
        self.linear_2 = Linear(out_width, out_width)

    def forward(self, embedding: Float[Tensor, "b d_in"]) -> Float[Tensor, "b d_out"]:
        """Apply both layers."""
        out: Tensor = self.linear_2(F.silu(self.linear_1(embedding)))
        return out
