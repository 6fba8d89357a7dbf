"""Write files and folders so that nothing is ever half written.

Every write goes to a hidden neighbour of its target, is flushed to the disk and then renamed over the target: after
a crash it holds either all of the old or all of the new bytes.
"""

from __future__ import annotations

import ctypes
import errno
import filecmp
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from sfumato.errors import StorageError

_NO_FSYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}
"""What file systems say that cannot flush a list of files, such as shared folders."""
_STALE_SECONDS = 3600.0
_HERE, _EXCHANGE = -100, 2
"""`AT_FDCWD`, and `RENAME_EXCHANGE` of Linux, which is `RENAME_SWAP` of macOS."""


def atomic_write_bytes(
    path: Path, data: bytes | Iterable[bytes | memoryview], *, total_bytes: int | None = None
) -> None:
    """Write a file so that it holds either its old or its new bytes, never a part of them.

    Args:
        path: Target; missing parent folders are made.
        data: The content, whole or in chunks.
        total_bytes: Length of all chunks together, told to the user when the disk is full.

    Raises:
        StorageError: The disk is full or the place cannot be written; the old file stays, nothing is left
            behind.
    """
    path = Path(path)
    with _staged_file(path, [data] if isinstance(data, bytes) else data, total_bytes) as stage:
        stage.replace(path)


def atomic_write_new(path: Path, data: bytes) -> bool:
    """Write a file unless something of its name is there, whoever put it there and however lately.

    Args:
        path: Target; missing parent folders are made.
        data: The content.

    Returns:
        Whether it was written; of several processes at the same moment one writes.

    Raises:
        StorageError: The disk is full or the place cannot be written; nothing is left behind.
    """
    path = Path(path)
    with _staged_file(path, [data], None) as stage:
        try:
            os.link(stage, path)
        except FileExistsError:
            return False
        except OSError:  # a disk without links: an empty file keeps the name free of others
            try:
                path.touch(exist_ok=False)
            except FileExistsError:
                return False
            try:
                stage.replace(path)
            except OSError:
                path.unlink(missing_ok=True)
                raise
    return True


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give a staging folder that takes the place of `path` when the block ends without an error.

    Args:
        path: Target folder; an existing one is replaced as a whole.

    Yields:
        The staging folder, beside the target, to be filled.

    Raises:
        StorageError: The disk is full or the place cannot be written; the old folder stays, nothing is left
            behind.
    """
    path = Path(path)
    stage = _stage_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        stage.mkdir()
        yield stage
        for file in sorted(stage.rglob("*")):
            _fsync_folder(file) if file.is_dir() else _fsync_file(file)
        _fsync_folder(stage)
        _swap_folder(stage, path)
    except OSError as error:
        raise storage_error(error, path, _folder_bytes(stage)) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def keeping_old(path: Path) -> Iterator[Callable[[], Path | None]]:
    """Keep a file or folder under another name, while something else is written in its place within the block.

    Args:
        path: What is to be written, such as `fox.safetensors`; nothing need be there yet.

    Yields:
        Tells, after the block, where the old one is: the first free of `fox-1.safetensors`, `fox-2.safetensors`, …;
        None if there was none, an empty folder or a file of the same bytes. When the block fails the old one is in
        its place again.

    Raises:
        StorageError: The place cannot be written.
    """
    path = Path(path)
    is_there = any(path.iterdir()) if path.is_dir() else path.exists()
    kept = _set_aside(path) if is_there else None
    try:
        yield lambda: kept if kept is not None and kept.exists() else None
    except BaseException:
        if kept is not None and kept.is_dir() and not path.exists():
            kept.rename(path)
        raise
    finally:
        if kept is not None and kept.is_file() and path.is_file() and filecmp.cmp(kept, path, shallow=False):
            kept.unlink()


def kept_text(path: Path, kept: Path) -> str:
    """Say where what `keeping_old` has kept is now.

    Args:
        path: What was written, such as `fox.safetensors`.
        kept: What lay in its place, such as `fox-1.safetensors`.
    """
    return f"'{path.name}' was there before; the old one is now '{kept.name}'."


def _set_aside(path: Path) -> Path:
    """Give a file a second name, or a folder another one."""
    for number in count(1):
        name = path.with_name(f"{path.stem}-{number}{path.suffix}")
        if name.exists():
            continue
        try:
            if path.is_dir():
                path.rename(name)
            else:
                _second_name(path, name)
        except FileExistsError:
            continue
        except OSError as error:
            raise storage_error(error, name, 0) from error
        return name
    raise AssertionError("numbers do not end")


def _second_name(path: Path, name: Path) -> None:
    """Give a file a second name, or a copy of that name on a disk without links."""
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:
        shutil.copy2(path, name)


def remove_folder(path: Path) -> None:
    """Remove a folder so that it is there as a whole or not at all; what cannot be removed stays.

    Args:
        path: The folder. It first gets a hidden name beside its place, so that a process that is killed meanwhile
            leaves nothing that looks like a folder with some of its files.
    """
    path = Path(path)
    stage = _stage_name(path)
    with suppress(OSError):
        _remove_stale(path)
        path.rename(stage)
        _fsync_folder(path.parent)
    shutil.rmtree(stage, ignore_errors=True)


def nearest_existing(path: Path) -> Path:
    """Return a path, or the nearest of the folders above it that is there."""
    place = Path(path).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return place


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk that holds a path, or would hold it."""
    return shutil.disk_usage(nearest_existing(path)).free


