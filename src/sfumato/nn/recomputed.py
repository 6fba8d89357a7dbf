"""Activations that are computed again for the gradient instead of kept: they take little time and much memory.

Results and gradients are bit for bit those of the same operations one after the other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def norm_silu(norm: nn.GroupNorm, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return `silu(norm(x))`; for the gradient `x` alone is kept."""
    out: Tensor = _NormSilu.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
    return out


def geglu(projected: Float[Tensor, "b l d2"]) -> Float[Tensor, "b l d"]:
    """Gate one half of the channels by the exact GELU of the other ([shazeer2020] eq. 6).

    For the gradient the input alone is kept.

    Args:
        projected: What is gated, then the gates.

    Returns:
        The first half times the GELU of the second.
    """
    out: Tensor = _Geglu.apply(projected)
    return out


class _NormSilu(torch.autograd.Function):
    """GroupNorm and SiLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Normalise and activate."""
        ctx.save_for_backward(x, weight, bias)
        ctx.groups, ctx.eps = groups, eps
        return F.silu(F.group_norm(x, groups, weight, bias, eps), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Compute both again, then go back through them."""
        asked = ctx.needs_input_grad[:3]
        inputs = [
            tensor.detach().requires_grad_(needed) for tensor, needed in zip(ctx.saved_tensors, asked, strict=True)
        ]
        with torch.enable_grad():
            x, weight, bias = inputs
            out = F.silu(F.group_norm(x, ctx.groups, weight, bias, ctx.eps))
        found = iter(torch.autograd.grad(out, [tensor for tensor in inputs if tensor.requires_grad], grad))
        return (*(next(found) if needed else None for needed in asked), None, None)


class _Geglu(torch.autograd.Function):
    """One half times the GELU of the other."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> Tensor:
        """Gate."""
        ctx.save_for_backward(projected)
        hidden, gate = projected.chunk(2, dim=-1)
        return F.gelu(gate).mul_(hidden)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Compute the gate again, then go back through the product."""
        (projected,) = ctx.saved_tensors
        hidden, gate = projected.chunk(2, dim=-1)
        below = torch.empty_like(projected)
        for_hidden, for_gate = below.chunk(2, dim=-1)
        torch.mul(grad, F.gelu(gate), out=for_hidden)
        for_gate.copy_(torch.ops.aten.gelu_backward(grad * hidden, gate))
        return below
