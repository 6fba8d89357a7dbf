"""How requests and their fields are written: on the command line, in messages and in the help."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ConfigDict, field_validator
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Flag:
    """How a field is written on the command line.

    Attributes:
        names: The flags, for example `("-n",)`; empty: `--` and the field's name with dashes.
        metavar: What stands for the value in the help.
        positional: Whether the value comes without a flag.
        file_only: Whether it can be given in a file alone.
        sets_keys: Whether it holds `KEY=VALUE`: those of flags come after those of a file, and any flag wins over what
            a file says of its key.
    """

    names: tuple[str, ...] = ()
    metavar: str | None = None
    positional: bool = False
    file_only: bool = False
    sets_keys: bool = False


class Request(BaseModel):
    """Base of all requests: unknown keys are refused and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    places: ClassVar[Mapping[str, str]] = {}
    """Dotted keys that fields stand for where `KEY=VALUE` can be given too; other fields have their own names."""

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: object) -> object:
        """Refuse a text that no file can hold, such as what a terminal of another encoding hands over."""
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"needed text in UTF-8; character {error.start + 1} is none") from error
        return value


def flag_of(name: str, field: FieldInfo) -> Flag:
    """Return how a field is written on the command line."""
    declared = next((item for item in field.metadata if isinstance(item, Flag)), Flag())
    names = declared.names or (() if declared.positional else (f"--{name.replace('_', '-')}",))
    return Flag(names, declared.metavar, declared.positional, declared.file_only, declared.sets_keys)


def is_list(field: FieldInfo) -> bool:
    """Say whether a field takes several values, one flag each."""
    arguments = get_args(field.annotation)
    return get_origin(field.annotation) is tuple and len(arguments) == 2 and arguments[1] is ...


def is_switch(field: FieldInfo) -> bool:
    """Say whether a field is on or off."""
    return field.annotation is bool


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """Return the values a field may take, or nothing when they are not a short list."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


def expected(field: FieldInfo) -> str:
    """Describe in words the values that a field takes, for messages and help."""
    choices = choices_of(field)
    if choices:
        return "one of " + ", ".join(choices)
    kind = _kind(field.annotation)
    low, high = _bounds(field.metadata)
    if low.startswith("at least") and high.startswith("at most"):
        return f"{kind} from {low.split()[-1]} to {high.split()[-1]}"
    if low and high:
        return f"{kind} {low} and {high}"
    return f"{kind} {low or high}" if low or high else kind


def _kind(annotation: Any) -> str:
    """Name a type in plain words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _kind(next(item for item in arguments if item is not type(None)))
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return _kind(arguments[0])
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}
    if origin is tuple:
        return "one number or WIDTHxHEIGHT, each from 8 to 4096"
    if hasattr(annotation, "in_words"):
        return str(annotation.in_words)
    if origin is dict:
        return "a table"
    return names.get(annotation, "a value")


def _bounds(metadata: list[Any]) -> tuple[str, str]:
    """Return the lower and the upper bound in words."""
    low = high = ""
    for item in metadata:
        if isinstance(item, annotated_types.Ge):
            low = f"at least {item.ge}"
        elif isinstance(item, annotated_types.Gt):
            low = f"above {item.gt}"
        elif isinstance(item, annotated_types.Le):
            high = f"at most {item.le}"
        elif isinstance(item, annotated_types.Lt):
            high = f"below {item.lt}"
        elif isinstance(item, annotated_types.MinLen):
            low = f"of at least {item.min_length} character{'s' if item.min_length > 1 else ''}"
    return low, high
