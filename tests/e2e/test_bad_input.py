"""Bad input: one message with the values, exit code 2, no traceback, nothing half written."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

Run = Callable[..., Any]
GENERATE = ("generate", "a red fox", "--steps", 2)


def refused(answer: Any, *parts: str) -> None:
    """Check that a command was refused in one line that holds all the parts."""
    assert answer.code == 2
    assert answer.err.startswith("sfumato: ") and answer.err.count("\n") == 1, answer.err
    assert "Traceback" not in answer.err
    for part in parts:
        assert part in answer.err, answer.err


def test_missing_picture(sfumato: Run, base: Path) -> None:
    refused(sfumato(*GENERATE, "--base", base, "--init-image", "none.png"), "none.png", "does not exist")
    refused(sfumato("replay", "none.png"), "none.png does not exist; a PNG was needed")


@pytest.mark.parametrize("content", [b"hello", b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_unreadable_picture(content: bytes, sfumato: Run, base: Path) -> None:
    Path("broken.png").write_bytes(content)
    refused(sfumato(*GENERATE, "--base", base, "--init-image", "broken.png"), "broken.png")
    refused(sfumato("replay", "broken.png"), "broken.png is not a readable picture")
    assert not Path("out").exists()


def test_picture_without_recipe(sfumato: Run) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    refused(sfumato("replay", "plain.png"), "plain.png carries no recipe")


def test_mask_alone_and_mask_of_other_proportions(sfumato: Run, base: Path) -> None:
    Image.new("L", (10, 20)).save("mask.png")
    Image.new("RGB", (20, 20)).save("photo.png")
    refused(sfumato(*GENERATE, "--base", base, "--mask", "mask.png"), "--mask mask.png was given without --init-image")
    refused(sfumato(*GENERATE, "--base", base, "--strength", 0.5), "--strength 0.5 was given without --init-image")
    answer = sfumato(*GENERATE, "--base", base, "--mask", "mask.png", "--init-image", "photo.png")
    refused(answer, "The mask mask.png is 10x20, the picture photo.png is 20x20; needed: the same proportions")


def test_unknown_sampler(sfumato: Run, base: Path) -> None:
    refused(sfumato(*GENERATE, "--base", base, "--sampler", "euler_a"), "given 'euler_a'", "Did you mean 'euler'?")


def test_size_not_a_multiple(sfumato: Run, base: Path) -> None:
    refused(sfumato(*GENERATE, "--base", base, "--size", "33x32"), "33x32", "multiples of 8", "32x32")


def test_prompt_over_the_context(sfumato: Run, base: Path) -> None:
    answer = sfumato("generate", "red " * 40, "--base", base, "--steps", 2)
    refused(answer, "32", "this would be cut: 'red")


def test_unknown_base(sfumato: Run) -> None:
    refused(sfumato(*GENERATE, "--base", "primr"), "'primr'", "Did you mean 'primer'?")
    refused(sfumato(*GENERATE, "--base", "none.safetensors"), "none.safetensors", "does not exist")


def test_pickle_as_base(sfumato: Run, base: Path) -> None:
    Path("model.ckpt").write_bytes(pickle.dumps({"a": 1}))
    refused(sfumato(*GENERATE, "--base", "model.ckpt"), "model.ckpt", "pickle", "may run code")
    Path("model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    refused(sfumato(*GENERATE, "--base", "model.safetensors"), "model.safetensors", "holds a pickle")
    refused(sfumato(*GENERATE, "--base", base, "--concept", "model.safetensors:0.5"), "holds a pickle")
    shutil.copytree(base, "folder")
    weights = Path("folder/unet/diffusion_pytorch_model.safetensors")
    weights.unlink()
    weights.with_suffix(".bin").write_bytes(pickle.dumps({"a": 1}))
    refused(sfumato(*GENERATE, "--base", "folder"), "pickle")


def test_truncated_weights(sfumato: Run, base: Path) -> None:
    shutil.copytree(base, "cut")
    weights = Path("cut/unet/diffusion_pytorch_model.safetensors")
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.truncate(size - 1000)
    refused(sfumato(*GENERATE, "--base", "cut"), "diffusion_pytorch_model.safetensors", "truncated", "promises")
    refused(sfumato(*GENERATE, "--base", base, "--concept", weights), "truncated")


def test_base_as_concept_and_missing_concept(sfumato: Run, base: Path) -> None:
    refused(sfumato(*GENERATE, "--base", base, "--concept", "none.safetensors"), "none.safetensors", "does not exist")
    weights = base / "vae" / "diffusion_pytorch_model.safetensors"
    refused(sfumato(*GENERATE, "--base", base, "--concept", weights), str(weights), "a concept that sfumato learned")


def test_unknown_key_in_toml(sfumato: Run) -> None:
    Path("a.toml").write_text('prompt = "a fox"\nsamplr = "ddim"\n')
    refused(sfumato("generate", "--config", "a.toml"), "a.toml: unknown key 'samplr'. Did you mean 'sampler'?")
    recipe = (Path(__file__).parents[2] / "recipes" / "tiny.toml").read_text()
    Path("recipe.toml").write_text(recipe.replace("[loop]", "[loop]\nstpes = 3"))
    refused(sfumato("train", "denoiser", "recipe.toml"), "recipe.toml", "'loop.stpes'", "Did you mean 'steps'?")
    assert not Path("runs").exists()


def test_changes_to_a_recipe(sfumato: Run) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / "tiny.toml"
    refused(sfumato("train", "denoiser", recipe, "--set", "loop.steps"), "--set: given 'loop.steps'; needed KEY=VALUE")
    refused(sfumato("train", "denoiser", recipe, "--set", "loop.steps=0"), "loop.steps", "0")
    refused(sfumato("train", "denoiser", recipe, "--set", "loop.stepps=5"), "loop.stepps", "Did you mean 'steps'?")
    refused(sfumato("train", "autoencoder", recipe), "tiny.toml", "'denoiser'", "'autoencoder'")


def test_full_disk(sfumato: Run, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    answer = sfumato(*GENERATE, "--base", base, "-o", "new")
    refused(answer, "a-red-fox-0.png", "disk is full", "bytes are needed", "are free")
    assert not list(Path("new").iterdir())


def test_output_in_the_way(sfumato: Run, base: Path) -> None:
    Path("file").write_text("x")
    refused(sfumato(*GENERATE, "--base", base, "-o", "file"), "cannot be written to 'file'", "a file is in the way")
    answer = sfumato(*GENERATE, "--base", base, "-o", "file/new", "--json")
    assert answer.code == 2 and '"event": "step"' not in answer.out, "it is found before anything is drawn"
    recipe = Path(__file__).parents[2] / "recipes" / "tiny.toml"
    refused(sfumato("train", "denoiser", recipe, "-o", "file"), "Could not write 'file")
    assert Path("file").read_text() == "x"
