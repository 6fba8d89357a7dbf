"""The state of optimizers as one flat dict of named tensors, whatever library they come from.

A moment is `weight/key`. Plain numbers become tensors without dimensions, in int64 or float64, and come back as
numbers; those that a library keeps beside its weights, such as Prodigy's rate, are `optimizer:0:group:0/key`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.training.optim_library import Optimizer, quantised, unquantised

_CARRIED = ("k", "weight_sum", "lr_max", "d", "d_max", "d_numerator", "d_denom", "d_hat")
"""Numbers of a group that change from step to step: Prodigy's and schedule-free's."""


def flat_state(parts: Sequence[Optimizer], names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """Return all moments and numbers of some optimizers.

    Args:
        parts: The optimizers.
        names: The names of their weights.
    """
    flat: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        for weight, moments in part.state.items():
            for key, value in moments.items():
                flat |= unquantised(f"{names[weight]}/{key}", _tensor(value))
        for index, group in enumerate(part.param_groups):
            flat |= {f"{_group(number, index)}/{key}": _tensor(group[key]) for key in _CARRIED if key in group}
    return flat


def put_state(parts: Sequence[Optimizer], names: Mapping[Tensor, str], state: Mapping[str, Tensor]) -> None:
    """Restore what `flat_state` returned, in the memory layout of each weight.

    Args:
        parts: The optimizers.
        names: The names of their weights.
        state: The moments and numbers.

    Raises:
        KeyError: A name belongs to no weight.
    """
    owners: dict[str, tuple[Tensor, Optimizer]] = {}
    places: dict[str, dict[str, Any]] = {}
    for number, part in enumerate(parts):
        part.state.clear()
        for index, group in enumerate(part.param_groups):
            places[_group(number, index)] = group
            owners |= {names[weight]: (weight, part) for weight in group["params"]}
    for owner, key, value in _put_together(state):
        if owner in places:
            places[owner][key] = value
        else:
            weight, part = owners[owner]
            part.state[weight][key] = _like(value, weight) if isinstance(value, Tensor) else value


def _group(number: int, index: int) -> str:
    """Name a group of weights."""
    return f"optimizer:{number}:group:{index}"


def _tensor(value: Any) -> Tensor:
    """Turn a plain number into a tensor."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _put_together(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Any]]:
    """Yield owner, key and value, numbers as numbers and moments of few bits whole."""
    torn: dict[tuple[str, str], dict[str, Tensor]] = {}
    for full_name, value in state.items():
        owner, key = full_name.rsplit("/", 1)
        whole, dot, part = key.partition(".")
        if dot:
            torn.setdefault((owner, whole), {})[part] = value.clone()
        elif value.ndim == 0 and value.dtype in (torch.int64, torch.float64):
            yield owner, key, value.item()
        else:
            yield owner, key, value
    for (owner, whole), parts in torn.items():
        yield owner, whole, quantised(whole, parts)


def _like(value: Tensor, weight: Tensor) -> Tensor:
    """Copy a moment, in the memory layout of its weight where it has its shape."""
    if type(value) is not Tensor:
        return value
    like = weight if value.shape == weight.shape else value
    return torch.empty_like(like, dtype=value.dtype, device=weight.device).copy_(value)