def storage_error(error: OSError, path: Path, needed_bytes: int) -> StorageError:
    """Say in one message why a write to `path` failed, with needed and free bytes when the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = free_bytes(path)
        limit = "disk quota is used up" if error.errno == errno.EDQUOT else "disk is full"
        return StorageError(
            f"Could not write '{path}': the {limit}. At least {needed_bytes:,} bytes are needed, {free:,} are free.",
            hint="Make room or choose another place; what was there before is untouched.",
        )
    at = "" if error.filename is None else f" ('{error.filename}')"
    return StorageError(
        f"Could not write '{path}': {error.strerror or error}{at}.",
        hint="Check that the folder exists, is writable and is not a file.",
    )


@contextmanager
def _staged_file(path: Path, chunks: Iterable[bytes | memoryview], total_bytes: int | None) -> Iterator[Path]:
    """Give a flushed neighbour of `path` with the content, to be put in its place within the block."""
    stage = _stage_name(path)
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        with stage.open("xb") as file:
            for chunk in chunks:
                written += len(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        yield stage
        _fsync_folder(path.parent)
    except OSError as error:
        raise storage_error(error, path, written if total_bytes is None else total_bytes) from error
    finally:
        with suppress(OSError):
            stage.unlink(missing_ok=True)


def _stage_name(path: Path) -> Path:
    """Name a hidden neighbour of `path` to write to first."""
    return path.parent / f".{path.name}.{secrets.token_hex(4)}.partial"


def _remove_stale(path: Path) -> None:
    """Remove what a killed process left beside `path` more than an hour ago; another one may finish meanwhile."""
    for stale in path.parent.glob(f".{path.name}.*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - stale.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink(missing_ok=True)


def _swap_folder(stage: Path, path: Path) -> None:
    """Put a finished folder in place of an old one; put the old one back if that fails.

    Where the system can exchange two names at once there is no moment without a folder; the old one is then `stage`.
    """
    if not path.exists():
        stage.rename(path)
    elif not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file is in the way", str(path))
    elif not _exchange(stage, path):
        old = _stage_name(path)
        path.rename(old)
        try:
            stage.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _fsync_folder(path.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where system or disk cannot, and then nothing has changed."""
    if os.name != "posix":
        return False
    names = os.fsencode(one), os.fsencode(other)
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):  # Linux
        return bool(library.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)
    if hasattr(library, "renamex_np"):  # macOS
        return bool(library.renamex_np(*names, _EXCHANGE) == 0)
    return False


def _fsync_file(path: Path) -> None:
    """Flush one file to the disk."""
    with path.open("r+b") as file:  # Windows flushes no file that may only be read
        os.fsync(file.fileno())


def _fsync_folder(path: Path) -> None:
    """Flush the list of a folder's files to the disk (not every system allows it)."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(handle)


def _folder_bytes(folder: Path) -> int:
    """Sum the sizes of the files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else 0
