"""How much memory a process has held at most."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory_bytes(status: Path = _STATUS) -> int:
    """Return the most memory that this process has held so far, in bytes.

    Why not `getrusage` where Linux can say it better: there, `ru_maxrss` of a process that was started by another one
    begins with the size of its parent, since the record survives the change of programs; `VmHWM` begins anew.

    Args:
        status: Where Linux tells about the process; elsewhere there is no such file and `getrusage` is asked.
    """
    try:
        lines = status.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
