"""Run something in a process of its own, so that its memory and its end are its own.

Why not `multiprocessing`: its fresh process first runs the script of the caller again, with all that the script does.
Here the process gets the work by standard input and tells by standard output, nothing else.
"""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import IO, Any, Generic, TypeVar

from sfumato.errors import SfumatoError
from sfumato.events import Event
from sfumato.runtime.peak_memory import peak_of_process

ArgumentT = TypeVar("ArgumentT")
ResultT = TypeVar("ResultT")
Send = Callable[[Event], None]
_LOOK_S = 0.1
_PROGRAM = """
import sys
sys.path[:] = {path!r}
try:
    from sfumato.operations.own_process import serve
    serve()
except KeyboardInterrupt:  # Ctrl-C reaches both processes; the other one tells
    sys.exit(130)
"""
_running: set[subprocess.Popen[bytes]] = set()


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


@dataclass(frozen=True)
class _Silence:
    """Nothing more will be told."""


def in_own_process(
    work: Callable[[ArgumentT, Send], ResultT], argument: ArgumentT, *, patience_s: float = 0.0
) -> Generator[Event, None, ResultT | Ended]:
    """Run some work in a fresh process; closing the generator, or an interruption, ends the process.

    Args:
        work: A function at the top of a module that can be imported; it gets the argument and a function that tells
            events.
        argument: Anything that can be pickled.
        patience_s: How long the process may save its state when it is asked to stop; 0 ends it at once.

    Yields:
        The events that it tells.

    Returns:
        What the work returned; `Ended` where its process ended before.

    Raises:
        SfumatoError: The work's own problem, with its field and hint.
    """
    process = _started(work, argument)
    told: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_listen, args=(process.stdout, told), daemon=True).start()
    peak, last = 0, None
    try:
        while not isinstance(last, _Result | _Silence):
            try:
                last = told.get(timeout=_LOOK_S)
            except Empty:
                peak = max(peak, peak_of_process(process.pid))
                continue
            if isinstance(last, SfumatoError):
                raise last
            if isinstance(last, Event):
                yield last
        process.wait()
    finally:
        _end(process, patience_s)
    return last.value if isinstance(last, _Result) else Ended(process.returncode, peak)


def running() -> list[subprocess.Popen[bytes]]:
    """Return the processes that work now."""
    return [process for process in _running if process.poll() is None]


def serve() -> None:
    """Do the work that is handed over and tell how it went; runs in the other process."""
    with os.fdopen(os.dup(1), "wb") as stream:
        os.dup2(2, 1)  # what a library prints must not come between

        def send(told: object) -> None:
            pickle.dump(told, stream)
            stream.flush()

        try:
            work, argument = pickle.load(sys.stdin.buffer)
            send(_Result(work(argument, send)))
        except SfumatoError as error:
            send(error)
        except (KeyboardInterrupt, BrokenPipeError):  # Ctrl-C reaches both processes; the other one tells, or is gone
            os._exit(0)  # what is left in the stream has nowhere to go


def _started(work: Callable[[Any, Send], Any], argument: Any) -> subprocess.Popen[bytes]:
    """Start a process and hand the work over."""
    content = pickle.dumps((work, argument))
    program = _PROGRAM.format(path=[str(place) for place in sys.path])
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    _running.add(process)
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as stream:  # it has ended already
        stream.write(content)
    return process


def _listen(stream: IO[bytes], told: SimpleQueue[Any]) -> None:
    """Pass on what the other process tells, to its end."""
    try:
        with stream, suppress(EOFError, pickle.UnpicklingError):
            while True:
                told.put(pickle.load(stream))
    finally:
        told.put(_Silence())


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """End a process that still runs."""
    if process.poll() is None and patience_s > 0:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    if process.poll() is None:
        process.kill()
        process.wait()
    _running.discard(process)


@atexit.register
def _end_all() -> None:
    """End what still runs when this process ends."""
    for process in running():
        _end(process, 0.0)
