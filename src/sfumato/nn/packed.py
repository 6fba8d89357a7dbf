"""Weights that are kept in the order in which the processor's library reads them, for drawing.

The library brings a weight into its own order at every call. Where a picture or two meet a large kernel that takes as
long as the product itself, or longer. A kept weight is used only for shapes for which it was seen to give the very bits
that the library gives without it (decision 0023).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MOST_POSITIONS = 16 * 16
"""Positions of a map, or tokens, beyond which the order of the weight is a small part of the work."""
_MOST_BYTES, _LEAST_BYTES_OF_MATRIX = 8 * 2**20, 400 * 2**10
"""Weights beyond are not kept, since they gain little for their memory; matrices below gain nothing."""
_MOST_BYTES_OF_NETWORK = 64 * 2**20
"""What the layers of one network keep together, first come, first served: all 35 MB of the embedded base, and a part of
the 345 MB of a U-Net as large as Stable Diffusion's."""
_HAS_PRODUCTS = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, f"_{name}")
    for name in ("convolution_pointwise", "reorder_convolution_weight", "linear_pointwise", "reorder_linear_weight")
)
"""Whether this build of the library has what is used here."""

_CONVOLVE: Callable[..., Tensor] = torch.ops.mkldnn._convolution_pointwise if _HAS_PRODUCTS else F.conv2d
_MULTIPLY: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise if _HAS_PRODUCTS else F.linear

_Way = Callable[[], Callable[[], Tensor]]
"""Gets what is kept ready, and returns the product with it."""

_seen_alike: dict[Hashable, int | None] = {}
"""By shapes: the first way that was seen to give the bits of the plain one; None where none does."""


@dataclass(frozen=True)
class _Kept:
    """Weights in the library's order, and what they were made from and for."""

    weights: tuple[weakref.ref[Tensor], ...]
    numbers: tuple[Tensor, ...]
    """What lay in them: as long as it is held, nothing else lies at its place in memory."""
    state: tuple[Hashable, ...]
    made: Tensor


class Room:
    """The memory that is left for what the layers of a network keep.

    Attributes:
        left: In bytes.
    """

    def __init__(self) -> None:
        self.left = _MOST_BYTES_OF_NETWORK


