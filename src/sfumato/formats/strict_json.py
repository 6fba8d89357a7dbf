"""Read published configurations strictly: what our networks cannot follow is refused by name, never skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.errors import CheckpointError, UnknownFormat

Json = dict[str, Any]
_NEVER_NULL = {
    *("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "norm_num_groups"),
    *("in_channels", "out_channels", "latent_channels", "scaling_factor", "attention_head_dim"),
}
"""Keys that must have a value where they stand at all."""


def read_json(path: Path) -> Json:
    """Read a file that holds one JSON object.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        CheckpointError: The file is missing or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"'{path}' is missing.", hint="The folder is not complete; download or copy it again."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' cannot be read as JSON: {error}.", hint="Download it again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__}, a JSON object is needed.")
    return content


def checked(given: Mapping[str, Any], fixed: Json, read: Json, source: str) -> Json:
    """Check a configuration and fill in what it leaves out.

    Args:
        given: The configuration.
        fixed: Keys with the one value that is supported.
        read: Keys that will be read, with their defaults.
        source: Name of the file, for messages.

    Returns:
        The keys of `read` with their values.

    Raises:
        UnknownFormat: A fixed key has another value, a key that is switched on is unknown, or one that needs a value is
            null.
    """
    for key, value in given.items():
        if key in fixed and value != fixed[key]:
            raise unsupported(source, key, value, [fixed[key]])
        if key not in fixed and key not in read and not key.startswith("_") and value not in (None, False):
            raise UnknownFormat(
                f"'{source}' has the key '{key}' = {value!r}, which this version of sfumato does not know.",
                field=key,
                hint="The model has a part that would be left out, so it cannot be loaded.",
            )
        if value is None and key in _NEVER_NULL and key in read:
            raise unsupported(source, key, value, ["a value"])
    return {**read, **{key: value for key, value in given.items() if key in read}}


def unsupported(source: str, key: str, value: Any, allowed: Sequence[Any]) -> UnknownFormat:
    """Build the error for a value that our networks cannot follow."""
    return UnknownFormat(
        f"'{source}' has '{key}' = {value!r}; supported: {', '.join(map(repr, allowed))}.",
        field=key,
        hint="A model of this kind cannot be loaded.",
    )


def one_of(values: Mapping[str, Any], key: str, allowed: Sequence[str], source: str) -> Any:
    """Return `values[key]`, which must be one of a few.

    Raises:
        UnknownFormat: It is not.
    """
    if values[key] not in allowed:
        raise unsupported(source, key, values[key], allowed)
    return values[key]


def uniform(values: Mapping[str, Any], key: str, source: str) -> Any:
    """Return a number that may also be written once per level, as long as it is the same everywhere.

    Raises:
        UnknownFormat: It differs between levels.
    """
    value = values[key]
    if not isinstance(value, list | tuple):
        return value
    if len(set(value)) != 1:
        raise unsupported(source, key, value, ["one number for all levels"])
    return value[0]


def flags(values: Mapping[str, Any], key: str, kinds: Mapping[str, bool], source: str) -> list[bool]:
    """Turn a list of block types into a list of flags.

    Raises:
        UnknownFormat: A block type is not among `kinds`.
    """
    for kind in values[key]:
        if kind not in kinds:
            raise unsupported(source, key, kind, list(kinds))
    return [kinds[kind] for kind in values[key]]
