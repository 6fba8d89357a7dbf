"""The comparison with diffusers' scripts: stand-in for torchvision, watch, what it reads and what it demands."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.diffusers_scripts import Lesson, main
from benchmarks.judged import Entry, demands
from benchmarks.stand_in.torchvision import transforms
from benchmarks.their_files import read_embedding, read_lora
from benchmarks.watched import watch
from PIL import Image, ImageOps
from safetensors.torch import save_file

from sfumato.formats.concept import LearnedWord
from tiny import tiny_bundle

WORD = LearnedWord("<fox>", "fox", "zq fox")
HOLD = """
import subprocess, sys, time
held = bytearray(int(sys.argv[1]) * 2**20)
held[::4096] = b"x" * len(held[::4096])
if len(sys.argv) > 2: subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
time.sleep(0.4)
"""


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("mode", list(transforms.InterpolationMode))
@pytest.mark.parametrize(("size", "scaled"), [((60, 40), (30, 20)), ((41, 60), (20, 29)), ((20, 33), (20, 33))])
def test_resize_scales_the_shorter_side(
    mode: transforms.InterpolationMode, size: tuple[int, int], scaled: tuple[int, int]
) -> None:
    given = picture(*size)
    expected = given.resize(scaled, getattr(Image.Resampling, mode.name))
    assert np.array_equal(np.asarray(transforms.Resize(20, interpolation=mode)(given)), np.asarray(expected))


def test_crops_are_those_of_pil() -> None:
    given = picture(50, 30)
    middle = ImageOps.fit(given, (30, 30))
    assert np.array_equal(np.asarray(transforms.CenterCrop(30)(given)), np.asarray(middle))
    torch.manual_seed(3)
    found = transforms.RandomCrop(20)(given)
    torch.manual_seed(3)
    y, x = (int(torch.randint(0, room + 1, (1,))) for room in (10, 30))
    assert np.array_equal(np.asarray(found), np.asarray(given.crop((x, y, x + 20, y + 20))))
    with pytest.raises(ValueError, match="50x30; needed: at least 40"):
        transforms.RandomCrop(40)(given)


def test_mirroring_follows_its_probability() -> None:
    given = picture(8, 5)
    mirrored = np.asarray(ImageOps.mirror(given))
    assert np.array_equal(np.asarray(transforms.RandomHorizontalFlip(1.0)(given)), mirrored)
    assert np.array_equal(np.asarray(transforms.RandomHorizontalFlip(0.0)(given)), np.asarray(given))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_tensors_hold_the_pixels(mode: str) -> None:
    given = picture(7, 4).convert(mode)
    both = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    pixels = np.asarray(given, dtype=np.float32).reshape(4, 7, -1).transpose(2, 0, 1)
    assert torch.allclose(both(given), torch.from_numpy(pixels / 127.5 - 1), atol=1e-6)


def test_a_watch_counts_children_and_tells_failures(tmp_path: Path) -> None:
    alone = watch([sys.executable, "-c", HOLD, "100"], tmp_path, os.environ)
    both = watch([sys.executable, "-c", HOLD, "100", HOLD], tmp_path, os.environ)
    assert alone.seconds > 0.4 and both.seconds > 0.8
    assert 100 < alone.peak_bytes / 2**20 < 160
    assert 200 < both.peak_bytes / 2**20 < 300
    with pytest.raises(SystemExit, match="(?s)ended with exit code 1:.*no picture"):
        watch([sys.executable, "-c", "raise ValueError('no picture')"], tmp_path, os.environ)


def test_their_files_with_other_content_are_refused(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    save_file({"unet.conv_in.alpha": torch.ones(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(SystemExit, match="holds 'unet.conv_in.alpha'; needed: low-rank factors"):
        read_lora(tmp_path / "lora.safetensors", bundle, WORD)
    save_file({"<cat>": torch.ones(1, 32)}, tmp_path / "embedding.safetensors")
    with pytest.raises(SystemExit, match="holds <cat>; needed: <fox>"):
        read_embedding(tmp_path / "embedding.safetensors", bundle, WORD)


@pytest.mark.parametrize("start", [None, "dog"])
def test_a_start_word_goes_to_both_sides(start: str | None) -> None:
    values = {
        "steps": 7,
        "their_steps": 7,
        "batch": 3,
        "rank": 5,
        "seed": 9,
        "tiny": False,
        "start": start,
        "scripts": Path("scripts"),
    }
    lesson = Lesson(argparse.Namespace(**values), Path("base"), Path("alone"), Path("told"), WORD, "dog", ("python",))
    ours = lesson.ours("textual-inversion", Path("a.safetensors"), verdict=False)
    assert ("--initializer dog" in " ".join(ours)) == (start is not None) and "told" in ours and "--rank" not in ours
    assert "--initializer" not in lesson.ours("lora", Path("a.safetensors"), verdict=True)
    theirs = " ".join(lesson.theirs("textual-inversion", Path("b"), 32, 0.5))
    assert theirs.endswith("--placeholder_token <fox> --initializer_token dog") and "--learning_rate 0.5" in theirs
    told = " ".join(lesson.theirs("lora", Path("b"), 32, None))
    assert "--instance_data_dir alone --instance_prompt a zq fox --train_text_encoder --rank 5" in told
    assert "--max_train_steps 7" in told and "--seed 9" in told and "--learning_rate" not in told


def test_demands_compare_time_memory_and_both_axes() -> None:
    ours = Entry("ours", 5.0, 60, (0.6, 0.7, 0.8), (0.1, 0.1, 0.1))
    slow = Entry("theirs", 12.0, 100, (0.5, 0.7, 0.8), (0.1, 0.0, 0.1))
    assert [demand.holds for demand in demands(ours, slow)] == [True, True, True]
    quick = Entry("theirs", 9.0, 80, (0.5, 0.6, 0.8), (0.1, 0.2, 0.1))
    found = demands(ours, quick)
    assert [demand.holds for demand in found] == [False, False, False]
    assert found[0].found.startswith("subject +0.067 (") and "prompt -0.033 (" in found[0].found
    assert (found[1].found, found[2].found) == ("0.56", "0.75")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "diffusers_scripts needs --scripts FOLDER with train_dreambooth_lora.py and textual_inversion.py from"),
        (("--scripts", "nowhere"), "--scripts: given nowhere, which has no train_dreambooth_lora.py;"),
        (("--scripts", ".", "--pictures", "photos"), "--pictures: given photos without --class"),
        (("--scripts", ".", "--output", "."), "--output: given ., which is there already"),
    ],
)
def test_missing_files_are_told(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("train_dreambooth_lora.py", "textual_inversion.py"):
        (tmp_path / name).touch()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
