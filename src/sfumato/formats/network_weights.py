"""The weights of a network between its file and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sfumato.errors import CheckpointError, MissingKeys, ShapeMismatch, UnusedKeys
from sfumato.formats.diffusers_weights import modernised, read_weights
from sfumato.formats.safe_io import content_hash
from sfumato.nn.stored import hold_as_stored
from sfumato.runtime.suggestions import did_you_mean

Model = TypeVar("Model", bound=nn.Module)


def filled(model: Model, folder: Path, *, as_stored: bool = False) -> Model:
    """Load the weights of one part into its model and lay it out for convolutions.

    Args:
        model: May live on the meta device.
        folder: Folder of the part.
        as_stored: Hold the weights of products as the file has them; they must not learn.

    Raises:
        CheckpointError: See `read_weights` and `fill`.
    """
    source, tensors = _read(folder, model)
    if as_stored:
        hold_as_stored(model, {key: tensor.dtype for key, tensor in tensors.items()})
    fill(model, tensors, str(source))
    placed: Any = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    loaded: Model = placed
    return loaded


def fill(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Put tensors into a model, in the numbers that it holds them in; every key must fit.

    Args:
        model: May live on the meta device; its parameters are replaced.
        tensors: Values by key.
        source: Where they come from, for messages.

    Raises:
        MissingKeys: The model needs a key that is absent.
        UnusedKeys: A key that the model does not have.
        ShapeMismatch: A tensor of another shape.
    """
    own = model.state_dict()
    missing = [key for key in own if key not in tensors]
    unused = [key for key in tensors if key not in own]
    if missing:
        raise MissingKeys(
            f"'{source}' lacks {len(missing)} of the {len(own)} tensors that the model needs, first '{missing[0]}'.",
            hint=did_you_mean(missing[0], unused) if unused else "The file is not complete.",
        )
    if unused:
        raise UnusedKeys(
            f"'{source}' has {len(unused)} tensors that no part of the model takes, first '{unused[0]}'.",
            hint="config.json does not describe these weights.",
        )
    for key, tensor in tensors.items():
        if tensor.shape != own[key].shape:
            raise ShapeMismatch(
                f"'{key}' in '{source}' has shape {tuple(tensor.shape)}, the model needs {tuple(own[key].shape)}.",
                hint="config.json does not describe these weights.",
            )
    values = {key: t.to(own[key].dtype, copy=True) if t.is_floating_point() else t for key, t in tensors.items()}
    model.load_state_dict(values, assign=True)


def hash_of_networks(weights: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Hash the weights of all networks of a base, each under the name of its part."""
    return content_hash({f"{part}.{name}": tensor for part, own in weights.items() for name, tensor in own.items()})


def hash_of_files(parts: Mapping[str, tuple[Path, nn.Module]]) -> str:
    """Hash the weights of a base as its files have them; what does not fit its networks is for `fill` to say.

    Args:
        parts: Folder and network of each part.
    """
    return hash_of_networks({part: _read(folder, network)[1] for part, (folder, network) in parts.items()})


def for_storage(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert a weight for storage and refuse what the precision cannot hold."""
    if not tensor.is_floating_point():
        return tensor
    stored = tensor.to(dtype)
    if not bool(stored.isfinite().all()):
        worst = float(tensor.abs().max())
        raise CheckpointError(
            f"A weight of size {worst:g} does not fit into {dtype}.", hint="Save with dtype=torch.float32."
        )
    return stored


def _read(folder: Path, model: nn.Module) -> tuple[Path, dict[str, Tensor]]:
    """Read the weights of one part by the names and shapes of its model."""
    source, tensors = read_weights(folder)
    return source, modernised(tensors, {key: t.ndim for key, t in model.state_dict().items()})
