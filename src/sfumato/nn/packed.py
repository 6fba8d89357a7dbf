"""Weights that are kept in the order in which the processor's library reads them, for drawing.

The library brings a weight into its own order at every call. Where a picture or two meet a large kernel that takes as
long as the product itself, or longer. What is kept is made for the rows of one picture, two with guidance and one
without, whatever the batch: so the rows of a batch are computed as those of one picture alone (decision 0023).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_MOST_POSITIONS = 16 * 16
"""Positions of a map, or tokens, beyond which the order of the weight is a small part of the work."""
_MOST_BYTES, _LEAST_BYTES_OF_MATRIX = 8 * 2**20, 400 * 2**10
"""Weights beyond are not kept, so that large networks need no more memory; matrices below gain nothing."""

_HAS_PRODUCTS = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, f"_{name}")
    for name in ("convolution_pointwise", "reorder_convolution_weight", "linear_pointwise", "reorder_linear_weight")
)
"""Whether this build of the library has what is used here."""

_alike: dict[Hashable, bool] = {}
"""By shapes: whether the rows of a batch have the same bits as two rows alone."""


@dataclass(frozen=True)
class _Kept:
    """A weight in the library's order, and what it was made from and for."""

    weights: tuple[weakref.ref[Tensor], ...]
    state: tuple[Hashable, ...]
    packed: Tensor


class Packing:
    """What one layer keeps."""

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def get(self, weights: Sequence[Tensor], rows: int, shape: Sequence[int], pack: Callable[[], Tensor]) -> Tensor:
        """Return weights in the library's order; made anew where they or what they are for have changed.

        Args:
            weights: As the layer has them; packed as one.
            rows: Rows that they are packed for.
            shape: Shape of one row.
            pack: Makes it.
        """
        state = (*((w.data_ptr(), w._version) for w in weights), rows, *shape, torch.get_num_threads())
        kept = self._kept
        if kept is None or kept.state != state or any(a() is not b for a, b in zip(kept.weights, weights, strict=True)):
            kept = self._kept = _Kept(tuple(weakref.ref(weight) for weight in weights), state, pack())
        return kept.packed

    def __deepcopy__(self, memo: object) -> Packing:
        """Leave the packed weight behind in copies."""
        return Packing()

    def __reduce__(self) -> tuple[type[Packing], tuple[()]]:
        """Leave it behind in files."""
        return Packing, ()


class Packs:
    """A layer that can keep weights in the library's order, see `keep_packed`."""

    packing: Packing | None = None
    """What it keeps; None where it keeps nothing."""


def keep_packed(network: nn.Module, wanted: bool) -> None:
    """Let a network keep its weights in the library's order too, or forget those that it keeps.

    For drawing on processors: it takes as much memory again as the weights of small maps, and half the time.

    Args:
        network: Its layers that are `Packs`; its weights may still change.
        wanted: Whether they are kept from now on.
    """
    for module in network.modules():
        if isinstance(module, Packs) and (module.packing is not None) is not wanted:
            module.packing = Packing() if wanted else None


def is_packable(weight: Tensor, x: Tensor, count: int = 1) -> bool:
    """Tell whether a product gains by a packed weight, or several of its size, and can have one."""
    numbers = weight.dtype is x.dtype is torch.float32 and weight.device.type == x.device.type == "cpu"
    if not numbers or torch.is_grad_enabled() or weight.is_inference() or weight.nbytes > _MOST_BYTES:
        return False
    if torch.is_autocast_enabled("cpu") or not _HAS_PRODUCTS:
        return False
    if x.ndim == 4:
        return x.shape[2] * x.shape[3] <= _MOST_POSITIONS
    return x.ndim == 3 and x.shape[1] <= _MOST_POSITIONS and count * weight.nbytes >= _LEAST_BYTES_OF_MATRIX


def convolve(layer: nn.Conv2d, packing: Packing, x: Tensor) -> Tensor:
    """Convolve with a packed kernel.

    Args:
        layer: The convolution; `is_packable` with `x`.
        packing: What it keeps.
        x: Its input.
    """
    assert not isinstance(layer.padding, str)
    padding, stride, dilation, groups = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
    weight, bias, rows = layer.weight, layer.bias, rows_of_one(x)

    def pack() -> Tensor:
        shape = [rows, *x.shape[1:]]
        made: Tensor = torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, dilation, groups, shape)
        return made

    kernel = packing.get((weight,), rows, x.shape[1:], pack)

    def compute(some: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._convolution_pointwise(
            some, kernel, bias, padding, stride, dilation, groups, "none", [], ""
        )
        return out

    return _by_picture(compute, x, rows, ("convolution", weight.shape, layer.stride, layer.padding, layer.dilation))


def multiply(weights: Sequence[Tensor], bias: Tensor | None, packing: Packing, x: Tensor) -> Tensor:
    """Multiply tokens by packed matrices, one below the other.

    Args:
        weights: Matrices `(_, d_in)`; `is_packable` with `x`.
        bias: What is added.
        packing: What is kept.
        x: Tokens, `(b, l, d_in)`.

    Returns:
        The products side by side.
    """
    rows = rows_of_one(x)

    def pack() -> Tensor:
        matrix = weights[0] if len(weights) == 1 else torch.cat(list(weights))
        made: Tensor = torch.ops.mkldnn._reorder_linear_weight(matrix, rows * x.shape[1])
        return made

    packed = packing.get(weights, rows, x.shape[1:], pack)

    def compute(some: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(some, packed, bias, "none", [], "")
        return out

    return _by_picture(compute, x, rows, ("linear", *(weight.shape for weight in weights)))


def rows_of_one(x: Tensor) -> int:
    """Return the rows of one picture: two where a batch can be one of guided pictures, else one."""
    return 1 if len(x) % 2 else 2


def _by_picture(compute: Callable[[Tensor], Tensor], x: Tensor, rows: int, what: tuple[Hashable, ...]) -> Tensor:
    """Compute all rows at once where that was seen to change no bit, else picture by picture."""
    if len(x) == rows:
        return compute(x)
    key = (*what, x.shape, torch.get_num_threads())
    if _alike.get(key):
        return compute(x)
    separate = torch.cat([compute(some) for some in x.split(rows)])
    if key not in _alike:
        _alike[key] = torch.equal(compute(x), separate)
    return separate
