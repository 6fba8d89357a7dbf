"""The 3x3 convolution of residual blocks, in the way that is fastest for its size."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from sfumato.nn.stored import Conv2d
from sfumato.nn.winograd import Tile, convolve, convolve_back

_LARGE_MAP, _MIDDLE_MAP = 32 * 32, 16 * 16
_LARGE_MAP_CHANNELS, _MIDDLE_MAP_CHANNELS = 128, 512
"""From how many positions and channels on the transforms of a tile are worth it; measured in decision 0013."""


class Conv3x3(Conv2d):
    """A 3x3 convolution with stride 1 that keeps the size of a map.

    On processors in float32, where map and kernel are large, it is computed by minimal filtering of tiles
    (`sfumato.nn.winograd`): the same mathematics, other rounding. How a map is computed depends on its size and on
    nothing else.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, input: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h w"]:
        """Convolve."""
        tile = best_tile(input, self.weight)
        if tile is None:
            return super().forward(input)
        assert self.bias is not None
        out: Tensor = _ByTiles.apply(input, self.weight, self.bias, tile)
        return out


def best_tile(x: Float[Tensor, "b c_in h w"], weight: Float[Tensor, "c_out c_in 3 3"]) -> Tile | None:
    """Return the side of the tiles that are fastest, or None where the library's own convolution is."""
    narrowest = min(weight.shape[:2])
    if narrowest < _LARGE_MAP_CHANNELS or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return None
    if x.dtype != torch.float32:
        return None
    positions = x.shape[2] * x.shape[3]
    if positions >= _LARGE_MAP:
        return 4
    return 2 if positions >= _MIDDLE_MAP and narrowest >= _MIDDLE_MAP_CHANNELS else None


class _ByTiles(torch.autograd.Function):
    """The convolution by tiles and its gradients; the map is kept for the gradient only if the kernel learns."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, tile: Tile) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        ctx.tile = tile
        return convolve(x, weight, bias, tile)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Return the gradients that are asked for; that of the kernel by the library."""
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        grad_x = convolve_back(grad, weight, ctx.tile) if for_x else None
        grad_weight = conv2d_weight(x, weight.shape, grad, padding=1) if for_weight else None
        return grad_x, grad_weight, grad.sum((0, 2, 3)) if for_bias else None, None
