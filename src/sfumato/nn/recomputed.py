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
    if not torch.is_grad_enabled() and x.device.type == "cpu":  # nothing to keep: half the calls
        x = x.contiguous(memory_format=_order(x))
        normed = _normed(x, norm.weight, norm.bias, norm.num_groups, norm.eps)[0]
        return F.silu(normed, inplace=True).to(x.dtype)
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
    if not torch.is_grad_enabled():
        hidden, gate = projected.chunk(2, dim=-1)
        return F.gelu(gate).mul_(hidden)
    out: Tensor = _Geglu.apply(projected)
    return out


class _NormSilu(torch.autograd.Function):
    """GroupNorm and SiLU, by the library's kernels: recording them anew for the gradient takes 30 MB in a lesson."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Normalise and activate."""
        x = x.contiguous(memory_format=_order(x))
        normed, mean, deviation = _normed(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, bias, mean, deviation)
        ctx.groups, ctx.eps = groups, eps
        return F.silu(normed, inplace=True).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Normalise again, then go back through both."""
        x, weight, bias, mean, deviation = ctx.saved_tensors
        normed = _normed(x, weight, bias, ctx.groups, ctx.eps)[0]
        # The kernel takes it for granted that map and gradient lie in memory alike.
        above = torch.ops.aten.silu_backward(grad.to(normed.dtype), normed).contiguous(memory_format=_order(x))
        sizes, asked = (*_sizes(x), ctx.groups), list(ctx.needs_input_grad[:3])
        wide = _widened(x, weight)
        below, *others = torch.ops.aten.native_group_norm_backward(above, wide, mean, deviation, weight, *sizes, asked)
        return (None if below is None else below.to(x.dtype), *others, None, None)


def _normed(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the normalised map, and mean and inverse deviation of each group."""
    return torch.native_group_norm(_widened(x, weight), weight, bias, *_sizes(x), groups, eps)


def _widened(x: Tensor, weight: Tensor) -> Tensor:
    """Return a map as the library's kernels take it: those of processors alone take one narrower than the weights."""
    return x if x.device.type == "cpu" else x.to(weight.dtype)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Return rows, channels and positions."""
    return len(x), x.shape[1], x[0, 0].numel()


def _order(x: Tensor) -> torch.memory_format:
    """Return how a map lies in memory."""
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format


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
        for_hidden.copy_(F.gelu(gate).mul_(grad))  # written with `out=` it would cut a compiled U-Net into pieces
        for_gate.copy_(torch.ops.aten.gelu_backward(grad * hidden, gate))
        return below
