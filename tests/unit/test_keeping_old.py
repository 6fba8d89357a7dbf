"""What lies where something new is written is kept under another name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfumato.errors import StorageError
from sfumato.formats.atomic import atomic_write_bytes, keeping_old


def write(path: Path, content: bytes) -> Path | None:
    with keeping_old(path) as old:
        atomic_write_bytes(path, content)
    return old()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_each_older_file_has_a_number(tmp_path: Path) -> None:
    path = tmp_path / "fox.safetensors"
    assert [write(path, content) for content in (b"a", b"b", b"c")] == [
        None,
        tmp_path / "fox-1.safetensors",
        tmp_path / "fox-2.safetensors",
    ]
    assert [file.read_bytes() for file in sorted(tmp_path.iterdir())] == [b"a", b"b", b"c"]


def test_the_same_bytes_are_there_once(tmp_path: Path) -> None:
    path = tmp_path / "fox.safetensors"
    assert write(path, b"a") is None and write(path, b"a") is None
    assert names(tmp_path) == ["fox.safetensors"]


def test_a_write_that_fails_leaves_the_old_alone(tmp_path: Path) -> None:
    path = tmp_path / "fox.safetensors"
    path.write_bytes(b"a")
    with pytest.raises(StorageError), keeping_old(path):
        raise StorageError("full")
    assert names(tmp_path) == ["fox.safetensors"] and path.read_bytes() == b"a"


def test_a_disk_without_links_holds_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no links here")

    path = tmp_path / "fox.safetensors"
    path.write_bytes(b"a")
    monkeypatch.setattr(os, "link", refuse)
    kept = write(path, b"b")
    assert kept is not None and (kept.read_bytes(), path.read_bytes()) == (b"a", b"b")


def test_a_folder_moves_and_comes_back_when_the_block_fails(tmp_path: Path) -> None:
    folder = tmp_path / "fox-base"
    folder.mkdir()
    with keeping_old(folder) as old:
        pass
    assert old() is None and names(tmp_path) == ["fox-base"], "an empty folder is nothing to keep"
    (folder / "unet").write_bytes(b"a")
    with pytest.raises(StorageError), keeping_old(folder):
        assert not folder.exists()
        raise StorageError("full")
    assert names(tmp_path) == ["fox-base"] and (folder / "unet").read_bytes() == b"a"
    with keeping_old(folder) as old:
        folder.mkdir()
    assert old() == tmp_path / "fox-base-1" and (tmp_path / "fox-base-1" / "unet").read_bytes() == b"a"
