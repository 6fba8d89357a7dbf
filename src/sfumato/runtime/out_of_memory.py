"""Recognise that memory ran out, whichever allocator says so, and say what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sfumato.errors import OutOfMemory

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's allocators write into a plain RuntimeError: on Linux and macOS, on Windows, on accelerators."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error tells that memory ran out: Python's, torch's or ours."""
    if isinstance(error, OutOfMemory | MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def fitting_into_memory(what: str, hint: str) -> Iterator[None]:
    """Say what did not fit when memory runs out in the block.

    Args:
        what: What is done in it, such as `A step with 2 batch(es)`.
        hint: What to change.

    Raises:
        OutOfMemory: Memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).strip() or "no memory left").splitlines()[0].removesuffix(".")
        raise OutOfMemory(f"{what} does not fit into memory: {reason}.", field="batch_size", hint=hint) from error
