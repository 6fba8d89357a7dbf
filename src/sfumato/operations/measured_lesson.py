"""Learn a subject in a process of its own, so that time and memory are those of the lesson alone."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from sfumato.errors import SfumatoError, TrainingError
from sfumato.events import Artifact, Event, Metric, Notice, Progress
from sfumato.operations.learn import is_result, learn
from sfumato.requests import LearnRequest
from sfumato.runtime.peak_memory import peak_memory_bytes

_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Spent:
    """What a lesson took.

    Attributes:
        seconds: Wall time from reading the base to the finished file; starting the process is not counted.
        peak_bytes: The most memory that its process held, the base and all libraries included.
    """

    seconds: float
    peak_bytes: int


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
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_lesson, args=(request, sender), daemon=True)
    process.start()
    sender.close()
    spent: Spent | None = None
    try:
        while True:
            try:
                told = receiver.recv()
            except EOFError:
                break
            if isinstance(told, SfumatoError):
                raise told
            if isinstance(told, Spent):
                spent = told
            else:
                yield told
        process.join()
    finally:
        if process.is_alive():
            process.terminate()  # the trainer saves its state when it is asked to stop
            process.join(_PATIENCE_S)
        receiver.close()
    if spent is None:
        raise TrainingError(
            f"The lesson for '{request.output}' ended with exit code {process.exitcode} before it was finished.",
            hint="Start the same command again: finished lessons are kept and this one goes on.",
        )
    return spent


def _lesson(request: LearnRequest, sender: Connection) -> None:
    """Learn and tell; runs in the other process."""
    started, is_finished = time.perf_counter(), False
    try:
        for event in learn(request):
            if isinstance(event, Metric | Notice | Progress | Artifact):
                sender.send(event)
            is_finished = is_finished or is_result(event)
    except SfumatoError as error:
        sender.send(error)
        return
    except KeyboardInterrupt:  # Ctrl-C reaches both processes; the other one tells
        return
    if is_finished:
        sender.send(Spent(time.perf_counter() - started, peak_memory_bytes()))
