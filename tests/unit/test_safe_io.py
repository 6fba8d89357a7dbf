"""Files of weights: atomic, strict, and never a pickle."""

from __future__ import annotations

import errno
import os
import pickle
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import sfumato.formats.safe_io as safe_io
from sfumato.errors import CheckpointError, StorageError, UnsafeFile
from sfumato.formats.atomic import _exchange, atomic_folder, atomic_write_bytes, remove_folder
from sfumato.formats.safe_io import (
    content_hash,
    read_header,
    read_safetensors,
    refuse_pickle,
    write_safetensors,
)

TENSORS = {
    "b.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).t(),
    "a.half": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "brain": torch.tensor([[0.25]], dtype=torch.bfloat16),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 4),
    "flag": torch.tensor([True, False]),
}


def leftovers(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


def test_round_trip_keeps_values_dtypes_shapes_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "weights.safetensors"
    write_safetensors(path, TENSORS, {"note": "grün"})
    for loaded in (read_safetensors(path), load_file(str(path))):
        assert set(loaded) == set(TENSORS)
        for name, tensor in TENSORS.items():
            assert loaded[name].dtype == tensor.dtype
            assert torch.equal(loaded[name], tensor)
    header = read_header(path)
    assert header.metadata == {"format": "pt", "note": "grün"}
    assert header.tensors["b.weight"].shape == (3, 2)
    assert header.tensors["a.half"].dtype == "F16"


def test_same_tensors_give_the_same_bytes(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "1", TENSORS, {"b": "2", "a": "1"})
    write_safetensors(tmp_path / "2", dict(reversed(TENSORS.items())), {"a": "1", "b": "2"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_reads_files_of_the_safetensors_library(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3)}, str(tmp_path / "x.safetensors"))
    assert torch.equal(read_safetensors(tmp_path / "x.safetensors")["x"], torch.ones(3))


def test_absent_name_is_named(tmp_path: Path) -> None:
    write_safetensors(tmp_path / "x.safetensors", {"x": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"x\.safetensors' has no tensor 'y' \(1 of 2 tensors are absent\)"):
        read_safetensors(tmp_path / "x.safetensors", ["x", "y"])


def test_dtype_outside_the_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'c' has dtype torch\.complex64"):
        write_safetensors(tmp_path / "x.safetensors", {"c": torch.zeros(1, dtype=torch.complex64)})


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_file_is_named_with_its_sizes(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": torch.ones(100)})
    data = path.read_bytes()[:keep]
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="truncated") as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)
    wanted = {0: "only 0 bytes", 5: "only 5 bytes", 40: "the file has 40", -1: "400 bytes of tensors, 399"}[keep]
    assert wanted in str(caught.value)


def broken(kind: str) -> bytes:
    if kind == "header":
        return (8).to_bytes(8, "little") + b"not json" + b"\0" * 8
    if kind == "list":
        return (2).to_bytes(8, "little") + b"[]"
    if kind == "entry":
        return (10).to_bytes(8, "little") + b'{"x": {} }'
    if kind == "offsets":
        head = b'{"x":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}'
        return len(head).to_bytes(8, "little") + head + b"\0" * 8
    if kind in ("metadata", "number"):
        extra = b'"__metadata__":null,' if kind == "metadata" else b""
        end = b'"eight"' if kind == "number" else b"8"
        head = b"{" + extra + b'"x":{"dtype":"F32","shape":[2],"data_offsets":[0,' + end + b"]}}"
        return len(head).to_bytes(8, "little") + head + b"\0" * 8
    if kind == "tail":
        head = b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
        return len(head).to_bytes(8, "little") + head + b"\0" * 11
    return {"html": b"<!DOCTYPE html><html>404", "lfs": b"version https://git-lfs.github.com/spec/v1\noid"}[kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("header", "its header is not JSON"),
        ("list", "its header is not a JSON object"),
        ("entry", "an entry without dtype, shape or offsets"),
        ("number", "an entry without dtype, shape or offsets"),
        ("metadata", "its metadata are no table of texts"),
        ("offsets", "not a sound safetensors file"),
        ("tail", "3 bytes follow the last tensor"),
        ("html", "is a web page"),
        ("lfs", "is a Git LFS pointer"),
    ],
)
def test_corrupt_file_says_what_is_wrong(tmp_path: Path, kind: str, reason: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(broken(kind))
    with pytest.raises(CheckpointError, match=re.escape(reason)) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone' does not exist"):
        read_header(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_header(tmp_path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".PTH", ".safetensors"])
def test_pickles_are_refused_whatever_their_ending(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    torch.save({"state_dict": {"x": torch.ones(1)}}, path)
    with pytest.raises(UnsafeFile, match="holds a pickle") as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)
    assert ".safetensors" in (caught.value.hint or "")
    path.write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(UnsafeFile, match="holds a pickle"):
        refuse_pickle(path)


def test_a_header_as_long_as_a_pickle_begins_is_read(tmp_path: Path) -> None:
    path, tensors = tmp_path / "weights.safetensors", {"w": torch.arange(4.0)}
    for filling in range(640):
        write_safetensors(path, tensors, {"note": "x" * filling})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no header of 640 bytes was made")
    assert torch.equal(read_safetensors(path)["w"], tensors["w"])
    path.write_bytes(path.read_bytes()[:8])
    with pytest.raises(UnsafeFile, match="holds a pickle"):
        refuse_pickle(path)


def test_pickle_ending_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeFile, match=r"ends in '\.ckpt'"):
        refuse_pickle(tmp_path / "not-there.ckpt")


