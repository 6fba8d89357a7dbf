"""Read published configurations strictly: what our networks cannot follow is refused by name, never skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sfumato.errors import UnknownFormat

Json = dict[str, Any]
_NEVER_NULL = {
    *("block_out_channels", "down_block_types", "up_block_types", "layers_per_block", "norm_num_groups"),
    *("in_channels", "out_channels", "latent_channels", "scaling_factor", "attention_head_dim"),
}
"""Keys that must have a value where they stand at all."""


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
        UnknownFormat: A fixed key has another value, a key that is switched on is unknown, or a value is of another
            kind than its default, such as null where one is needed.
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
    values = {**read, **{key: value for key, value in given.items() if key in read}}
    check_kinds(values, read, source)
    return values


def check_kinds(values: Mapping[str, Any], defaults: Json, source: str) -> None:
    """Refuse values of another kind than their defaults.

    Whole numbers may also be listed, once per level. What has no default, and null, is left to whoever reads it.

    Args:
        values: Some keys with their values.
        defaults: The same keys, each with a value that is of the right kind.
        source: Name of the file, for messages.

    Raises:
        UnknownFormat: A value is of another kind; key and value are named.
    """
    for key, value in values.items():
        default = defaults[key]
        if default is None or value is None:
            continue
        if isinstance(default, list):
            if not (isinstance(value, list | tuple) and all(_is_alike(one, default[0]) for one in value)):
                raise unsupported(source, key, value, [f"a list, each {_kind(default[0])}"])
            continue
        is_of_levels = type(default) is int and isinstance(value, list | tuple)
        if not all(_is_alike(one, default) for one in (value if is_of_levels else [value])):
            raise unsupported(source, key, value, [_kind(default)])


def _is_alike(value: Any, default: Any) -> bool:
    """Say whether a value is of the kind of its default; a whole number will do for any number, 0 and 1 for a flag."""
    if isinstance(default, bool):
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    kinds = (int, float) if isinstance(default, float) else type(default)
    return isinstance(value, kinds) and not isinstance(value, bool)


def _kind(default: Any) -> str:
    """Name the kind of a default."""
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[type(default)]


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
