"""Build a request from defaults, a preset, a file and flags, and keep where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from sfumato.errors import ConfigError
from sfumato.requests import Request, expected, flag_of
from sfumato.runtime.suggestions import did_you_mean
from sfumato.runtime.toml_file import read_toml

RequestT = TypeVar("RequestT", bound=Request)
Source = Literal["default", "preset", "file", "flag"]


@dataclass(frozen=True)
class Resolved(Generic[RequestT]):
    """A request and where each of its values came from."""

    request: RequestT
    sources: dict[str, Source]

    def explain(self) -> list[tuple[str, str, Source]]:
        """Return every field with its value as text and its source."""
        values = self.request.model_dump(mode="json")
        return [(name, str(values[name]), source) for name, source in self.sources.items()]


def resolve(
    request_class: type[RequestT],
    *,
    preset: Mapping[str, Any] | None = None,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Resolved[RequestT]:
    """Build a request; later sources win: default, preset, file, flag.

    Texts `KEY=VALUE` of a flag are added to those of a file, which yield to every flag that sets the same key.

    Args:
        request_class: Which request.
        preset: Values that a method or a base prefers to the defaults.
        file: TOML file with values.
        flags: Values given by hand, as text or as objects.

    Returns:
        The request with the source of every field.

    Raises:
        ConfigError: A key is unknown, or a value is missing or out of range.
    """
    layers: list[tuple[Source, Mapping[str, Any]]] = [
        ("preset", preset or {}),
        ("file", read_toml(file) if file else {}),
        ("flag", flags or {}),
    ]
    _check_said_once(request_class, flags or {})
    values: dict[str, Any] = {}
    of_file: dict[str, Any] = {}
    sources: dict[str, Source] = dict.fromkeys(request_class.model_fields, "default")
    for source, layer in layers:
        where = str(file) if source == "file" else None
        for key, value in layer.items():
            if key not in request_class.model_fields:
                raise unknown_key(key, request_class, where)
            values[key] = value
            sources[key] = source
        if source == "file":
            of_file = dict(values)
    values |= _joined(request_class, of_file, flags or {})
    try:
        request = request_class.model_validate(values)
    except ValidationError as error:
        raise _config_error(error, request_class, sources, file) from error
    return Resolved(request, sources)


def _check_said_once(request_class: type[Request], flags: Mapping[str, Any]) -> None:
    """Refuse a flag and a `KEY=VALUE` of another one that set the same key."""
    fields = request_class.model_fields
    given = (name for name, value in flags.items() if value is not None and name in fields)
    said = {request_class.places.get(name, name): name for name in given if flag_of(name, fields[name]).names}
    for name, field in fields.items():
        texts = flags.get(name)
        if not flag_of(name, field).sets_keys or not isinstance(texts, list | tuple):
            continue
        for text in texts:
            key = text.partition("=")[0].strip() if isinstance(text, str) else ""
            if key in said and said[key] != name:
                other = flag_of(said[key], fields[said[key]]).names[-1]
                own = flag_of(name, field).names[-1]
                raise ConfigError(
                    f"{other} and {own} {text} set the same; needed: one of them.",
                    field=said[key],
                    hint=f"Leave out {own} {text}.",
                )


def _joined(request_class: type[Request], before: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the lists of `KEY=VALUE` from a file without what flags say, then those from flags."""
    given = {request_class.places.get(name, name) for name, value in flags.items() if value is not None}
    joined: dict[str, Any] = {}
    for name, field in request_class.model_fields.items():
        texts, more = before.get(name), flags.get(name, ())
        if not flag_of(name, field).sets_keys or not isinstance(texts, list | tuple):
            continue
        staying = [text for text in texts if not isinstance(text, str) or text.partition("=")[0].strip() not in given]
        if isinstance(more, list | tuple):
            joined[name] = (*staying, *more)
    return joined


def unknown_key(key: str, model: type[BaseModel], where: str | None = None) -> ConfigError:
    """Build the error for a key that a model does not have."""
    prefix = f"{where}: " if where else ""
    return ConfigError(f"{prefix}unknown key {key!r}.", field=key, hint=did_you_mean(key, model.model_fields))


def _config_error(
    error: ValidationError, model: type[Request], sources: Mapping[str, Source], file: Path | None
) -> ConfigError:
    """Turn pydantic's list of problems into one message in plain words."""
    messages: dict[str, str] = {}
    for details in error.errors():
        name = str(details["loc"][0])
        messages.setdefault(name, _problem(name, model.model_fields[name], details, sources[name], file))
    return ConfigError("; ".join(messages.values()) + ".", field=next(iter(messages)))


def _problem(name: str, field: FieldInfo, details: ErrorDetails, source: Source, file: Path | None) -> str:
    """Say what was given and what was needed for one field."""
    flag = flag_of(name, field)
    label = name if flag.positional or not flag.names else flag.names[-1]
    if source == "file":
        label = f"{file}: {name}"
    if details["type"] == "missing":
        return f"{label} is missing; needed {expected(field)}"
    if details["type"] == "value_error":
        return f"{label}: given {details['input']!r}; {details['msg'].removeprefix('Value error, ')}"
    given = details["input"]
    hint = ""
    if details["type"] == "literal_error":
        known = expected(field).removeprefix("one of ").split(", ")
        hint = f" ({did_you_mean(str(given), known)})" if did_you_mean(str(given), known).startswith("Did") else ""
    return f"{label}: given {_shown(given)}; needed {expected(field)}{hint}"


def _shown(value: object) -> str:
    """Show a value as the user wrote it."""
    return f"{value!r}" if isinstance(value, str) else str(value)
