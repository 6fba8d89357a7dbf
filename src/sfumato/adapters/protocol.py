"""What every adapter can do: attach, detach, merge for a while, give and take its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Adapter(Protocol):
    """A small change of a model that can be put on, taken off and stored apart from it.

    Attributes:
        strength: How much of the change applies; 0 is none, 1 is as trained. It may be set at any time.
    """

    strength: float

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted names of the modules it changes."""
        ...

    @property
    def is_attached(self) -> bool:
        """Whether the model computes with it now."""
        ...

    def attach(self) -> None:
        """Make the model compute with the adapter."""
        ...

    def detach(self) -> None:
        """Put the very same modules back that were there before."""
        ...

    def merged(self) -> AbstractContextManager[None]:
        """Fold the change into the weights for the length of a `with` block, then restore them bit for bit."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the adapter's tensors by name."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy tensors into the adapter; every name must be there and no other."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Iterate over what learns."""
        ...
