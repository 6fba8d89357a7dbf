"""Show events: as progress and lines on a terminal, as JSON lines for machines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from sfumato.cli.plan_text import plan_text
from sfumato.cli.tables import findings_text, table_text
from sfumato.errors import SfumatoError
from sfumato.events import (
    Artifact,
    Checkpoint,
    Done,
    Event,
    Finding,
    Metric,
    Notice,
    Preview,
    Progress,
    Step,
    Table,
    Verdict,
)
from sfumato.operations.learn_plan import LearnPlan
from sfumato.runtime.json_values import json_value

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

NOT_FOR_JSON = {"x_t", "x_0"}
DERIVED = ("rounds", "seconds", "disk_bytes", "left_bytes", "fits_memory", "fits_disk", "switches", "is_possible")
"""What a plan says beside its fields."""


@runtime_checkable
class Writer(Protocol):
    """A stream of text, such as the standard output."""

    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...

    def isatty(self) -> bool: ...


@runtime_checkable
class Renderer(Protocol):
    """Shows what an operation tells."""

    def __enter__(self) -> Renderer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: Event) -> None:
        """Show one event."""

    def problem(self, error: SfumatoError) -> None:
        """Show why the command ends."""

    def stopping(self) -> None:
        """Say, from within a signal's handler, that the command ends when the step at hand is done."""

    def interrupted(self) -> None:
        """Say that the user stopped the command and what is saved."""


def make_renderer(*, json_lines: bool) -> Renderer:
    """Return the renderer for machines or the one for people."""
    return JsonRenderer(sys.stdout) if json_lines else TerminalRenderer(sys.stdout, sys.stderr)


def event_record(event: Event) -> dict[str, Any]:
    """Return an event as plain data: its kind in lower case and its fields, tensors left out."""
    record: dict[str, Any] = {"event": type(event).__name__.lower()}
    record |= {item.name: getattr(event, item.name) for item in fields(event) if item.name not in NOT_FOR_JSON}
    if isinstance(event, LearnPlan):
        record |= {name: getattr(event, name) for name in DERIVED}
    return record


