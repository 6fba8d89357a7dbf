"""Run something in a process of its own, so that its memory and its end are its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

from sfumato.errors import SfumatoError
from sfumato.events import Event
from sfumato.runtime.peak_memory import peak_of_process

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")
Send = Callable[[Event], None]
_LOOK_S = 0.1


@dataclass(frozen=True)
class Ended:
    """A process that ended without a result.

    Attributes:
        exit_code: Its exit code; -9 where the system ended it.
        peak_bytes: The most memory that it was seen with; 0 where nothing tells it.
    """

    exit_code: int | None
    peak_bytes: int


@dataclass(frozen=True)
class _Result(Generic[ResultT]):
    """What the work returned."""

    value: ResultT


def in_own_process(
    work: Callable[[ArgumentT, Send], ResultT], argument: ArgumentT, *, patience_s: float = 0.0
) -> Generator[Event, None, ResultT | Ended]:
    """Run some work in a fresh process; closing the generator, or an interruption, ends the process.

    Args:
        work: A function at the top of a module; it gets the argument and a function that tells events.
        argument: Anything that can be pickled.
        patience_s: How long the process may save its state when it is asked to stop; 0 ends it at once.

    Yields:
        The events that it tells.

    Returns:
        What the work returned; `Ended` where its process ended before.

    Raises:
        SfumatoError: The work's own problem, with its field and hint.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(work, argument, sender), daemon=True)
    process.start()
    sender.close()
    peak, told = 0, None
    try:
        while not isinstance(told, _Result):
            if not receiver.poll(_LOOK_S):
                peak = max(peak, peak_of_process(process.pid or 0))
                continue
            try:
                told = receiver.recv()
            except EOFError:
                break
            if isinstance(told, SfumatoError):
                raise told
            if isinstance(told, Event):
                yield told
        process.join()
    finally:
        _end(process, patience_s)
        receiver.close()
    return told.value if isinstance(told, _Result) else Ended(process.exitcode, peak)


def _end(process: Any, patience_s: float) -> None:
    """End a process that still runs."""
    if process.is_alive() and patience_s > 0:
        process.terminate()
        process.join(patience_s)
    if process.is_alive():
        process.kill()
        process.join()


def _serve(work: Callable[[Any, Send], Any], argument: Any, sender: Connection) -> None:
    """Do the work and tell how it went; runs in the other process."""
    try:
        sender.send(_Result(work(argument, sender.send)))
    except SfumatoError as error:
        sender.send(error)
    except (KeyboardInterrupt, BrokenPipeError):  # Ctrl-C reaches both processes; the other one tells, or is gone
        return
