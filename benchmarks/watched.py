"""Run a command to its end, with its wall time and the most memory that it and all its children held at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.runtime.peak_memory import held_by_process, peak_of_process

_PROCESSES = Path("/proc")
_LOOK_S = 0.05
_TOLD = 2000


@dataclass(frozen=True)
class Watched:
    """How a command went.

    Attributes:
        seconds: From its start to its end.
        peak_bytes: The most resident memory of all its processes together, weights and libraries included; pages that
            two of them share count twice. Looked at 20 times a second; the peak of a single process is exact.
    """

    seconds: float
    peak_bytes: int


def watch(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Watched:
    """Run a command in a folder.

    Args:
        command: Program and options.
        folder: Where it runs.
        environment: All its variables.

    Raises:
        SystemExit: The command failed; the end of what it said is told. Or the system does not tell memory.
    """
    if not (_PROCESSES / "self" / "stat").is_file():
        raise SystemExit("The memory of other processes is read from /proc, which this system does not have.")
    peak = 0
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, env=dict(environment), stdout=said, stderr=said, start_new_session=True
        )
        try:
            while process.poll() is None:
                peak = max(peak, _held_bytes(process.pid))
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_LOOK_S)
            seconds = time.perf_counter() - started
        finally:
            with contextlib.suppress(ProcessLookupError):  # what it left running, or all of it after Ctrl-C
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode:
            said.seek(0)
            end = said.read().strip()[-_TOLD:]
            raise SystemExit(f"{' '.join(command)}\nended with exit code {process.returncode}:\n{end}")
    return Watched(seconds, peak)


def _held_bytes(session: int) -> int:
    """Return what the processes of a session hold now, or what one of them alone has held at most if that is more."""
    now, most = 0, 0
    for entry in _PROCESSES.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            now += held_by_process(int(entry.name))
            most = max(most, peak_of_process(int(entry.name)))
        except (OSError, ValueError):  # it has just ended
            continue
    return max(now, most)