class Packing:
    """What one layer keeps.

    Args:
        room: What it shares with the other layers of its network.
    """

    def __init__(self, room: Room | None = None) -> None:
        self._room = Room() if room is None else room
        self._kept: _Kept | None = None
        self._taken = 0

    def has_room(self, weights: Sequence[Tensor]) -> bool:
        """Take the memory for weights in float32, and tell whether there is enough; what was taken stays taken.

        Args:
            weights: As the layer has them.
        """
        needed = 4 * sum(weight.numel() for weight in weights)
        if self._room.left + self._taken < needed:
            return False
        self._room.left += self._taken - needed
        self._taken = needed
        return True

    def get(self, weights: Sequence[Tensor], use: tuple[Hashable, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return what is made of weights, anew where they or its use have changed.

        Args:
            weights: As the layer has them.
            use: What it is made for.
            make: Makes it.
        """
        state = (*((w.data_ptr(), w._version) for w in weights), use)
        kept = self._kept
        if kept is None or kept.state != state or any(a() is not b for a, b in zip(kept.weights, weights, strict=True)):
            self._kept = None  # freed before another is made
            numbers = tuple(weight.detach() for weight in weights)
            kept = self._kept = _Kept(tuple(weakref.ref(weight) for weight in weights), numbers, state, make())
        return kept.made

    def forget(self) -> None:
        """Free it, and its place."""
        self._kept = None
        self._room.left += self._taken
        self._taken = 0

    def __deepcopy__(self, memo: object) -> Packing:
        """Leave it behind in copies."""
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

    For drawing on processors: it takes as much memory again as the weights of small maps, up to 64 MiB, and less time.
    No bit of a result changes.

    Args:
        network: Its layers that are `Packs`; its weights may still change.
        wanted: Whether they are kept from now on.
    """
    room = Room()
    for module in network.modules():
        if isinstance(module, Packs) and (module.packing is not None) is not wanted:
            module.packing = Packing(room) if wanted else None


def is_packable(weight: Tensor, x: Tensor, count: int = 1) -> bool:
    """Tell whether a product may gain by a packed weight, or several of its size, and can have one."""
    size = weight.numel() * x.element_size()
    if torch.is_grad_enabled() or x.dtype is not torch.float32 or weight.is_inference() or count * size > _MOST_BYTES:
        return False
    if weight.device.type != "cpu" or x.device.type != "cpu" or weight.dtype.itemsize > x.element_size():
        return False
    if torch.is_autocast_enabled("cpu") or not _HAS_PRODUCTS:
        return False
    if x.ndim == 4:
        return x.shape[2] * x.shape[3] <= _MOST_POSITIONS
    return x.ndim == 3 and x.shape[1] <= _MOST_POSITIONS and count * size >= _LEAST_BYTES_OF_MATRIX


def convolve(layer: nn.Conv2d, packing: Packing, x: Tensor, plain: Callable[[], Tensor]) -> Tensor:
    """Convolve with a packed kernel, where that changes no bit.

    Args:
        layer: The convolution; `is_packable` with `x`.
        packing: What it keeps.
        x: Its input.
        plain: Convolves without.
    """
    assert not isinstance(layer.padding, str)
    weight, bias, groups = layer.weight, layer.bias, layer.groups
    padding, stride, dilation = list(layer.padding), list(layer.stride), list(layer.dilation)
    rows = 1 if len(x) % 2 else 2  # those of one picture, so that a batch and a picture alone share what is kept

    def make() -> Tensor:
        wide = weight.to(torch.float32)  # it may lie in the 16 bits of its file
        shape = [rows, *x.shape[1:]]
        made: Tensor = torch.ops.mkldnn._reorder_convolution_weight(wide, padding, stride, dilation, groups, shape)
        return made

    def ready() -> Callable[[], Tensor]:
        kernel = packing.get((weight,), (rows, *x.shape[1:], torch.get_num_threads()), make)
        return lambda: _CONVOLVE(x, kernel, bias, padding, stride, dilation, groups, "none", [], "")

    key = ("convolution", weight.shape, weight.stride(), bias is None, *padding, *stride, *dilation, groups)
    return _alike(key, packing, (weight,), x, plain, (ready,))


def multiply(
    weights: Sequence[Tensor], bias: Tensor | None, packing: Packing, x: Tensor, plain: Callable[[], Tensor]
) -> Tensor:
    """Multiply tokens by packed matrices, one below the other, where that changes no bit.

    Args:
        weights: Matrices `(_, d_in)`; `is_packable` with `x`.
        bias: What is added.
        packing: What is kept.
        x: Tokens, `(b, l, d_in)`.
        plain: Multiplies without.

    Returns:
        The products side by side.
    """
    tokens = (1 if len(x) % 2 else 2) * x.shape[1]

    def joined() -> Tensor:
        return (weights[0] if len(weights) == 1 else torch.cat(list(weights))).to(torch.float32)

    def packed() -> Tensor:
        made: Tensor = torch.ops.mkldnn._reorder_linear_weight(joined(), tokens)
        return made

    def with_packed() -> Callable[[], Tensor]:
        matrix = packing.get(weights, ("packed", tokens, torch.get_num_threads()), packed)
        return lambda: _MULTIPLY(x, matrix, bias, "none", [], "")

    def with_joined() -> Callable[[], Tensor]:
        matrix = packing.get(weights, ("joined",), joined)
        return lambda: F.linear(x, matrix, bias)

    ways = (with_packed, with_joined) if len(weights) > 1 else (with_packed,)
    key = ("linear", bias is None, *((weight.shape, weight.stride()) for weight in weights))
    return _alike(key, packing, weights, x, plain, ways)


def _alike(
    key: tuple[Hashable, ...],
    packing: Packing,
    weights: Sequence[Tensor],
    x: Tensor,
    plain: Callable[[], Tensor],
    ways: Sequence[_Way],
) -> Tensor:
    """Compute in the first way that was seen to give the bits of the plain one; else, or without room, in that."""
    key = (*key, x.shape, x.stride(), torch.get_num_threads())
    chosen = _seen_alike.get(key, 0)
    if chosen is None or not packing.has_room(weights):
        return plain()
    if key in _seen_alike:
        return ways[chosen]()()
    wanted = plain()
    if _says_something(x) and all(_says_something(weight) for weight in weights):
        found = (index for index, way in enumerate(ways) if _gives(way, wanted))
        _seen_alike[key] = next(found, None)
        if _seen_alike[key] is None:
            packing.forget()
    return wanted


def _gives(way: _Way, wanted: Tensor) -> bool:
    """Tell whether a way gives some result, bit for bit and in the same order in memory, by which others choose."""
    found = way()()
    return found.stride() == wanted.stride() and torch.equal(found, wanted)


def _says_something(numbers: Tensor) -> bool:
    """Tell whether most of some numbers are not 0: products with those are alike in any order."""
    return bool(2 * numbers[0].count_nonzero() > numbers[0].numel())
