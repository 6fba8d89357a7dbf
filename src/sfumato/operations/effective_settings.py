"""Say of every value that decides a lesson where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.operations.learn_plan import Setting
from sfumato.operations.learn_values import PLACES, TABLES
from sfumato.operations.overrides import overridden_keys
from sfumato.requests import LearnRequest, flag_of
from sfumato.runtime.json_values import flattened
from sfumato.training.learn_config import LearnConfig
from sfumato.training.optim_library import SUITED

_OTHER_NAMES = {"kind": "style", "further": "also"}
_SAME_NAMES = {name: name for name in LearnConfig.model_fields if name in LearnRequest.model_fields}
FIELD_OF: Mapping[str, str] = {
    **{name: field for name, field in _SAME_NAMES.items() if name not in TABLES},
    **_OTHER_NAMES,
    **{place: field for field, place in PLACES.items()},
}
"""The request's field for a key of the trainer."""
_NOT_SETTINGS = {"plan", "memory", "overrides", *TABLES}


def effective_settings(
    request: LearnRequest, config: LearnConfig, sources: Mapping[str, str] | None = None
) -> tuple[Setting, ...]:
    """Return every value of a lesson with its source: the trainer's by dotted key, then the rest of the request.

    Args:
        request: What was asked for.
        config: The trainer's settings that it becomes.
        sources: Where each field of the request came from, `flag` or `file`; None where nothing tells.
    """
    values = flattened(config.model_dump(mode="json")) | {"identifier": config.chosen_identifier}
    settings = [Setting(key, value, source_of(key, request, config, sources)) for key, value in values.items()]
    rest = request.model_dump(mode="json").items()
    mapped = {*FIELD_OF.values(), *_NOT_SETTINGS}
    settings += [
        Setting(name, value, _given(name, request, sources) or "default") for name, value in rest if name not in mapped
    ]
    return tuple(settings)


def source_of(key: str, request: LearnRequest, config: LearnConfig, sources: Mapping[str, str] | None) -> str:
    """Return where a value of the trainer came from.

    Args:
        key: Its dotted key.
        request: What was asked for.
        config: The trainer's settings.
        sources: See `effective_settings`.
    """
    if key in overridden_keys(request.overrides):
        return "--set"
    field = FIELD_OF.get(key)
    given = None if field is None else _given(field, request, sources)
    if given is not None:
        return given
    table, _, rest = key.partition(".")
    if table in TABLES and rest.partition(".")[0] in getattr(request, table):
        return "file"
    suited: Mapping[str, Any] = SUITED[config.optim.name]
    derived = {
        "optim.lr": "method, base and optimizer" if "lr_factor" in suited else "method and base",
        "identifier": "method",
        "rank": "method",
        "targets": "method and base",
        "output": "word",
        "loop.steps": "method and base",
        "strength": "method, base and adapter",
        "objective.shift": "method and base",
        "loop.save_every": "steps",
        **{f"optim.{name}": "optimizer" for name in suited},
    }
    return derived.get(key, "default")


def _given(field: str, request: LearnRequest, sources: Mapping[str, str] | None) -> str | None:
    """Return how a field was given, or None."""
    if field not in request.model_fields_set or getattr(request, field) is None:
        return None
    source = "given" if sources is None else sources[field]
    if source != "flag":
        return source
    flag = flag_of(field, LearnRequest.model_fields[field])
    return "argument" if flag.positional else flag.names[-1]
