"""Read and write weights as safetensors, so that nothing read can run code and nothing is half read.

Every read checks the whole file first: a truncated download, a pickle, or a web page saved under a model's name is
named as such. Writes are atomic (see `atomic.py`).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfumato.errors import CheckpointError, UnsafeFile
from sfumato.formats.atomic import atomic_write_bytes

PICKLE_SUFFIXES = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"})
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_PROTOCOLS = frozenset(bytes([0x80, protocol]) for protocol in range(2, 6))
_DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class TensorInfo:
    """Dtype (safetensors name such as `F16`) and shape of one stored tensor."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds: its tensors without their data, and its metadata."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, atomically and without a second copy in memory.

    The same tensors and metadata always give the same bytes: tensors lie in the order of their names.

    Args:
        path: Target file.
        tensors: Named tensors, of any layout and device.
        metadata: Strings for the header; `format` is set to `pt` when absent.

    Raises:
        CheckpointError: A tensor has a dtype that the format does not know.
        StorageError: The file could not be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **dict(sorted((metadata or {}).items()))}}
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(
                f"Tensor '{name}' has dtype {tensor.dtype}; a safetensors file holds {', '.join(_DTYPES.values())}.",
                hint="Convert it, for example to float32.",
            )
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield struct.pack("<Q", len(text)) + text
        for name in sorted(tensors):
            yield _tensor_bytes(tensors[name])

    atomic_write_bytes(path, chunks(), total_bytes=8 + len(text) + offset)


def refuse_pickle(path: Path) -> None:
    """Raise `UnsafeFile` if a file is a pickle, by its ending or by its first bytes.

    Raises:
        UnsafeFile: Reading it could run code that its author chose.
        CheckpointError: It cannot be opened.
    """
    path = Path(path)
    with _opening(path):
        by_content = path.is_file() and _begins_as_pickle(path)
    if path.suffix.lower() not in PICKLE_SUFFIXES and not by_content:
        return
    seen = "holds a pickle" if by_content else f"ends in '{path.suffix}', which means a pickle"
    raise UnsafeFile(
        f"'{path}' {seen}; reading one may run code that its author chose, so it is refused.",
        hint="Use the .safetensors version of the model, or convert it on a machine that you can spare.",
    )


def _begins_as_pickle(path: Path) -> bool:
    """Tell by its first bytes whether a file is a pickle.

    A safetensors file begins with the length of its header, whose lowest bytes may be those that a pickle begins with:
    it is told by a length within the file and the brace that follows.
    """
    with path.open("rb") as file:
        head = file.read(9)
    is_safetensors = head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8
    return not is_safetensors and (head[:4] == _ZIP_MAGIC or head[:2] in _PICKLE_PROTOCOLS)


def read_header(path: Path) -> Header:
    """Read what a safetensors file holds, without its data, and check that all of its bytes are there.

    Args:
        path: A safetensors file.

    Returns:
        Its header; no tensor data is read.

    Raises:
        CheckpointError: The file is missing, unreadable, truncated or no safetensors file; the message says which.
        UnsafeFile: It is a pickle.
    """
    path = Path(path)
    with _opening(path):
        is_file, is_folder = path.is_file(), path.is_dir()
    if not is_file:
        kind = "is a folder" if is_folder else "does not exist"
        raise CheckpointError(
            f"'{path}' {kind}; a safetensors file was needed.", hint="Check the path for a typing mistake."
        )
    refuse_pickle(path)
    with _opening(path):
        entries, data_bytes = _parse_header(path)
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict):
        raise _corrupt(path, "its metadata are no table of texts")
    try:
        tensors = {name: TensorInfo(e["dtype"], tuple(e["shape"])) for name, e in entries.items()}
        expected = max((int(e["data_offsets"][1]) for e in entries.values()), default=0)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise _corrupt(path, "its header has an entry without dtype, shape or offsets") from error
    if data_bytes < expected:
        raise CheckpointError(
            f"'{path}' is truncated: its header promises {expected:,} bytes of tensors, {data_bytes:,} are there.",
            hint="Download or copy it again.",
        )
    if data_bytes > expected:
        raise _corrupt(path, f"{data_bytes - expected:,} bytes follow the last tensor")
    return Header(tensors, {str(key): str(value) for key, value in metadata.items()})