def full_disk(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota is used up")])
def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str) -> None:
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": torch.zeros(2)})
    old = path.read_bytes()
    full_disk(monkeypatch, number)
    with pytest.raises(StorageError, match=words) as caught:
        write_safetensors(path, {"x": torch.ones(1000)})
    needed = int(re.search(r"At least ([\d,]+) bytes", str(caught.value))[1].replace(",", ""))  # type: ignore[index]
    assert 4000 < needed < 4200
    assert re.search(r"[\d,]+ are free", str(caught.value))
    assert path.read_bytes() == old
    assert leftovers(tmp_path) == []


def test_full_disk_while_writing_a_folder_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "out") as stage:
        (stage / "a").write_text("old")
    full_disk(monkeypatch, errno.ENOSPC)
    with pytest.raises(StorageError, match="At least 3 bytes"), atomic_folder(tmp_path / "out") as stage:
        (stage / "a").write_text("new")
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert leftovers(tmp_path) == []


def test_error_inside_a_folder_keeps_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as stage:
        (stage / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out") as stage:
        (stage / "a").write_text("new")
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("can_exchange", [True, False])
def test_folder_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool) -> None:
    if not can_exchange:
        monkeypatch.setattr("sfumato.formats.atomic._exchange", lambda one, other: False)
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "out") as stage:
            (stage / "sub").mkdir()
            (stage / "sub" / name).write_text(name)
    assert [file.name for file in (tmp_path / "out" / "sub").iterdir()] == ["new"]
    assert leftovers(tmp_path) == []


def test_a_folder_that_is_replaced_is_never_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not _exchange(tmp_path / "one", tmp_path / "other"):
        assert (tmp_path / "one" / "one").exists() and (tmp_path / "other" / "other").exists()
        pytest.skip("this disk cannot exchange two names")
    assert (tmp_path / "one" / "other").exists() and (tmp_path / "other" / "one").exists()

    def killed(self: Path, target: Any) -> Path:
        raise AssertionError("between two renames there is no folder")

    monkeypatch.setattr(Path, "rename", killed)
    with atomic_folder(tmp_path / "one") as stage:
        (stage / "new").touch()
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["new"]


def test_old_folder_comes_back_when_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "out") as stage:
        (stage / "a").write_text("old")
    monkeypatch.setattr("sfumato.formats.atomic._exchange", lambda one, other: False)
    rename = Path.rename

    def fail_for_stage(self: Path, target: Any) -> Path:
        if (self / "a").exists() and (self / "a").read_text() == "new":
            raise OSError(errno.EIO, "disk failure")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_stage)
    with pytest.raises(StorageError, match="disk failure"), atomic_folder(tmp_path / "out") as stage:
        (stage / "a").write_text("new")
    assert (tmp_path / "out" / "a").read_text() == "old"


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"file/x\.bin': File exists \('.*file'\)"):
        atomic_write_bytes(tmp_path / "file" / "x.bin", b"1")
    with pytest.raises(StorageError, match="a file is in the way"), atomic_folder(tmp_path / "file"):
        pass


def test_interrupted_chunks_leave_nothing(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("cut")

    with pytest.raises(ValueError, match="cut"):
        atomic_write_bytes(tmp_path / "x", chunks())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path: Path) -> None:
    young, old = tmp_path / ".x.1.partial", tmp_path / ".x.2.partial"
    for file in (young, old):
        file.write_text("")
    os.utime(old, (time.time() - 7200,) * 2)
    atomic_write_bytes(tmp_path / "x", b"1")
    assert leftovers(tmp_path) == [young.name]


def test_what_another_process_finishes_meanwhile_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / ".x.2.partial"
    old.write_text("")
    os.utime(old, (time.time() - 7200,) * 2)
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter([folder / ".x.1.partial", old]))
    atomic_write_bytes(tmp_path / "x", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("read", [refuse_pickle, read_header, read_safetensors])
def test_files_that_cannot_be_opened_are_named(read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"x": torch.ones(1)})
    refused = [(Path, "open"), (Path, "is_file")] + ([(safe_io, "safe_open")] if read is read_safetensors else [])
    for owner, name in refused:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with pytest.raises(CheckpointError) as caught:
                read(path)
        assert caught.value.message == f"'{path}' cannot be read: Permission denied."
        assert caught.value.hint == "Check its permissions and the disk."


def test_a_folder_goes_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"content")
    remove_folder(tmp_path / "a")
    remove_folder(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]

    def killed(path: Path, **_: bool) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", killed)
        remove_folder(tmp_path / "b")
    assert not (tmp_path / "b").exists() and len(leftovers(tmp_path)) == 1


def test_hash_knows_content_not_storage() -> None:
    weights = {"a": torch.randn(4, 3).half().float(), "b": torch.arange(3)}
    same = {"b": weights["b"].clone(), "a": weights["a"].half()}
    assert content_hash(weights) == content_hash(same)
    assert len(content_hash(weights)) == 64
    for other in (
        {**weights, "a": weights["a"] + 1},
        {**weights, "a": weights["a"].reshape(3, 4)},
        {"c": weights["a"], "b": weights["b"]},
    ):
        assert content_hash(weights) != content_hash(other)


@pytest.mark.parametrize(("number", "is_written"), [(errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)])
def test_folders_that_cannot_be_flushed(
    number: int, is_written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def fails_on_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        flush(handle)

    monkeypatch.setattr(os, "fsync", fails_on_folders)
    if is_written:
        atomic_write_bytes(tmp_path / "a", b"new")
        assert (tmp_path / "a").read_bytes() == b"new"
    else:
        with pytest.raises(StorageError):
            atomic_write_bytes(tmp_path / "a", b"new")
