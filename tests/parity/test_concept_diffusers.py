"""A concept file of ours opens in diffusers' `load_lora_weights` and gives the same picture."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.adapters.lora import LoRA, LoRAConfig
from sfumato.formats.bundle import save_bundle
from sfumato.formats.concept import Concept, LearnedWord, load_concept, save_concept, taken_from
from sfumato.pipeline import Pipeline, Settings
from sfumato.runtime.seeding import noise
from tiny import tiny_bundle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

STEPS = 8
"""Must divide 1000: diffusers' DDIM steps to `t - 1000 // steps`, which otherwise is not the next time it visits."""

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("parts", "rank", "alpha", "options", "targets"),
    [
        (("unet", "text_encoder"), 4, 8.0, {}, ("attention",)),
        (("unet",), 3, 1.0, {"rank_stabilised": True}, ("attention", "feed-forward", "conv1", "proj_in")),
        (("unet", "text_encoder"), 3, 6.0, {"kind": "dora"}, ("attention", "conv1")),
        (("unet",), 4, 2.0, {"init": "pissa"}, ("attention", "conv1")),
    ],
    ids=["lora", "rslora", "dora", "pissa"],
)
def test_diffusers_draws_the_same_picture_with_our_concept(
    tmp_path: Path, parts: tuple[str, ...], rank: int, alpha: float, options: dict[str, Any], targets: tuple[str, ...]
) -> None:
    bundle = tiny_bundle(2)
    generator = torch.Generator().manual_seed(0)
    adapters = {}
    for part in parts:
        chosen = targets if part == "unet" else ("attention",)
        adapters[part] = LoRA(bundle.modules[part], LoRAConfig(rank, alpha, targets=chosen, **options))
        for parameter in adapters[part].parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    bare = Concept((LearnedWord("<fox>", "fox", "zq fox"),), {}, {}, bundle.name, bundle.base_hash)
    file = tmp_path / "fox.safetensors"
    save_concept(taken_from(bare, adapters), file, live=adapters)
    save_bundle(bundle, tmp_path / "base", torch.float32)

    pipeline = Pipeline(bundle)
    settings = Settings(steps=STEPS, sampler="ddim", guidance_scale=3.0)
    plain = pipeline.images(["a zq fox"], [1], settings)
    with pipeline.using((load_concept(file), 1.0)):
        ours = pipeline.images(["a <fox>"], [1], settings)

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(str(tmp_path / "base"), local_files_only=True)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_lora_weights(str(tmp_path), weight_name=file.name)
    expected = theirs(
        "a zq fox",
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=noise((4, 8, 8), [1]),
        output_type="pt",
        height=32,
        width=32,
    ).images
    assert (ours - plain).abs().max() > 0.01
    assert (expected - (ours / 2 + 0.5)).abs().max() <= 1e-4
