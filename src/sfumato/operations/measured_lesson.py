"""Learn a subject and say what that took: in a process of its own, or beside a base that is loaded already."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

from sfumato.errors import TrainingError
from sfumato.events import Artifact, Event, Metric, Notice, Progress
from sfumato.formats.bundle import Bundle
from sfumato.operations.learn import is_result, learn
from sfumato.operations.own_process import Ended, Send, in_own_process
from sfumato.requests import LearnRequest
from sfumato.runtime.peak_memory import peak_memory_bytes

_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Spent:
    """What a lesson took.

    Attributes:
        seconds: Wall time from reading the base to the finished file; starting the process is not counted, and what the
            lesson's cache holds already is not made again.
        peak_bytes: The most memory that its process held, the base and all libraries included.
    """

    seconds: float
    peak_bytes: int


Teach = Callable[[LearnRequest], Generator[Event, None, Spent]]
"""Runs a lesson and says what it took."""


def learn_measured(request: LearnRequest) -> Generator[Event, None, Spent]:
    """Run a lesson in a process of its own.

    Args:
        request: The lesson; with `resume` an interrupted one goes on, and only the rest is measured.

    Yields:
        Its events but the steps of samplers.

    Returns:
        What it took.

    Raises:
        SfumatoError: The lesson's own problem, with its field and hint.
        TrainingError: Its process ended before the lesson, for example for want of memory.
    """
    spent = yield from in_own_process(_tell_lesson, request, patience_s=_PATIENCE_S)  # the trainer saves its state
    if not isinstance(spent, Spent):
        code = spent.exit_code if isinstance(spent, Ended) else 0
        raise _unfinished(request, f" with exit code {code}")
    return spent


def learn_beside(bundle: Bundle) -> Teach:
    """Return a way to run lessons in this process: no start-up, but the peak memory is that of the whole process.

    Args:
        bundle: The loaded base of all these lessons; it is left as it was.
    """

    def teach(request: LearnRequest) -> Generator[Event, None, Spent]:
        spent = yield from _lesson(request, bundle)
        if spent is None:
            raise _unfinished(request)
        return spent

    return teach


def _unfinished(request: LearnRequest, how: str = "") -> TrainingError:
    """Build the error for a lesson that ended too early."""
    return TrainingError(
        f"The lesson for '{request.output}' ended{how} before it was finished.",
        hint="Start the same command again: finished lessons are kept and this one goes on.",
    )


def _tell_lesson(request: LearnRequest, send: Send) -> Spent | None:
    """Learn and tell; runs in the other process."""
    events = _lesson(request)
    while True:
        try:
            send(next(events))
        except StopIteration as stop:
            spent: Spent | None = stop.value
            return spent


def _lesson(request: LearnRequest, bundle: Bundle | None = None) -> Generator[Event, None, Spent | None]:
    """Learn, and return what it took; None where it was interrupted."""
    started, is_finished = time.perf_counter(), False
    for event in learn(request, bundle):
        if isinstance(event, Metric | Notice | Progress | Artifact):
            yield event
        is_finished = is_finished or is_result(event)
    return Spent(time.perf_counter() - started, peak_memory_bytes()) if is_finished else None
