"""Keep freed memory for the next tensor instead of handing it back to the system, and hand it back on demand."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

# Numbers of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = -1  # a threshold can be told up to 2 GiB only, and more than that lies free after a step of a large network
_PAD_BYTES = 256 * 2**20


def keep_freed_memory() -> bool:
    """Make glibc serve every tensor from memory that the process already has.

    By default a tensor above 32 MiB is mapped anew each time and unmapped when freed, and the system clears each of
    its pages at first touch: with maps of this size, that takes longer than computing what is in them. The process
    then holds on to the largest amount of memory that it ever needed.

    Returns:
        Whether the allocator took the settings; False where it is not glibc's.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD_BYTES))
    return all(mallopt(key, value) == 1 for key, value in settings)


def hand_back_memory() -> bool:
    """Make glibc hand every free page back to the system, once.

    After a part whose networks are gone and will not be needed for long: its memory is in pieces that what comes next
    fits into badly, and the peak would be nearly the sum of both.

    Returns:
        Whether anything was handed back; False where the allocator is not glibc's.
    """
    trim = _of_glibc("malloc_trim")
    return trim is not None and trim(0) == 1


def _of_glibc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; None where it is not glibc."""
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found
