"""Build networks without weights, to be filled from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_SKIPPED: frozenset[Any] = frozenset(
    {
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.trunc_normal_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
        nn.init.xavier_normal_,
        nn.init.xavier_uniform_,
    }
)


class _SkipInitialisation(TorchFunctionMode):
    """Leave a tensor as it is where a layer would draw its first weights."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _SKIPPED:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def empty_weights() -> Iterator[None]:
    """Build modules on the meta device within the block: shapes without memory, and no first weights are drawn.

    Drawing on the meta device would have no effect, but torch imports its compiler for it, a second or more.
    """
    with torch.device("meta"), _SkipInitialisation():
        yield
