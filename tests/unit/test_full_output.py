"""Output to a file on a disk that is full for a while ends no command; what is missing is told once."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from sfumato import operations
from sfumato.cli.main import main
from sfumato.cli.render import JsonRenderer, Renderer, TerminalRenderer
from sfumato.errors import StorageError
from sfumato.events import Done, Event, Finding, Notice, Progress
from sfumato.requests import Request


class Disk:
    """A buffered file on a disk that may be full: what cannot be written is held back, as far as the buffer goes."""

    def __init__(self, error: OSError | None = None) -> None:
        self.error = error
        self.held = self.text = ""

    def write(self, text: str, /) -> int:
        """Put text into the buffer."""
        self.held += text
        return len(text)

    def flush(self) -> None:
        """Put the buffer on the disk."""
        if self.error is not None:
            raise self.error
        self.text, self.held = self.text + self.held, ""

    def isatty(self) -> bool:
        """Say that this is a file."""
        return False


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def in_json(disk: Disk) -> Renderer:
    return JsonRenderer(disk)


def for_people(disk: Disk) -> Renderer:
    return TerminalRenderer(disk, disk)


def shown(disk: Disk) -> list[str]:
    """Return the messages on a disk."""
    return [json.loads(line)["message"] if line.startswith("{") else line for line in disk.text.splitlines()]


@pytest.mark.parametrize("make", [in_json, for_people])
def test_lines_are_left_out_while_the_disk_is_full_and_that_is_told_once(make: Callable[[Disk], Renderer]) -> None:
    disk = Disk()
    with make(disk) as renderer:
        for number in range(10):
            disk.error = full() if number in (2, 3, 4, 8) else None
            renderer.show(Notice(number, f"line {number}"))
        disk.error = full()
        renderer.show(Notice(10, "line 10"))
    told = "Output could not be written: No space left on device. Lines missing here: {}."
    said = shown(disk)
    assert said == [*(f"line {n}" for n in range(3)), told.format(2), *(f"line {n}" for n in range(5, 9)),
                    told.format(0), "line 9"]  # fmt: skip
    assert len(shown(disk)) == len(said) and "line 10" in disk.held


@pytest.mark.parametrize("make", [in_json, for_people])
def test_an_output_that_nobody_reads_is_no_full_disk(make: Callable[[Disk], Renderer]) -> None:
    disk = Disk(BrokenPipeError(errno.EPIPE, "Broken pipe"))
    renderer = make(disk)
    with pytest.raises(BrokenPipeError):
        renderer.show(Notice(0, "line"))
    disk.error = None
    renderer.show(Notice(0, "another"))
    assert "could not be written" not in disk.text


@pytest.mark.parametrize("flag", [[], ["--json"]])
@pytest.mark.parametrize("error", [None, StorageError("Could not write 'a'."), KeyboardInterrupt()])
def test_a_command_ends_as_it_would_with_room(
    flag: list[str], error: BaseException | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = []

    def run(request: Request, sources: Mapping[str, str]) -> Iterator[Event]:
        yield Progress("reading", 0, 1)
        yield Finding(
            "warning", "small", "small pictures", Path("photo.png"), "8 pixels", "It is blurred.", "Take more."
        )
        yield Notice(1, "line")
        finished.append(True)
        if error is not None:
            raise error
        yield Done(1.0)

    monkeypatch.setattr(operations, "run", run)
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Disk(full()))
    code = {type(None): 0, StorageError: 2, KeyboardInterrupt: 130}[type(error)]
    assert main(["train", "denoiser", "x.toml", *flag]) == code and finished


def test_a_signal_that_cannot_be_answered_ends_no_step() -> None:
    TerminalRenderer(Disk(), Disk(full())).stopping()
    with pytest.raises(BrokenPipeError):
        TerminalRenderer(Disk(), Disk(BrokenPipeError())).stopping()
