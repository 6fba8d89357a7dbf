"""How much memory a process has held at most, and how much there is."""

from __future__ import annotations

import sys
from pathlib import Path

_PROCESSES = Path("/proc")
_STATUS = _PROCESSES / "self" / "status"
_MACHINE = _PROCESSES / "meminfo"


def peak_memory_bytes(status: Path = _STATUS) -> int:
    """Return the most memory that this process has held so far, in bytes; 0 where nothing tells it.

    Why not `getrusage` where Linux can say it better: there, `ru_maxrss` of a process that was started by another one
    begins with the size of its parent, since the record survives the change of programs; `VmHWM` begins anew.

    Args:
        status: Where Linux tells about the process; elsewhere there is no such file and `getrusage` is asked.
    """
    told = _told_bytes(status, "VmHWM")
    if told is not None:
        return told
    try:
        import resource
    except ImportError:  # Windows has no such module
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_of_process(pid: int) -> int:
    """Return the most memory that another process has held so far, in bytes; 0 where nothing tells it."""
    return _told_bytes(_PROCESSES / str(pid) / "status", "VmHWM") or 0


def held_by_process(pid: int) -> int:
    """Return the memory that another process holds now, in bytes; 0 where nothing tells it."""
    return _told_bytes(_PROCESSES / str(pid) / "status", "VmRSS") or 0


def available_memory_bytes(machine: Path = _MACHINE) -> int | None:
    """Return how much memory the machine can give without swapping, in bytes; None where nothing tells it."""
    return _told_bytes(machine, "MemAvailable")


def be_ended_first() -> bool:
    """Ask Linux to end this process before any other when memory runs out.

    Returns:
        Whether there is such a wish here.
    """
    try:
        (_PROCESSES / "self" / "oom_score_adj").write_text("1000")
    except OSError:
        return False
    return True


def _told_bytes(file: Path, wanted: str) -> int | None:
    """Read one line such as `VmHWM:  2048 kB`."""
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == wanted:
            return int(value.split()[0]) * 1024
    return None
