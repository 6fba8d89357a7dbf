"""Sizes in bytes, read and written; what Linux tells about memory; processes that end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfumato.errors import DataError, TrainingError
from sfumato.events import Event, Notice
from sfumato.operations import rehearsal
from sfumato.operations.own_process import Ended, Send, in_own_process
from sfumato.requests import LearnRequest
from sfumato.resolve import resolve
from sfumato.runtime.byte_sizes import bytes_text, parse_bytes
from sfumato.runtime.peak_memory import available_memory_bytes, peak_memory_bytes, peak_of_process


@pytest.mark.parametrize(
    ("text", "size"),
    [("6GB", 6 * 10**9), ("1.5 gib", 3 * 2**29), ("800m", 8 * 10**8), ("2KiB", 2048), ("12 B", 12), ("1TB", 10**12)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["6", "GB", "-6GB", "0GB", "6 G B", "6iB", "six GB", ""])
def test_sizes_without_sense_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="needed a size above 0 with its unit, for example 6GB"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 KB"), (12345, "12.3 KB"), (999_600, "1.00 MB"), (6 * 10**9, "6.00 GB")],
)
def test_sizes_are_written(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_memory_in_a_request() -> None:
    given = {"folder": "x", "placeholder": "<x>", "class_noun": "x"}
    assert resolve(LearnRequest, flags={**given, "memory": "4GiB"}).request.memory == 2**32
    assert resolve(LearnRequest, flags={**given, "memory": 5000}).request.memory == 5000


def test_memory_of_machine_and_process(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  4096 kB\nMemAvailable:   2048 kB\n")
    assert available_memory_bytes(tmp_path / "meminfo") == 2048 * 1024
    assert available_memory_bytes(tmp_path / "nothing") is None
    if Path("/proc/self/status").exists():
        assert peak_of_process(os.getpid()) == peak_memory_bytes()
    assert peak_of_process(2**30) == 0


def count(wanted: int, send: Send) -> int:
    """Tell some notices, then end in the way that the number asks for."""
    for number in range(abs(wanted)):
        send(Notice(number, "here"))
    if wanted == 0:
        raise DataError("nothing", field="it", hint="More.")
    if wanted < 0:
        os._exit(7)
    return wanted


def run(wanted: int) -> tuple[list[Event], int | Ended]:
    told, events = [], in_own_process(count, wanted)
    while True:
        try:
            told.append(next(events))
        except StopIteration as stop:
            return told, stop.value


def test_a_process_tells_returns_fails_and_ends() -> None:
    told, value = run(2)
    assert told == [Notice(0, "here"), Notice(1, "here")] and value == 2
    told, value = run(-1)
    assert len(told) == 1 and isinstance(value, Ended) and value.exit_code == 7
    with pytest.raises(DataError, match="nothing") as caught:
        run(0)
    assert (caught.value.field, caught.value.hint) == ("it", "More.")


def test_a_rehearsal_that_breaks_is_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_rehearse", broken)
    request = LearnRequest.model_validate({"folder": "x", "placeholder": "<x>", "class_noun": "x"})
    with pytest.raises(TrainingError, match="The measured steps ended with exit code 7 before they were finished"):
        list(rehearsal.rehearse(request))


def broken(job: object, send: Send) -> None:
    """End without a word."""
    os._exit(7)
