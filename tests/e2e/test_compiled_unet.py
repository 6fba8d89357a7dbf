"""The recipe option `compile`: the U-Net is one graph, and a compiled run has the losses of a plain one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.formats.bundle import load_bundle
from sfumato.training.journal import read_events

Run = Callable[..., Any]

# In a process of its own: the checks of shapes that tests switch on would be traced as well.
ONE_GRAPH = """
import torch
from sfumato.models.unet import UNet, UNetConfig

torch.manual_seed(0)
heads = dict(blocks_per_level=1, attention_downsamples=(1,), num_heads=2, context_dim=32, norm_groups=8)
unet = UNet(UNetConfig(4, 4, (16,), **heads)).to(memory_format=torch.channels_last)
with torch.no_grad():
    for weight in unet.parameters():
        weight.add_(torch.randn_like(weight), alpha=0.05)
given = torch.randn(4, 4, 8, 8), torch.tensor([1, 200, 300, 999]), torch.randn(4, 24, 32)


def loss_and_gradients():
    unet.zero_grad()
    loss = unet(*given).square().mean()
    loss.backward()
    return [loss.detach(), *(weight.grad for weight in unet.parameters())]


plain = loss_and_gradients()
unet.compile(fullgraph=True, backend="eager")
for one, other in zip(plain, loss_and_gradients(), strict=True):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
"""
RECIPE = """
kind = "denoiser"
name = "small"
batch_size = 4
validation_pictures = 0
prediction = "v"
data = { kind = "shapes", size = 32, workers = 0 }
tokenizer = { vocab_size = 600, context_length = 24, captions = 128 }
text_encoder = { width = 32, layers = 1, heads = 2, mlp_width = 32 }
schedule = { zero_terminal_snr = true }
latents = { shard_size = 16, window = 1, encode_batch = 16 }
loop = { steps = 2, log_every = 1, threads = 1, tensorboard = false }

[unet]
in_channels = 4
out_channels = 4
channels = [16]
blocks_per_level = 1
attention_downsamples = []
num_heads = 2
context_dim = 32
norm_groups = 8
"""


def in_own_process(*words: str, **variables: str) -> None:
    """Run Python in a process of its own, which must end well."""
    done = subprocess.run(
        [sys.executable, *words], env=os.environ | variables, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_a_compiled_unet_is_one_graph() -> None:
    in_own_process("-c", ONE_GRAPH)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a compiler of C++")
def test_a_compiled_run_has_the_same_losses(sfumato: Run, base: Path, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE)
    train = ("train", "denoiser", "small.toml", "--set", f"autoencoder={base}")
    assert sfumato(*train, "-o", "plain").code == 0
    compiled = ("-m", "sfumato", *train, "--set", "compile=true", "-o", "compiled")
    in_own_process(*compiled, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "kernels"))
    assert list(tmp_path.glob("kernels/**/*.so")), "kernels were compiled"
    plain, faster = (
        [line["values"]["denoiser/loss"] for line in read_events(Path(run)) if line["event"] == "Metric"]
        for run in ("plain", "compiled")
    )
    assert len(plain) == 2 and faster == pytest.approx(plain, abs=1e-4)
    one, other = (load_bundle(Path(run, "bundle")).unet.state_dict() for run in ("plain", "compiled"))
    assert one.keys() == other.keys(), "names of compiled modules do not get into the file"