def first_difference(
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    stored: Callable[[Tensor], Tensor] = lambda tensor: tensor,
) -> str | None:
    """Compare tensors with those that were read back, bit for bit.

    Args:
        wanted: What was written.
        found: What was read.
        stored: Turns a tensor of `wanted` into what its file gives back, where that is rounded.

    Returns:
        The first name, in order, of a tensor that differs or is in one of them alone; None where there is none.
    """
    for name in sorted(wanted.keys() | found.keys()):
        if name not in wanted or name not in found or not torch.equal(stored(wanted[name]), found[name]):
            return name
    return None


def read_safetensors(path: Path, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Load tensors by memory map: pages are read when they are used.

    Args:
        path: A safetensors file.
        names: Tensors to take; all of them by default.

    Returns:
        Tensors on the CPU by name, in their stored dtype. They share the mapped file: copy before changing
        them.

    Raises:
        CheckpointError: The file is missing, unreadable, truncated, corrupt, or lacks one of `names`.
        UnsafeFile: It is a pickle.
    """
    header = read_header(path)
    wanted = list(header.tensors) if names is None else list(names)
    absent = [name for name in wanted if name not in header.tensors]
    if absent:
        raise CheckpointError(
            f"'{path}' has no tensor '{absent[0]}' ({len(absent)} of {len(wanted)} tensors are absent).",
            hint="It belongs to another model or was made by another version.",
        )
    try:
        with _opening(path), safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in wanted}
    except SafetensorError as error:
        raise _corrupt(path, str(error)) from error


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Hash weights by content: names, shapes and values at half precision.

    Values are rounded to float16 first, so that a base has the same hash whether it is stored in float32 or
    float16, and whatever file layout it came from.

    Args:
        tensors: Named tensors in any order and layout.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}{tuple(tensor.shape)}\n".encode())
        digest.update(_tensor_bytes(tensor.half() if tensor.is_floating_point() else tensor))
    return digest.hexdigest()


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Name the file where the system does not let it be read."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"'{path}' cannot be read: {error.strerror or error}.", hint="Check its permissions and the disk."
        ) from error


def _parse_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the raw header and the number of bytes that follow it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start.startswith(b"version "):
            raise CheckpointError(f"'{path}' is a Git LFS pointer, not the file itself.", hint="Run 'git lfs pull'.")
        if start.lower().startswith((b"<!doctyp", b"<html", b"<?xml")):
            raise CheckpointError(f"'{path}' is a web page, not weights.", hint="Download the file itself.")
        if len(start) < 8:
            raise CheckpointError(
                f"'{path}' is truncated: it has only {size} bytes.", hint="Download or copy it again."
            )
        length = struct.unpack("<Q", start)[0]
        if length > size - 8:
            raise CheckpointError(
                f"'{path}' is truncated or no safetensors file: its header should take {length:,} bytes, "
                f"the file has {size:,}.",
                hint="Download or copy it again.",
            )
        try:
            entries = json.loads(file.read(length))
        except ValueError as error:
            raise _corrupt(path, "its header is not JSON") from error
    if not isinstance(entries, dict):
        raise _corrupt(path, "its header is not a JSON object")
    return entries, size - 8 - length


def _corrupt(path: Path, reason: str) -> CheckpointError:
    """Build the error for a file that is not what it should be."""
    return CheckpointError(f"'{path}' is not a sound safetensors file: {reason}.", hint="Download or copy it again.")


def _tensor_bytes(tensor: Tensor) -> memoryview:
    """View the values of a tensor as bytes, in row-major order."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data.cast("B") if flat.numel() else memoryview(b"")