@contextmanager
def passing_full_disks() -> Iterator[None]:
    """Go on where the system takes no text: a log on a full disk ends no command that still works.

    Raises:
        BrokenPipeError: Nobody reads the output any more.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        pass


class Log:
    """Lines to a stream that may take none for a while, such as a file on a disk that is full.

    A line that comes meanwhile is left out, but for the first, which the stream itself may hold back; when lines can be
    written again, that is told once.

    Args:
        out: The stream.
        told: Makes a line of what is told.
    """

    def __init__(self, out: Writer, told: Callable[[str], str]) -> None:
        self._out, self._told = out, told
        self._reason: str | None = None
        self._missing = 0

    def write(self, line: str) -> None:
        """Write a line at once, or leave it out.

        Raises:
            BrokenPipeError: Nobody reads the stream any more.
        """
        is_left_out = True
        try:
            if self._reason is not None:
                self._out.flush()  # of what is held back; as long as that fails, nothing is added to it
                reason, count = self._reason, self._missing
                line = f"{self._told(f'Output could not be written: {reason}. Lines missing here: {count}.')}\n{line}"
            self._out.write(f"{line}\n")
            is_left_out = False
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self._reason = error.strerror or str(error)
            self._missing += is_left_out
        else:
            self._reason, self._missing = None, 0


class JsonRenderer:
    """One JSON object a line."""

    def __init__(self, out: Writer) -> None:
        self._out = out
        self._log = Log(out, lambda message: _json_line(event_record(Notice(0, message))))
        self._checkpoint: Checkpoint | None = None

    def __enter__(self) -> JsonRenderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with passing_full_disks():
            self._out.flush()

    def show(self, event: Event) -> None:
        """Write one event."""
        if isinstance(event, Checkpoint):
            self._checkpoint = event
        self._write(event_record(event))

    def problem(self, error: SfumatoError) -> None:
        """Write the problem with its kind, field and hint."""
        self._write({"event": "error", **error.to_dict()})

    def stopping(self) -> None:
        """Write nothing: the handler may have come into the middle of a line."""

    def interrupted(self) -> None:
        """Write that the user stopped the command, with the last saved state."""
        saved = self._checkpoint
        self._write({"event": "interrupted", "checkpoint": saved.path if saved else None})

    def _write(self, record: dict[str, Any]) -> None:
        self._log.write(_json_line(record))


def _json_line(record: dict[str, Any]) -> str:
    """Write a record as JSON."""
    return json.dumps(json_value(record))


class TerminalRenderer:
    """Progress bars and short lines for people."""

    def __init__(self, out: Writer, err: Writer) -> None:
        self._out = out
        self._log = Log(out, str)
        self._err = err
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._metric_shown_s = 0.0
        self._checkpoint: Checkpoint | None = None
        self._findings: list[Finding] = []

    def __enter__(self) -> TerminalRenderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show_findings()
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def show(self, event: Event) -> None:
        """Show one event; findings are gathered and shown together before the next other event."""
        if not isinstance(event, Finding | Progress):
            self._show_findings()
        match event:
            case Finding():
                self._findings.append(event)
            case Table():
                self._line(table_text(event))
            case Step():
                self._advance("drawing", event.step + 1, event.steps)
            case Progress():
                self._advance(event.phase, event.done, event.total)
            case Metric():
                self._metric(event)
            case Notice():
                self._line(event.message)
            case Preview():
                self._line(f"preview at step {event.step}: {event.path}")
            case Checkpoint():
                self._checkpoint = event
            case Verdict():
                self._line(f"best step {event.step}: {event.reason}")
                for alarm in event.alarms:
                    self._line(f"alarm: {alarm}")
            case Artifact():
                self._line(f"{event.kind}: {event.path}")
            case LearnPlan():
                self._line(plan_text(event))
            case Done():
                self._line(f"done in {event.seconds:.1f} s")

    def problem(self, error: SfumatoError) -> None:
        """Show the one message."""
        self._complain(f"sfumato: {error}\n")

    def stopping(self) -> None:
        """Say what happens now, and what a second Ctrl-C would do."""
        with suppress(RuntimeError):  # the handler may have come into the middle of another write
            self._complain(
                "sfumato: stopping when this step is done and saved. Ctrl-C again stops at once and loses what is not "
                "saved yet.\n"
            )

    def interrupted(self) -> None:
        """Say what is saved."""
        saved = self._checkpoint
        state = f"State of step {saved.step} is saved in {saved.path}; go on with --resume." if saved else ""
        self._complain(f"sfumato: interrupted. {state}".rstrip() + "\n")

    def _complain(self, text: str) -> None:
        """Write to the standard error, which may be a file on a full disk too."""
        with passing_full_disks():
            self._err.write(text)
            self._err.flush()

    def _metric(self, event: Metric) -> None:
        """Show those of steps at most twice a second on a terminal, every ten seconds elsewhere, and all others."""
        now = time.monotonic()
        if event.step and now - self._metric_shown_s < (0.5 if self._out.isatty() else 10):
            return
        self._metric_shown_s = now
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        self._line(f"step {event.step}  {numbers}")

    def _show_findings(self) -> None:
        """Show what was gathered."""
        if self._findings:
            self._line(findings_text(self._findings))
            self._findings = []

    def _line(self, text: str) -> None:
        if self._bars is None:
            self._log.write(text)
            return
        with passing_full_disks():  # or a terminal that was closed
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _advance(self, phase: str, done: int, total: int) -> None:
        """Move the bar of a phase, which exists only on a terminal."""
        if not self._out.isatty():
            return
        if self._bars is None:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            )
            self._bars.start()
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=total)
        self._bars.update(self._tasks[phase], completed=done, total=total)
