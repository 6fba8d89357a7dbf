"""What a running loop tells: samplers and trainers are generators of these.

A terminal, a web page, a test or a notebook consumes the same stream; closing the generator cancels the work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Event:
    """Anything that a loop yields."""


@dataclass(frozen=True)
class Step(Event):
    """One sampler step.

    Attributes:
        step: Index of the finished step, from 0.
        steps: Number of steps of the whole run.
        x_t: Latents after the step, `(b, c, h, w)`.
        x_0: The clean latents that the network predicted in this step, same shape.
    """

    step: int
    steps: int
    x_t: Tensor
    x_0: Tensor


@dataclass(frozen=True)
class Metric(Event):
    """Numbers measured at one optimizer step, for example `{"loss": 0.7, "lr": 1e-4}`."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Notice(Event):
    """Something the user should read: what happened and what was done about it."""

    step: int
    message: str


@dataclass(frozen=True)
class Preview(Event):
    """A picture of the state of the work, written to `path`."""

    step: int
    path: Path


@dataclass(frozen=True)
class Checkpoint(Event):
    """A state from which the run can be resumed, written to `path`."""

    step: int
    path: Path


@dataclass(frozen=True)
class Verdict(Event):
    """The step to use and why, with the scores behind it.

    Attributes:
        step: The step.
        reason: Why, in one to three sentences.
        scores: Its scores by name.
        alarms: What is wrong with it, one sentence each.
        front: The steps that no other step beats in everything.
    """

    step: int
    reason: str
    scores: dict[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    front: tuple[int, ...] = ()


@dataclass(frozen=True)
class Artifact(Event):
    """A finished file or folder.

    `kind` is `image`, `concept`, `bundle`, `autoencoder`, `dual-encoder`, `report`, `dataset`, `lora` or `embedding`.
    """

    path: Path
    kind: str
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress(Event):
    """How far a phase without steps of its own has come (caching, rendering, evaluating)."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True)
class Finding(Event):
    """Something that a check found in the user's files.

    Attributes:
        severity: `error`: nothing can be learned until it is mended; `warning`: the result may suffer; `note`: good
            to know.
        kind: Short stable name, for example `truncated`.
        title: The kind in words.
        path: The file or folder.
        found: What is there, with the values.
        meaning: What follows from it.
        advice: What to do.
    """

    severity: Severity
    kind: str
    title: str
    path: Path
    found: str
    meaning: str
    advice: str


@dataclass(frozen=True)
class Table(Event):
    """Numbers in rows; every row has as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]


@dataclass(frozen=True)
class Done(Event):
    """The work is complete."""

    seconds: float
    info: dict[str, Any] = field(default_factory=dict)
