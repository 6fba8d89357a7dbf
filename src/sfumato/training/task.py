"""What the loop needs to know about a kind of training: a plain record of parts and functions.

The autoencoder, the denoiser and every personalisation method fill in the same record; there is nothing to inherit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sfumato.events import Event
from sfumato.training.ema import Ema
from sfumato.training.optim import OptimConfig


@dataclass(frozen=True)
class LossReport:
    """The loss of one batch and what is told about it.

    Attributes:
        loss: Scalar to descend.
        metrics: Numbers for the log, each averaged over the steps that report it.
        sample_ids: A name for each sample of the batch, used when one of them breaks the step.
        per_sample: Loss of each sample, `(b,)`, detached; finds the sample that breaks the step.
        pictures: Number of training pictures in the batch, for the throughput.
    """

    loss: Tensor
    metrics: Mapping[str, float | Tensor] = field(default_factory=dict)
    sample_ids: Sequence[str] = ()
    per_sample: Tensor | None = None
    pictures: int = 0


def _always(step: int) -> bool:
    """Say yes at every step."""
    return True


def _no_events(*_: Any) -> Iterator[Event]:
    """Yield nothing."""
    yield from ()


def _no_numbers(step: int) -> Mapping[str, float]:
    """Measure nothing."""
    return {}


def _go_on() -> str | None:
    """Know no reason to end early."""
    return None


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Phase:
    """One loss and the optimizer that descends it; the phases of a task run in order within every step.

    Attributes:
        name: Short name, part of file names and metrics.
        modules: The modules whose trainable weights this phase moves, by name.
        loss: Gives the loss of a draw, `step · accumulate + part`. All random numbers must come from
            `seeding.generator(seed, purpose, draw)` or from torch's global generator, which the loop seeds by the draw.
        optim: Optimizer and schedule.
        active: Whether the phase takes part in a step.
        first_step: The step that its learning rate begins at.
    """

    name: str
    modules: Mapping[str, nn.Module]
    loss: Callable[[int], LossReport]
    optim: OptimConfig
    active: Callable[[int], bool] = _always
    first_step: int = 0


@dataclass
class Task:
    """Everything that the loop runs.

    Attributes:
        phases: At least one.
        saved: Every module whose weights the run changes, by the name of its file in a checkpoint.
        seed: Seed of the run.
        ema: Average of weights, updated after each good step.
        can_save_memory: Whether its networks can learn with gradient checkpointing that is off now.
        ships_average: Whether `validate`, `preview`, `after_save` and `finish` find the average in place of the
            weights; a task without this takes it where it needs it.
        watched: Modules that are searched when a number is not finite; those of the phases by default.
        begin: Called with the step that the run goes on from, 0 for a new one, and the run folder.
        before_step: Called with each step; yields what it did, such as renewing a cache.
        validate: Returns numbers on fixed data for the log.
        preview: Writes pictures for a step into a folder and yields them.
        after_save: Called with step and run folder after each checkpoint.
        settled: Says why further steps are not worth taking, or None; the run is then complete.
        finish: Called with step and run folder at the end of a completed run; yields its artifacts.
        close: Frees workers and files, however the run ends.
    """

    phases: Sequence[Phase]
    saved: Mapping[str, nn.Module]
    seed: int = 0
    ema: Ema | None = None
    can_save_memory: bool = False
    ships_average: bool = False
    watched: Mapping[str, nn.Module] = field(default_factory=dict)
    begin: Callable[[int, Path], Iterator[Event]] = _no_events
    before_step: Callable[[int], Iterator[Event]] = _no_events
    validate: Callable[[int], Mapping[str, float]] = _no_numbers
    preview: Callable[[int, Path], Iterator[Event]] = _no_events
    after_save: Callable[[int, Path], Iterator[Event]] = _no_events
    settled: Callable[[], str | None] = _go_on
    finish: Callable[[int, Path], Iterator[Event]] = _no_events
    close: Callable[[], None] = _nothing
