"""The concepts of a call from Python, as a request names them: by file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.formats.concept import Concept, load_concept


def concept_uses(given: object) -> list[dict[str, Any]]:
    """Turn concepts into what a request names.

    Args:
        given: One concept or several: files, or what `load_concept` returned, each alone or with its strength.

    Returns:
        The `concepts` of a `GenerateRequest`.

    Raises:
        ConfigError: Something else was given; or a concept that no recipe could name, since it was not loaded from a
            file, or is not what its file holds.
        CheckpointError: The file of a loaded concept is gone or damaged.
    """
    if _is_one(given):
        return [_use(given)]
    if not isinstance(given, Iterable):
        raise _no_concept(given)
    return [_use(one) for one in given]


def _is_one(given: object) -> bool:
    """Tell one concept, alone or with its strength, from several."""
    if isinstance(given, tuple) and len(given) == 2:
        return isinstance(given[1], int | float)
    return isinstance(given, str | Path | Concept)


def _use(given: object) -> dict[str, Any]:
    """Write one concept as a request does."""
    strength: dict[str, Any] = {}
    named = given
    if isinstance(given, tuple) and len(given) == 2:
        named, strength["strength"] = given
    if isinstance(named, Concept):
        named = _file_of(named)
    if not isinstance(named, str | Path):
        raise _no_concept(given)
    return {"path": named, **strength}


def _no_concept(given: object) -> ConfigError:
    """Say what was given in place of a concept."""
    return ConfigError(
        f"concepts: given a {type(given).__name__}; needed concept files or loaded concepts, each alone or with its "
        "strength.",
        field="concepts",
        hint="For example concepts=['fox.safetensors', ('owl.safetensors', 0.5)].",
    )


def _file_of(concept: Concept) -> Path:
    """Return the file that a concept was loaded from, which must hold what the concept holds."""
    word = concept.main.placeholder
    if concept.source is None:
        raise ConfigError(
            f"The concept {word} was not loaded from a file, so that the recipe in a picture cannot name it.",
            field="concepts",
            hint="Write it with `save_concept` and give that file, or draw within `Pipeline.using`, without recipes.",
        )
    if not _is_same(load_concept(concept.source), concept):
        raise ConfigError(
            f"The concept {word} is not what its file '{concept.source}' holds; one of them was changed after loading.",
            field="concepts",
            hint="Load the file again, or write the concept to a file of its own.",
        )
    return concept.source


def _is_same(one: Concept, other: Concept) -> bool:
    """Say whether two concepts draw the same."""
    said, same_said = ([word.said for word in concept.words] for concept in (one, other))
    if (said, one.base_hash, dict(one.configs)) != (same_said, other.base_hash, dict(other.configs)):
        return False
    mine, theirs = _tensors(one), _tensors(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _tensors(concept: Concept) -> dict[tuple[str, str], Tensor]:
    """Return all that a concept has learned."""
    found = {(part, name): tensor for part, factors in concept.factors.items() for name, tensor in factors.items()}
    rows = {("word", word.placeholder): word.rows for word in concept.words if word.rows is not None}
    return {**found, **rows}
