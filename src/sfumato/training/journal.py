"""The written record of a run: events.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from sfumato.events import Event
from sfumato.formats.atomic import atomic_write_bytes, storage_error
from sfumato.runtime.json_values import json_value

EVENTS = "events.jsonl"
_BOARD = "tensorboard"


class Journal:
    """Appends the events of a run to `events.jsonl` in its folder.

    Args:
        run_dir: Folder of the run.
        resumed: Number of finished steps that the run goes on from; lines of later steps are removed, so that the file
            reads as if nothing had been interrupted.
        tensorboard: Write numbers for TensorBoard as well, where that can be done.

    Raises:
        StorageError: `events.jsonl` cannot be written.
    """

    def __init__(self, run_dir: Path, resumed: int, tensorboard: bool) -> None:
        self._path = run_dir / EVENTS
        try:
            self._truncate(resumed)
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise storage_error(error, self._path, 0) from error
        self._failed = False
        self._untold: list[str] = []
        self._board: Any = None
        if tensorboard:
            try:
                self._board = _board(run_dir / _BOARD, resumed)
            except OSError as error:
                self._go_on_without_board(error)

    def write(self, event: Event) -> str | None:
        """Append one event; a full disk does not end a run.

        Returns:
            The problem, the first time that something could not be written or opened, otherwise `None`.
        """
        line = {"event": type(event).__name__, "time": round(time.time(), 3), **json_value(event)}
        self._record(line)
        self._chart(line)
        untold, self._untold = self._untold, []
        return " ".join(untold) or None

    def close(self) -> None:
        """Close the files."""
        try:
            self._file.close()
        except OSError:
            self._failed = True
        if self._board is not None:
            with suppress(OSError):
                self._board.close()

    def _record(self, line: Mapping[str, Any]) -> None:
        """Append a line to the record."""
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:
            if not self._failed:
                self._failed = True
                problem = f"'{self._path}' could not be written: {error.strerror}."
                self._untold.append(f"{problem} The run goes on without its record.")

    def _chart(self, line: Mapping[str, Any]) -> None:
        """Give the numbers of a line to TensorBoard."""
        if self._board is None or not isinstance(line.get("values"), Mapping):
            return
        try:
            for name, value in line["values"].items():
                self._board.add_scalar(name, math.nan if value is None else value, line["step"])
        except OSError as error:
            self._go_on_without_board(error)

    def _go_on_without_board(self, error: OSError) -> None:
        """Give TensorBoard up and tell why."""
        folder = self._path.with_name(_BOARD)
        self._board = None
        self._untold.append(
            f"The run goes on without TensorBoard: '{folder}' could not be written: {error.strerror or error}. "
            "A resumed run tries again; loop.tensorboard=false does without it."
        )

    def _truncate(self, resumed: int) -> None:
        """Keep the whole lines of the steps that count."""
        if not self._path.exists():
            return
        kept = [line for line in self._path.read_bytes().splitlines(keepends=True) if _counts(line, resumed)]
        atomic_write_bytes(self._path, b"".join(kept))


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Return the recorded events of a run, oldest first; a line that is still being written is left out."""
    path = run_dir / EVENTS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _counts(line: bytes, resumed: int) -> bool:
    """Say whether a line is whole and belongs to a step that is not repeated."""
    try:
        return line.endswith(b"\n") and int(json.loads(line).get("step", 0)) <= resumed > 0
    except (ValueError, AttributeError):
        return False


def _board(folder: Path, resumed: int) -> Any:
    """Open TensorBoard's writer if it is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resumed + 1)
