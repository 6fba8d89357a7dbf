"""What learns beside one module, and how it changes what the module computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.adapters.config import InitName, LoRAConfig
from sfumato.errors import AdapterError
from sfumato.nn.stored import lies_as_stored

_PLAIN = "plain_weight"


class LearnedPath(nn.Module):
    """What learns beside one Linear, Conv2d or Embedding.

    A kind defines `matrix`, the learned change as one matrix `(out, in)`; a kernel `(out, in, kh, kw)` counts as
    `(out, in·kh·kw)` and a table of embeddings `(words, width)` as its transpose. A kind may compute its effect in a
    cheaper way than this class does, which builds the whole matrix. The module itself is handed in at each call, so
    that a path holds nothing but what learns.

    Args:
        base: The module.
        config: Kind, rank, scale, dropout.
        generator: Source of start values, for kinds that draw some.

    Raises:
        AdapterError: The module is a grouped convolution or pads other than with zeros.
    """

    FILE_NAMES: ClassVar[Mapping[str, str]] = {}
    """Name in a concept file of each tensor that is stored."""
    USUAL_INIT: ClassVar[InitName] = "kaiming"
    """Start that suits the kind where none is asked for."""

    def __init__(self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if isinstance(base, nn.Conv2d) and (base.groups != 1 or base.padding_mode != "zeros"):
            raise AdapterError(
                f"No adapter can change a convolution with {base.groups} groups and '{base.padding_mode}' padding; "
                "it needs 1 group and 'zeros'.",
                field="targets",
                hint="Leave this layer out with a pattern that starts with '!'.",
            )
        self.config = config
        self.base_scale = config.scale

    def learn(self, base: nn.Module, **starts: Tensor) -> None:
        """Let tensors learn from some start values, each under its name, where the module's weight is."""
        for name, start in starts.items():
            self.register_parameter(name, nn.Parameter(start.to(held_weight(base).device)))

    def matrix(self) -> Float[Tensor, "out in"]:
        """Return what is learned as one matrix, without scale."""
        raise NotImplementedError

    def delta(self, base: nn.Module, strength: float) -> Tensor:
        """Return what is added to the module's weight, in its shape."""
        return shaped(self.matrix() * (self.base_scale * strength), base)

    def forward(self, x: Tensor, base: nn.Module, out: Tensor, strength: float) -> Tensor:
        """Return what is added to the module's output.

        Args:
            x: Input of the module.
            base: The module.
            out: What it made of `x`.
            strength: How much of the change applies.
        """
        return apply_weight(base, self.dropped(x), self.delta(base, strength))

    def dropped(self, x: Tensor) -> Tensor:
        """Apply the dropout; words of an embedding are left alone."""
        active = self.training and self.config.dropout and x.is_floating_point()
        return F.dropout(x, self.config.dropout) if active else x

    def stored(self) -> dict[str, Tensor]:
        """Return what a file holds of it; `config.stored` belongs to it."""
        return {name: tensor for name, tensor in self.state_dict().items() if name in self.FILE_NAMES}

    def extra_repr(self) -> str:
        """Show kind and rank when the model is printed."""
        return f"{self.config.kind}, rank={self.config.rank}, scale={self.base_scale:g}"


def held_weight(base: nn.Module) -> Tensor:
    """Return the weight of a module as it lies in memory, with what is merged into it: for its shape and place."""
    weight = base.weight
    assert isinstance(weight, Tensor)
    return weight


def plain_weight(base: nn.Module) -> Tensor:
    """Return the weight of a module, in the numbers it computes in, without what is merged into it at the moment."""
    weight, plain = held_weight(base), base.__dict__.get(_PLAIN)
    if plain is None:
        return weight.float() if lies_as_stored(base) else weight
    assert isinstance(plain, Tensor)
    return plain.to(weight.dtype)


def is_merged(base: nn.Module) -> bool:
    """Tell whether the module's weight holds the change of an adapter at the moment."""
    return _PLAIN in base.__dict__


def mark_merged(base: nn.Module, plain: Tensor | None) -> None:
    """Remember the weight that a module had before the first merge, as `aside` returned it; None forgets it."""
    if plain is None:
        del base.__dict__[_PLAIN]
    else:
        base.__dict__[_PLAIN] = plain


def aside(weight: Tensor) -> Tensor:
    """Return a copy of a weight from which it comes back bit for bit, in half the memory if 16 bits hold it.

    The weights of a base that was stored in float16 are such, as long as nothing is merged into them.
    """
    half = weight.to(torch.float16)
    return half if torch.equal(half.to(weight.dtype), weight) else weight.clone()


def as_matrix(weight: Tensor, base: nn.Module) -> Float[Tensor, "out in"]:
    """Return a module's weight, or one of its shape, as a matrix."""
    return weight.t() if isinstance(base, nn.Embedding) else weight.flatten(1)


def shaped(matrix: Float[Tensor, "out in"], base: nn.Module) -> Tensor:
    """Return a matrix in the shape of the module's weight."""
    return matrix.t() if isinstance(base, nn.Embedding) else matrix.reshape(held_weight(base).shape)


def apply_weight(base: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    """Compute what the module would with another weight and no bias."""
    if isinstance(base, nn.Embedding):
        return F.embedding(x, weight)
    if isinstance(base, nn.Conv2d):
        return F.conv2d(x, weight, None, base.stride, base.padding, base.dilation)
    return F.linear(x, weight)


def drawn(
    shape: tuple[int, ...], config: LoRAConfig, generator: torch.Generator | None, deviation: float | None = None
) -> Tensor:
    """Draw the start values of a factor.

    Args:
        shape: Its shape; all sizes but the first are the fan-in.
        config: Its `init` decides; `pissa` counts as `kaiming`.
        generator: Source of the values.
        deviation: Standard deviation of `gaussian`; `1/rank` by default.
    """
    values = torch.empty(shape)
    if config.init == "gaussian":
        return values.normal_(0.0, deviation or 1.0 / config.rank, generator=generator)
    bound = 1.0 / math.sqrt(values[0].numel())
    return values.uniform_(-bound, bound, generator=generator)
