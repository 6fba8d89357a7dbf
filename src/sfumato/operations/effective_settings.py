"""Say of every value that decides a lesson where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sfumato.adapters.kinds import KINDS
from sfumato.formats.bundle_outline import read_bundle_outline
from sfumato.operations.learn_plan import Setting
from sfumato.operations.learn_values import PLACES, TABLES, times_are_chosen
from sfumato.operations.overrides import overridden_keys
from sfumato.requests import LearnRequest, flag_of
from sfumato.runtime.json_values import flattened
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS
from sfumato.training.optim_library import LONGER, SUITED
from sfumato.training.subject import learned_caption, subject_entries
from sfumato.training.words import rare_words

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

    Raises:
        AdapterError: The vocabulary of the base has no rare word to spare.
        SfumatoError: The pictures cannot be listed, or the base cannot be read.
    """
    values = flattened(config.model_dump(mode="json")) | {"identifier": config.chosen_identifier}
    told = {key: (value, source_of(key, request, config, sources)) for key, value in values.items()}
    settings = [Setting(key, *found) for key, found in (told | _in_effect(request, config)).items()]
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
        source = "flag" if sources is None else sources["overrides"]
        return "--set" if source == "flag" else source
    field = FIELD_OF.get(key)
    given = None if field is None else _given(field, request, sources)
    if given is not None:
        return given
    table, _, rest = key.partition(".")
    if table in TABLES and rest.partition(".")[0] in getattr(request, table):
        return "given" if sources is None else "file"
    suited: Mapping[str, Any] = SUITED[config.optim.name]
    derived = {
        "optim.lr": "method, base and optimizer" if "lr_factor" in suited else "method and base",
        "optim.schedule": "method",
        "identifier": "method",
        "rank": "method",
        "targets": "method and base",
        "output": "word",
        "loop.steps": "method, base and optimizer" if config.optim.name in LONGER else "method and base",
        "strength": "method, base and adapter",
        "objective.shift": "default" if times_are_chosen(request) else "method and base",
        "loop.save_every": "steps",
        "loop.preview_every": "loop.save_every" if config.preview_prompts else "default",
        **{f"optim.{name}": "optimizer" for name in suited},
    }
    return derived.get(key, "default")


def _in_effect(request: LearnRequest, config: LearnConfig) -> dict[str, tuple[Any, str]]:
    """Return what takes the place of values that are left open, with what it goes by."""
    found: dict[str, tuple[Any, str]] = {}
    if METHODS[config.method].has_factors:
        if config.init is None:
            found["init"] = (KINDS[config.adapter].USUAL_INIT, "adapter")
        if config.alpha is None:
            found["alpha"] = (config.rank, "rank")
    nouns = [subject.class_noun for subject in config.subjects]
    if config.chosen_identifier == "new" and config.initializer is None:
        found["initializer"] = (_one_or_all(nouns), "class noun")
    if config.chosen_identifier == "rare" and config.word is None:
        found["word"] = (_one_or_all(_found_words(request, config)), "base, pictures and seed")
    return found


def _found_words(request: LearnRequest, config: LearnConfig) -> list[str]:
    """Find the rare words that the lesson will find, without the weights of the base."""
    is_style = config.kind == "style"
    captions = [
        learned_caption(entry, one.placeholder, one.class_noun, is_style=is_style)
        for one in config.subjects
        for entry in subject_entries(one.folder, one.placeholder, one.class_noun, is_style=is_style)
    ]
    base = read_bundle_outline(request.base)
    return rare_words(config, captions, base.tokenizer.vocabulary, base.words)


def _one_or_all(words: list[str]) -> str | list[str]:
    """Return the word of one subject, or the list of those of several."""
    return words[0] if len(words) == 1 else words


def _given(field: str, request: LearnRequest, sources: Mapping[str, str] | None) -> str | None:
    """Return how a field was given, or None."""
    if field not in request.model_fields_set or getattr(request, field) is None:
        return None
    source = "given" if sources is None else sources[field]
    if source != "flag":
        return source
    flag = flag_of(field, LearnRequest.model_fields[field])
    return "argument" if flag.positional else flag.names[-1]
