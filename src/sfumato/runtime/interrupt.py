"""Turn the first SIGINT or SIGTERM into a wish to stop, so that no step is cut in half."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

listeners: list[Callable[[], None]] = []
"""Called at the first signal from within its handler, long before the step is over: they only tell a person."""


class StopRequest:
    """Inside the block the first signal sets `reason`; a second SIGINT interrupts at once.

    Signals can only be caught in the main thread; elsewhere nothing is changed.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; give way to the second."""
        if self.reason is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        is_first, self.reason = self.reason is None, f"{signal.Signals(number).name} was received"
        for tell in listeners if is_first else ():
            tell()
