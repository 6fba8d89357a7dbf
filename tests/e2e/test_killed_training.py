"""Training that is killed outright in a process of its own and resumed: the same bytes as a run left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sfumato.formats.bundle import load_bundle
from sfumato.training.journal import read_events

Run = Callable[..., Any]
Lines = Sequence[dict[str, Any]]

FIRST = """
kind = "autoencoder"
name = "first"
batch_size = 4
validation_pictures = 4
scaling_pictures = 16
data = { kind = "shapes", size = 16, workers = 1 }
objective = { perceptual_weight = 0.0 }
ema = { decay = 0.9 }
loop = { steps = 12, log_every = 1, save_every = 4, threads = 1, tensorboard = false }

[autoencoder]
channels = [8, 16]
blocks_per_level = 1
latent_channels = 4
mid_attention = false
norm_groups = 8
"""
SECOND = """
kind = "denoiser"
name = "second"
batch_size = 4
autoencoder_recipe = "first.toml"
validation_pictures = 8
prediction = "v"
data = { kind = "shapes", size = 16, workers = 1 }
tokenizer = { vocab_size = 600, context_length = 24, captions = 128 }
text_encoder = { width = 32, layers = 1, heads = 2, mlp_width = 32 }
schedule = { zero_terminal_snr = true }
latents = { shard_size = 256, window = 5, rotate_every = 3, encode_batch = 16 }
ema = { decay = 0.9 }
loop = { steps = 16, log_every = 1, validate_every = 5, save_every = 4, threads = 1, tensorboard = false }

[unet]
in_channels = 4
out_channels = 4
channels = [16, 32]
blocks_per_level = 1
attention_downsamples = [2]
num_heads = 2
context_dim = 32
norm_groups = 8
dropout = 0.1
"""
WITHOUT_WORKER = ("--set", "data.workers=0")


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of both recipes; the second trains the first stage as well."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "first.toml").write_text(FIRST)
    (folder / "second.toml").write_text(SECOND)
    return folder


def killed(run: Path, is_time: Callable[[Lines], bool], *words: object) -> Lines:
    """Train in a process of its own, kill it as soon as its record says that it is time, and return the record."""
    command = [sys.executable, "-m", "sfumato", "train", *map(str, words), "-o", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not is_time(read_events(run)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate(timeout=60)  # returns when nobody holds the pipes any more: its worker is gone, too
    assert process.returncode == -signal.SIGKILL
    return read_events(run)


def told(lines: Lines, event: str, step: int) -> bool:
    """Say whether an event of a step is in a record."""
    return any(line["event"] == event and line["step"] == step for line in lines)


def encoded(lines: Lines) -> int:
    """Return how many shards have been encoded for the first step."""
    return sum(line["event"] == "Progress" and line["phase"] == "latents" for line in lines)


def everything(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_killed_denoiser_ends_with_the_same_bytes(sfumato: Run, recipes: Path) -> None:
    train, run = ("denoiser", recipes / "second.toml"), Path("killed")
    lines = killed(run, lambda lines: encoded(lines) > 0, *train)
    assert encoded(lines) < 5 and not told(lines, "Metric", 1)
    lines = killed(run, lambda lines: told(lines, "Metric", 7), *train, "--resume")
    assert not told(lines, "Checkpoint", 8)
    assert not list(run.glob("latents/*/shard-000001.safetensors")), "needed again after step 4, so it is made anew"
    lines = killed(run, lambda lines: told(lines, "Checkpoint", 12), *train, "--resume")
    assert not told(lines, "Checkpoint", 16)
    again = sfumato("train", *train, *WITHOUT_WORKER, "-o", run)
    assert again.code == 2 and "'killed' already holds a run. Resume it (--resume)" in again.err
    rest = sfumato("train", *train, *WITHOUT_WORKER, "-o", run, "--resume")
    assert rest.code == 0 and "step-00000012' after step 12." in rest.out, rest.err

    assert sfumato("train", *train, *WITHOUT_WORKER, "-o", "whole").code == 0
    for place in ("checkpoints/step-00000016", "bundle", "autoencoder/autoencoder", "tokenizer"):
        wanted = everything(Path("whole", place))
        assert wanted and everything(run / place) == wanted, place
    assert load_bundle(run / "bundle").name == "second"
    steps = [line["step"] for line in read_events(run) if line["event"] == "Metric" and "denoiser/lr" in line["values"]]
    assert steps == list(range(1, 17)), "the record reads as if nothing had been interrupted"


def test_a_killed_autoencoder_ends_with_the_same_bytes(sfumato: Run, recipes: Path) -> None:
    train, run = ("autoencoder", recipes / "first.toml"), Path("killed")
    killed(run, lambda lines: told(lines, "Metric", 7), *train)
    rest = sfumato("train", *train, *WITHOUT_WORKER, "-o", run, "--resume")
    assert rest.code == 0 and "step-00000004' after step 4." in rest.out, rest.err
    assert sfumato("train", *train, *WITHOUT_WORKER, "-o", "whole").code == 0
    for place in ("checkpoints/step-00000012", "autoencoder"):
        wanted = everything(Path("whole", place))
        assert wanted and everything(run / place) == wanted, place
