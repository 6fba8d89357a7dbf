"""Linear layers and convolutions that compute in float32 with weights as 16-bit files have them.

Every number of 16 bits is one of 32, so results and gradients are those of a float32 copy, bit for bit where an input
lies in memory in one piece; the copy exists for the length of one product. That halves the memory of a frozen
network and costs a conversion each time.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sfumato.nn.packed import Packs, convolve, is_packable, multiply


class Linear(Packs, nn.Linear):
    """A linear layer whose weight may lie in 16 bits, see `hold_as_stored`."""

    is_stored = False
    """Whether the weight lies as its file has it."""

    def forward(self, input: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Multiply by the weight and add the bias."""
        if self.packing is not None and is_packable(self.weight, input):
            return multiply((self.weight,), self.bias, self.packing, input, lambda: self._plain(input))
        return self._plain(input)

    def _plain(self, input: Tensor) -> Tensor:
        """Multiply as the library does."""
        if not is_narrow(self.weight, input):
            return super().forward(input)
        out: Tensor = _Linear.apply(input, self.weight, self.bias)
        return out


class Conv2d(Packs, nn.Conv2d):
    """A convolution whose kernel may lie in 16 bits, see `hold_as_stored`."""

    is_stored = False
    """Whether the kernel lies as its file has it."""

    def forward(self, input: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h_out w_out"]:
        """Convolve."""
        if self.packing is not None and is_packable(self.weight, input):
            return convolve(self, self.packing, input, lambda: self._plain(input))
        return self._plain(input)

    def _plain(self, input: Tensor) -> Tensor:
        """Convolve as the library does."""
        if not is_narrow(self.weight, input):
            return super().forward(input)
        out: Tensor = _Convolution.apply(input, self.weight, self.bias, self)
        return out


def is_narrow(weight: Tensor, x: Tensor) -> bool:
    """Tell whether a weight has fewer bits than the numbers it is to be multiplied with."""
    return weight.dtype is not x.dtype and not torch.is_autocast_enabled(x.device.type)


def lies_as_stored(module: nn.Module) -> bool:
    """Tell whether a module's weight lies in the 16 bits of its file now."""
    return isinstance(module, Linear | Conv2d) and module.is_stored and module.weight.dtype.itemsize == 2


def hold_as_stored(network: nn.Module, dtypes: dict[str, torch.dtype]) -> None:
    """Hold weights of linear layers and convolutions in the 16 bits in which a file has them; they must not learn.

    Args:
        network: Changed in place, before it is filled; weights that the file has in more bits stay as they are.
        dtypes: What the file has each tensor in, by its key.
    """
    for name, module in network.named_modules():
        dtype = dtypes.get(f"{name}.weight")  # filling the network says which are missing
        if isinstance(module, Linear | Conv2d) and dtype is not None and dtype.itemsize == 2:
            held = module.weight.detach().to(dtype)
            module.weight = nn.Parameter(held, requires_grad=False)
            module.is_stored = True


class _Linear(torch.autograd.Function):
    """`x W^T + b`; only the narrow weight is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply."""
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        """Return the gradients by input and bias."""
        (weight,) = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        for_x, _, for_bias = ctx.needs_input_grad
        grad_x = (rows @ weight.to(grad.dtype)).view(*grad.shape[:-1], -1) if for_x else None
        return grad_x, None, rows.sum(0) if for_bias else None


class _Convolution(torch.autograd.Function):
    """A convolution; only the narrow kernel is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
        """Convolve."""
        ctx.save_for_backward(weight)
        ctx.layer, ctx.shape, ctx.is_channels_last = layer, x.shape, _is_channels_last(x)
        assert not isinstance(layer.padding, str)
        return F.conv2d(x, weight.to(x.dtype), bias, layer.stride, layer.padding, layer.dilation, layer.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        """Return the gradients by input and bias."""
        (weight,), layer = ctx.saved_tensors, ctx.layer
        for_x, _, for_bias, _ = ctx.needs_input_grad
        order = torch.channels_last if ctx.is_channels_last else torch.contiguous_format
        x = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=order)  # only its shape counts
        sizes = [len(weight)] if for_bias else None
        how = (layer.stride, layer.padding, layer.dilation, False, [0, 0], layer.groups, [for_x, False, for_bias])
        grads = torch.ops.aten.convolution_backward(grad, x, weight.to(grad.dtype), sizes, *how)
        return grads[0], None, grads[2], None


def _is_channels_last(x: Tensor) -> bool:
    """Tell in which order a map lies in memory."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
