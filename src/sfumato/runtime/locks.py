"""Let one process at a time work on a folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from sfumato.errors import ConfigError

_LOCKED_BYTE = 2**30  # far behind what is written: Windows lets nobody read a byte that is locked


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Refuse a second run in a folder for the length of a `with` block.

    The lock is a hidden file beside the folder that the system lets go of when the process ends, however it ends: what
    a killed process leaves blocks nobody. Where no file can be made or the file system knows no locks, there is none.

    Args:
        folder: What the run writes to; it need not exist.

    Raises:
        ConfigError: Another run holds it.
    """
    place = lock_file(folder)
    made = [parent for parent in place.parents if not parent.exists()]
    lock = None
    try:
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = _locked(place, folder)
        yield
    finally:
        if lock is not None:
            _let_go(lock, place)
        for parent in made:
            with suppress(OSError):  # it is not empty
                parent.rmdir()


def lock_file(folder: Path) -> Path:
    """Name the lock of a folder."""
    whole = folder.resolve()
    return whole.parent / f".{whole.name}.lock"


def _locked(place: Path, folder: Path) -> FileIO | None:
    """Lock a file; None where the file system knows no locks.

    Raises:
        ConfigError: Another run holds it.
        OSError: The file cannot be made.
    """
    while True:
        file = FileIO(os.open(place, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+")
        try:
            _take(file)
        except (BlockingIOError, PermissionError) as error:
            process = file.read(32).decode("ascii", "replace").strip() or "unknown"
            file.close()
            raise ConfigError(
                f"Another run works in '{folder}' (process {process}); a folder has room for one.",
                field="output",
                hint="Wait until it has ended, stop it, or name another output.",
            ) from error
        except OSError:
            file.close()
            return None
        if _is_at(file, place):
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
            return file
        file.close()  # its last owner has removed it meanwhile


def _is_at(file: FileIO, place: Path) -> bool:
    """Say whether a file still has its name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), place.stat())
    except FileNotFoundError:
        return False


def _let_go(file: FileIO, place: Path) -> None:
    """Remove a lock; it is removed before it is let go of where the system allows that."""
    with suppress(OSError):
        place.unlink()
    file.close()
    if sys.platform == "win32":
        with suppress(OSError):
            place.unlink(missing_ok=True)


if sys.platform == "win32":
    import msvcrt

    def _take(file: FileIO) -> None:
        """Lock a byte of a file, or raise."""
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        finally:
            file.seek(0)

else:
    import fcntl

    def _take(file: FileIO) -> None:
        """Lock a file, or raise."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
