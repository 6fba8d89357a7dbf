"""Lessons hold the base in the 16 bits of its files: the same bytes of a concept as over float32 weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.formats.bundle import load_bundle, save_bundle
from sfumato.training.learn_config import LearnConfig
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS
from sfumato.training.personalise import learn

LESSONS: dict[str, dict[str, Any]] = {
    "lora": {"prior_weight": 0.5, "num_class_images": 2, "preview_prompts": ("a <fox>",)},
    "pivotal": {"adapter": "dora", "dropout": 0.1},
    "textual-inversion": {},
    "custom-diffusion": {},
}


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if not row.weights])
def test_the_file_has_the_same_bytes(method: str, base: Path, photos: Path, tmp_path: Path) -> None:
    files, half = [], tmp_path / "half"
    save_bundle(load_bundle(base), half)
    for held_in in ("fp32", "stored"):
        every = 3 if "preview_prompts" in LESSONS[method] else 0
        loop = LoopConfig(steps=4, log_every=1, save_every=2, preview_every=every, tensorboard=False)
        values = {"folder": photos, "placeholder": "<fox>", "class_noun": "fox", "batch_size": 2, "loop": loop}
        output = tmp_path / f"{held_in}.safetensors"
        rank = {"rank": 2} if METHODS[method].has_rank else {}  # type: ignore[index]
        config = LearnConfig(**{**values, **rank, **LESSONS[method], "method": method, "output": output})
        bundle = load_bundle(half, held_in=held_in)  # type: ignore[arg-type]
        narrow = {w.dtype for network in bundle.modules.values() for w in network.parameters()} - {torch.float32}
        assert config.held_in == "stored" and len(narrow) == (held_in == "stored")
        list(learn(config, bundle, tmp_path / held_in))
        files.append(output.read_bytes())
    assert files[0] == files[1]
