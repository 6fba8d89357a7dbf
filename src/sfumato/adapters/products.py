"""Other ways to write a change of a weight: a Hadamard or Kronecker product of small matrices ([yeh2023] LyCORIS), or
every number of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.adapters.config import InitName, LoRAConfig
from sfumato.adapters.learned_path import LearnedPath, as_matrix, drawn, held_weight

_LOHA_DEVIATIONS = {"hada_w1_a": 0.1, "hada_w1_b": 1.0, "hada_w2_b": 1.0}
"""What LyCORIS draws from for `gaussian`."""


class LoHa(LearnedPath):
    """`scale · (w1_a @ w1_b) ∘ (w2_a @ w2_b)`: rank up to `rank²` from four factors ([hyeonwoo2022], [yeh2023] 3.1).

    Args:
        base: The module.
        config: Rank, dropout and start values; `w2_a` starts at zero.
        generator: Source of the start values.
    """

    FILE_NAMES: ClassVar[Mapping[str, str]] = {n: n for n in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")}
    USUAL_INIT: ClassVar[InitName] = "gaussian"  # uniform factors are so small that their product hardly learns
    hada_w1_a: Tensor
    hada_w1_b: Tensor
    hada_w2_a: Tensor
    hada_w2_b: Tensor

    def __init__(self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(base, config, generator)
        out, fan_in = as_matrix(held_weight(base), base).shape
        starts = {}
        for name in self.FILE_NAMES:
            shape = (out, config.rank) if name.endswith("a") else (config.rank, fan_in)
            deviation = _LOHA_DEVIATIONS.get(name)
            starts[name] = torch.zeros(shape) if deviation is None else drawn(shape, config, generator, deviation)
        self.learn(base, **starts)

    def matrix(self) -> Float[Tensor, "out in"]:
        """Return the product, entry by entry, of two products of factors."""
        return (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b)


class LoKr(LearnedPath):
    """`scale · w1 ⊗ w2`, where `w2` is itself `w2_a @ w2_b` unless the rank is too high to save any ([yeh2023] 3.2).

    A layer with `out = o_1 · o_2` and `in = i_1 · i_2` has `w1` of `(o_1, i_1)` and `w2` of `(o_2, i_2)`; a kernel's
    height and width belong to `w2`.

    Args:
        base: The module.
        config: Rank, factor, dropout and start values; `w1` starts at zero.
        generator: Source of the start values.
    """

    FILE_NAMES: ClassVar[Mapping[str, str]] = {n: n for n in ("lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b")}
    lokr_w1: Tensor
    lokr_w2: Tensor
    lokr_w2_a: Tensor
    lokr_w2_b: Tensor

    def __init__(self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(base, config, generator)
        weight = held_weight(base)
        is_kernel = isinstance(base, nn.Conv2d)
        kernel = tuple(weight.shape[2:]) if is_kernel else ()
        out, inner = (weight.shape[1], weight.shape[0]) if isinstance(base, nn.Embedding) else weight.shape[:2]
        (out_1, out_2), (in_1, in_2) = split_size(out, config.factor), split_size(inner, config.factor)
        shapes: dict[str, tuple[int, ...]]
        if config.rank < max(out_2, in_2) / 2:
            shapes = {"lokr_w2_a": (out_2, config.rank), "lokr_w2_b": (config.rank, in_2 * math.prod(kernel))}
        else:
            shapes = {"lokr_w2": (out_2, in_2, *kernel)}
        starts = {name: drawn(shape, config, generator) for name, shape in shapes.items()}
        self.learn(base, lokr_w1=torch.zeros(out_1, in_1), **starts)

    def matrix(self) -> Float[Tensor, "out in"]:
        """Return the Kronecker product."""
        w2 = self.lokr_w2.flatten(1) if hasattr(self, "lokr_w2") else self.lokr_w2_a @ self.lokr_w2_b
        return torch.kron(self.lokr_w1, w2)


class Full(LearnedPath):
    """Every number of the change, zero at the start: what Custom Diffusion learns ([kumari2023] 3.1).

    Args:
        base: The module.
        config: Dropout; there is no rank and no scale.
        generator: Not used, nothing is drawn.
    """

    FILE_NAMES: ClassVar[Mapping[str, str]] = {"diff": "diff"}
    diff: Tensor

    def __init__(self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(base, config, generator)
        self.learn(base, diff=torch.zeros(held_weight(base).shape))
        self._is_table = isinstance(base, nn.Embedding)

    def matrix(self) -> Float[Tensor, "out in"]:
        """Return the change."""
        return self.diff.t() if self._is_table else self.diff.flatten(1)

    def extra_repr(self) -> str:
        """Show the shape when the model is printed."""
        return f"full, shape={tuple(self.diff.shape)}"


def split_size(size: int, factor: int | None = None) -> tuple[int, int]:
    """Write a size as a product of two whole numbers, the smaller first unless a factor is given and fits.

    Args:
        size: What to split.
        factor: The first number where it divides the size; else the largest divisor up to it is taken. None is the
            square root.

    Returns:
        Two numbers whose product is the size.
    """
    if factor is not None and size % factor == 0:
        return factor, size // factor
    limit = min(math.isqrt(size), factor or size)
    first = next(number for number in range(limit, 0, -1) if size % number == 0)
    return first, size // first
