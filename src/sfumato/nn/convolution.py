"""Convolution that keeps its kernel in the order in which the processor reads it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

_MOST_POSITIONS = 1024
_MOST_KERNEL_BYTES = 8 * 2**20


class _Packed(NamedTuple):
    """A kernel in the library's own order, and what it was made from."""

    made_from: tuple[int, int, tuple[int, ...]]
    kernel: Tensor


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, faster where few positions meet a large kernel.

    The library brings the kernel into its own order at every call. On small maps, such as those of a picture or two in
    the inner levels of a U-Net, that takes as long as the convolution itself. Without gradients, on a processor, the
    ordered kernel is kept for the next call with the same shape, as long as the weights are the same; the result has
    the same bits. Kernels above 8 MiB are not kept, so that large networks need no more memory.
    """

    _packed: _Packed | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Convolve."""
        if not self._is_worth_packing(input):
            return super().forward(input)
        weight = self.weight
        made_from = (weight.data_ptr(), weight._version, tuple(input.shape))
        if self._packed is None or self._packed.made_from != made_from:
            self._packed = _Packed(made_from, self._ordered(input))
        stride, padding, dilation = self._numbers()
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input, self._packed.kernel, self.bias, padding, stride, dilation, self.groups, "none", [], ""
        )
        return out

    def __getstate__(self) -> dict[str, object]:
        """Leave the ordered kernel behind in copies."""
        return {name: value for name, value in self.__dict__.items() if name != "_packed"}

    def _is_worth_packing(self, x: Tensor) -> bool:
        """Say whether the ordered kernel saves time and may be kept."""
        weight = self.weight
        return (
            not torch.is_grad_enabled()
            and x.ndim == 4
            and x.device.type == weight.device.type == "cpu"
            and x.dtype == weight.dtype == torch.float32
            and len(x) * x.shape[2] * x.shape[3] <= _MOST_POSITIONS
            and weight.nbytes <= _MOST_KERNEL_BYTES
            and not weight.is_inference()
            and torch.backends.mkldnn.is_available()
            and not torch.is_autocast_enabled("cpu")
            and self.padding_mode == "zeros"
            and not isinstance(self.padding, str)
        )

    def _ordered(self, x: Tensor) -> Tensor:
        """Bring the kernel into the library's order for inputs of this shape."""
        stride, padding, dilation = self._numbers()
        plain = self.weight.detach().contiguous().to_mkldnn()
        kernel: Tensor = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            plain, padding, stride, dilation, self.groups, list(x.shape)
        )
        return kernel

    def _numbers(self) -> tuple[list[int], list[int], list[int]]:
        """Return stride, padding and dilation as lists."""
        assert not isinstance(self.padding, str)
        return list(self.stride), list(self.padding), list(self.dilation)
