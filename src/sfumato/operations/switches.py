"""Which switches make a lesson smaller, the cheapest first."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sfumato.operations.learn_values import PLACES
from sfumato.operations.overrides import overridden_keys
from sfumato.requests import LearnRequest, flag_of, is_switch
from sfumato.training.factors import is_of_text, starts_at_zero
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS
from sfumato.training.optim_library import OptimizerName, suited_factor

_SMALLEST_RANK = 4
_WORTH = 0.01


@dataclass(frozen=True)
class Found:
    """What is known of a lesson that is too large.

    Attributes:
        peak_bytes: Its peak memory.
        learned_bytes: What learns.
        optimizer_bytes: The optimizer's moments.
        looks_are_too_large: Whether the looks of the verdict alone take too much.
        knows_sizes: Whether the two sizes are known.
    """

    peak_bytes: int
    learned_bytes: int = 0
    optimizer_bytes: int = 0
    looks_are_too_large: bool = False
    knows_sizes: bool = True

    def is_worth(self, saved_bytes: int) -> bool:
        """Say whether what a switch can save is a hundredth of the peak, or not known."""
        return not self.knows_sizes or saved_bytes >= _WORTH * self.peak_bytes


@dataclass(frozen=True)
class Switches:
    """Some fields that are changed together.

    Attributes:
        values: The new values by field of the request.
        loses: What changes in the result, in words; empty: nothing.
    """

    values: tuple[tuple[str, Any], ...]
    loses: tuple[str, ...] = ()

    def __add__(self, other: Switches) -> Switches:
        """Change the fields of both."""
        return Switches((*self.values, *other.values), (*self.loses, *other.loses))

    def applied(self, request: LearnRequest) -> LearnRequest:
        """Return a request with the switches in it; they win over values of `--set`."""
        overridden = overridden_keys(request.overrides)
        fields = {name: value for name, value in self.values if place_of(name) not in overridden}
        more = tuple(f"{place_of(name)}={_toml(value)}" for name, value in self.values if name not in fields)
        return request.model_copy(update={**fields, "overrides": (*request.overrides, *more)})

    def flags(self, request: LearnRequest) -> tuple[str, ...]:
        """Return what to add to the command."""
        overridden = overridden_keys(request.overrides)
        return tuple(
            f"--set {place_of(name)}={_toml(value)}" if place_of(name) in overridden else _flag(name, value)
            for name, value in self.values
        )


_WHILE_UNDER_WAY = {"gradient_checkpointing", "verdict"}
"""Fields that a lesson which goes on may change."""
_UNJUDGED = Switches((("verdict", False),), ("no state is scored, the last one is written",))


def smaller(request: LearnRequest, config: LearnConfig, found: Found) -> Iterator[Switches]:
    """Yield switches in order of what they are expected to cost, of a lesson that goes on only those that it may take.

    First what leaves the result as it is: the same step in smaller parts, activations computed twice, both. Then, on
    top of these, what changes the result. Where looks are what is too large, none are taken from the start.

    Args:
        request: The lesson.
        config: The trainer's settings that it becomes.
        found: What was measured.
    """
    for switches in _in_order(request, config, found):
        if not request.resume or {name for name, _ in switches.values} <= _WHILE_UNDER_WAY:
            yield switches


def _in_order(request: LearnRequest, config: LearnConfig, found: Found) -> Iterator[Switches]:
    """Yield all switches."""
    first = _UNJUDGED if request.verdict and found.looks_are_too_large else Switches(())
    if first.values:
        yield first
    parts = [_parted(config, size) for size in _sizes(config.batch_size)]
    twice = [] if config.gradient_checkpointing else [Switches((("gradient_checkpointing", True),))]
    yield from (first + one for one in (*parts, *twice))
    if parts and twice:
        yield first + parts[-1] + twice[0]
    for one in (*parts[-1:], *twice):
        first = first + one
    for further in _further(request, config, found):
        first = first + further
        yield first


def _further(request: LearnRequest, config: LearnConfig, found: Found) -> Iterator[Switches]:
    """Yield switches that change the result, the mildest first."""
    method = METHODS[config.method]
    optimizer = _optimizer(request, config)
    if optimizer is not None and found.is_worth(found.optimizer_bytes // 2):
        yield optimizer
    if config.ema.decay and found.is_worth(found.learned_bytes):
        yield Switches((("ema_decay", 0.0),), ("the result is the last state, not an average",))
    if request.verdict and not found.looks_are_too_large:
        yield _UNJUDGED
    if config.text_encoder and method.has_rank and not any(map(is_of_text, config.targets)):
        yield Switches((("text_encoder", False),), ("the text encoder does not learn",))
    rank = max(_SMALLEST_RANK, config.rank // 4)
    saved = (found.learned_bytes + found.optimizer_bytes) * (config.rank - rank) // config.rank
    if method.has_factors and rank < config.rank and found.is_worth(saved):
        yield Switches((("rank", rank),), (f"factors of rank {rank} hold less",))


def _sizes(batch_size: int) -> list[int]:
    """Return the largest proper divisor of a batch size, and 1."""
    largest = next((size for size in range(batch_size // 2, 0, -1) if batch_size % size == 0), None)
    return [] if largest is None else sorted({largest, 1}, reverse=True)


def _parted(config: LearnConfig, size: int) -> Switches:
    """Take the same step in smaller parts."""
    accumulate = config.loop.accumulate * config.batch_size // size
    return Switches((("batch_size", size), ("accumulate", accumulate)))


def _optimizer(request: LearnRequest, config: LearnConfig) -> Switches | None:
    """Take an optimizer with smaller moments; a rate that was given is scaled to what suits it."""
    name: OptimizerName = config.optim.name
    if name in ("adafactor", "adamw-8bit"):
        return None
    if name == "adamw" and importlib.util.find_spec("torchao") is not None:
        return Switches((("optimizer", "adamw-8bit"),), ("moments of 8 bits",))
    given = {*(f"optim.{key}" for key in request.optim), *overridden_keys(request.overrides)}
    if any(key in ("optim.eps", "optim.betas") or key.startswith("optim.muon_") for key in given):
        return None  # these say nothing to adafactor, which then would refuse them
    changed: tuple[tuple[str, Any], ...] = (("optimizer", "adafactor"),)
    if request.lr is not None or "lr" in request.optim or "optim.lr" in overridden_keys(request.overrides):
        if name == "prodigy":
            return None  # its rate is a factor on one that it finds, which says nothing about another's
        from_zero = starts_at_zero(config)
        rate = config.optim.lr * suited_factor("adafactor", from_zero=from_zero)
        rate /= suited_factor(name, from_zero=from_zero)
        if rate > 1:
            return None  # no lesson takes it
        changed += (("lr", rate),)
    return Switches(changed, ("another optimizer",))


def place_of(field: str) -> str:
    """Return the trainer's key for a field of the request."""
    return PLACES.get(field, field)


def _flag(name: str, value: Any) -> str:
    """Write a field as on the command line."""
    field = LearnRequest.model_fields[name]
    flag = flag_of(name, field).names[-1]
    if is_switch(field):
        return flag if value else f"--no-{flag.removeprefix('--')}"
    return f"{flag} {value:g}" if isinstance(value, float) else f"{flag} {value}"


def _toml(value: Any) -> str:
    """Write a value as TOML reads it."""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
