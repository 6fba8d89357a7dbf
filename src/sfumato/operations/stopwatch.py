"""See what each part of a lesson takes, from the events that it tells."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfumato.errors import Diverged
from sfumato.events import Checkpoint, Event, Metric, Notice, Preview, Progress, Verdict
from sfumato.pipeline import Pipeline
from sfumato.runtime.peak_memory import peak_memory_bytes
from sfumato.training.probe import Probe

START, PICTURES, CLASS_PICTURES, PREPARATION = "start and base", "pictures and words", "class pictures", "first step"
BASE_LOOK, STEP, SAVING, LOOK = "look at the base", "step", "saving", "look at a saved state"
PREVIEW, END = "preview", "result"
_STEP_NUMBER = "learn/loss"
_NEAR = 0.99


@dataclass
class Stopwatch:
    """Seconds and peak memory by part of a lesson.

    A part is named by the event that ends it, unless `within` names it.

    Args:
        started_s: When the process was started, in seconds of `time.time`.

    Attributes:
        seconds: Time of each part.
        steps: Time of each optimizer step.
        peaks: Peak memory at the end of each stretch, in order, with the part's name.
        within: The part that is being done, where events do not tell.
    """

    started_s: float
    seconds: dict[str, float] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)
    peaks: list[tuple[str, int]] = field(default_factory=list)
    within: str | None = None

    def note(self, event: Event) -> None:
        """End a stretch; a notice may come at any time and ends none."""
        if isinstance(event, Notice):
            return
        part = self.within or part_of(event)
        spent = self.stretch(part)
        if part == STEP:
            self.steps.append(spent)

    def stretch(self, part: str) -> float:
        """Count the time since the last stretch for a part, and return it."""
        now = time.time()
        spent, self.started_s = now - self.started_s, now
        self.seconds[part] = self.seconds.get(part, 0.0) + spent
        self.peaks.append((part, peak_memory_bytes()))
        return spent

    @property
    def step_s(self) -> float:
        """Seconds per step, without the first, which warms up.

        Raises:
            Diverged: No step was taken, since none had finite numbers.
        """
        if not self.steps:
            raise Diverged(
                "Finite numbers were found in 0 of the measured steps; a plan needs at least 1 step.",
                hint="Lower the learning rate (--lr), or start the lesson itself to see where they come from.",
            )
        counted = self.steps[1:] or self.steps
        return sum(counted) / len(counted)

    @property
    def peak_bytes(self) -> int:
        """The most memory that the process held."""
        return self.peaks[-1][1]

    @property
    def peak_part(self) -> str:
        """The part in which that was reached, to a hundredth."""
        return next(part for part, peak in self.peaks if peak >= _NEAR * self.peak_bytes)

    def peak_before(self, *parts: str) -> int:
        """Return the peak of everything that comes before the first of some parts."""
        first = next((number for number, (part, _) in enumerate(self.peaks) if part in parts), len(self.peaks))
        return self.peaks[first - 1][1] if first else 0


def part_of(event: Event) -> str:
    """Name the part of a lesson that an event ends."""
    match event:
        case Progress(phase="pictures", done=0):
            return START
        case Progress(phase="pictures"):
            return PICTURES
        case Progress(phase="class pictures"):
            return CLASS_PICTURES
        case Metric() if _STEP_NUMBER in event.values:
            return STEP
        case Preview():
            return PREVIEW
        case Checkpoint() | Verdict():  # the verdict is told when the last look has been saved
            return SAVING
        case _:
            return END


class NetworkTime:
    """Adds up the time of a network while nothing learns.

    Args:
        network: The network; it is watched from now on.

    Attributes:
        seconds: The sum.
    """

    def __init__(self, network: nn.Module) -> None:
        self.seconds = 0.0
        self._started = 0.0
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._started = time.time()

    def _end(self, *_: Any) -> None:
        if not torch.is_grad_enabled():
            self.seconds += time.time() - self._started


@dataclass(frozen=True)
class Look:
    """What a look took: seconds, and what of that was the network's."""

    seconds: float
    network_s: float


class TimedProbe:
    """A judge whose looks are timed.

    Args:
        judge: The judge.
        network: Times the network that draws.
        watch: Times everything.

    Attributes:
        base_look: The look at the base, once it has been taken.
        step_look: The last look at a saved step.
    """

    def __init__(self, judge: Probe, network: NetworkTime, watch: Stopwatch) -> None:
        self.judge, self._network, self._watch = judge, network, watch
        self.base_look: Look | None = None
        self.step_look: Look | None = None
        self.recall, self.forget, self.verdict = judge.recall, judge.forget, judge.verdict
        self.leader, self.settled = judge.leader, judge.settled
        self.texts = judge.texts

    def begin(self, pipeline: Pipeline) -> Iterator[Event]:
        """Look at the base."""
        before = self._network.seconds
        self._watch.stretch(PREPARATION)
        yield from self._within(BASE_LOOK, self.judge.begin(pipeline))
        self.base_look = Look(self._watch.seconds[BASE_LOOK], self._network.seconds - before)

    def look(self, step: int, drawing: AbstractContextManager[Pipeline], folder: Path) -> Iterator[Event]:
        """Look at a saved step."""
        before = self._network.seconds
        self._watch.stretch(SAVING)
        yield from self._within(LOOK, self.judge.look(step, drawing, folder))
        self.step_look = Look(self._watch.seconds[LOOK], self._network.seconds - before)

    def _within(self, part: str, events: Iterator[Event]) -> Iterator[Event]:
        """Count the time of some events for a part."""
        self._watch.within = part
        yield from events
        self._watch.stretch(part)
        self._watch.within = None
