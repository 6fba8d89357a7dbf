"""Make batches ahead of time in a worker process, without changing what they are.

A batch is a function of its index, so it does not matter who made it or when: a resumed run sees the same batches.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from types import TracebackType
from typing import Generic, TypeVar

from sfumato.errors import TrainingError

Batch = TypeVar("Batch")

_make: Callable[[int], object] | None = None


def _die_with_parent() -> None:
    """End the worker as soon as its parent is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _start_worker(make: Callable[[int], object]) -> None:
    """Keep the function that makes batches and watch the parent.

    A terminal's Ctrl-C goes to the whole group of processes: the parent decides what it means, and its next step may
    still need a batch.
    """
    global _make
    _make = make
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _run_worker(index: int) -> object:
    """Make one batch in the worker."""
    assert _make is not None
    return _make(index)


class Prefetched(Generic[Batch]):
    """Give batches by index, the next ones being made in worker processes.

    Args:
        make: Makes the batch of an index; must be picklable when there are workers, and deterministic.
        workers: Number of processes; 0 makes each batch when it is asked for.
        ahead: How many batches are kept in the making.
    """

    def __init__(self, make: Callable[[int], Batch], workers: int = 1, ahead: int = 4) -> None:
        self._make = make
        self._workers = workers
        self._ahead = ahead
        self._pool: ProcessPoolExecutor | None = None
        self._pending: dict[int, Future[object]] = {}
        self._has_made = False

    def get(self, index: int) -> Batch:
        """Return the batch of an index and order the ones after it."""
        if self._workers == 0:
            return self._make(index)
        self.order(range(index, index + 1 + self._ahead))
        for stale in [kept for kept in self._pending if kept < index]:
            self._pending.pop(stale).cancel()
        try:
            made = self._pending.pop(index).result()
        except BrokenProcessPool as error:
            raise TrainingError(
                "A process that makes pictures ahead was ended from outside; often memory ran out.",
                field="data.workers",
                hint="Resume, with data.workers=0 if it happens again."
                + ("" if self._has_made else " In a script of your own, start under `if __name__ == '__main__':`."),
            ) from error
        self._has_made = True
        return made  # type: ignore[return-value]

    def order(self, indices: range) -> None:
        """Have these batches made in the background."""
        if self._workers == 0:
            return
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, context, _start_worker, (self._make,))
        for index in indices:
            if index not in self._pending:
                self._pending[index] = self._pool.submit(_run_worker, index)

    def close(self) -> None:
        """Stop the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._pending.clear()

    def __enter__(self) -> Prefetched[Batch]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
