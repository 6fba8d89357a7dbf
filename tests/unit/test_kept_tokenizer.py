"""The tokenizer that a run keeps: the same by what it says, whoever has looked into its folder and wherever it lay."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.errors import CannotResume
from sfumato.training.recipe_file import DenoiserRecipe
from sfumato.training.text import _check_same, tokenizer_hash
from tiny import tiny_bundle
from tiny_stages import second


def recipe(folder: Path) -> DenoiserRecipe:
    """A recipe that takes its tokenizer from a folder."""
    return second(folder, tokenizer={"folder": str(folder)})


def test_only_its_own_files_count(tmp_path: Path) -> None:
    tiny_bundle().tokenizer.save(tmp_path)
    before = tokenizer_hash(tmp_path)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "._vocab.json").write_bytes(b"x")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert tokenizer_hash(tmp_path) == before
    (tmp_path / "merges.txt").write_bytes((tmp_path / "merges.txt").read_bytes() + b"a b\n")
    assert tokenizer_hash(tmp_path) != before


def test_it_is_compared_by_what_it_says(tmp_path: Path) -> None:
    tokenizer, kept = tiny_bundle().tokenizer, tmp_path / "kept"
    tokenizer.save(kept)
    merges = kept / "merges.txt"
    assert b"\r" not in merges.read_bytes()
    merges.write_bytes(merges.read_bytes().replace(b"\n", b"\r\n"))  # as it was written on Windows
    (kept / "tokenizer.json").write_text("{}")  # as another version of the library has it
    _check_same(tokenizer, recipe(tmp_path), kept)
    merges.write_bytes(merges.read_bytes() + b"a b\r\n")
    with pytest.raises(CannotResume, match="holds another tokenizer"):
        _check_same(tokenizer, recipe(tmp_path), kept)
