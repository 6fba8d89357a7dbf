"""A LoRA that diffusers saved, and vectors of a new word, draw in our pipeline what they draw in diffusers'."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from benchmarks.their_files import EMBEDDING_FILE, LORA_FILE, read_embedding, read_lora
from safetensors.torch import save_file

from sfumato.formats.bundle import save_bundle
from sfumato.formats.concept import LearnedWord
from their_pipeline import assert_same_with_concept, their_pipeline
from tiny import tiny_bundle

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

WORD = LearnedWord("<fox>", "fox", "zq fox")

pytestmark = pytest.mark.filterwarnings("ignore")


def save_their_lora(folder: Path, base: Path) -> None:
    """Add factors to both parts as their script does, move them, and save them by their own means."""
    pipeline = their_pipeline(base)
    torch.manual_seed(1)
    layers = {}
    for part, names in (
        ("unet", ["to_k", "to_q", "to_v", "to_out.0"]),
        ("text_encoder", ["q_proj", "k_proj", "v_proj", "out_proj"]),
    ):
        module = getattr(pipeline, part)
        module.add_adapter(LoraConfig(r=3, lora_alpha=3, target_modules=names))
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape) * 0.2
        layers[f"{part}_lora_layers"] = convert_state_dict_to_diffusers(get_peft_model_state_dict(module))
    diffusers.StableDiffusionPipeline.save_lora_weights(save_directory=str(folder), **layers)


def test_their_lora(tmp_path: Path) -> None:
    bundle = tiny_bundle(2)
    save_bundle(bundle, tmp_path / "base", torch.float32)
    save_their_lora(tmp_path, tmp_path / "base")
    concept = read_lora(tmp_path / LORA_FILE, bundle, WORD)
    assert set(concept.factors) == {"unet", "text_encoder"}
    theirs = their_pipeline(tmp_path / "base")
    theirs.load_lora_weights(str(tmp_path), weight_name=LORA_FILE)
    assert_same_with_concept(bundle, concept, theirs, "a zq fox", "a fox")


def test_their_word(tmp_path: Path) -> None:
    bundle = tiny_bundle(2)
    save_bundle(bundle, tmp_path / "base", torch.float32)
    save_file({"<fox>": torch.randn(1, 32, generator=torch.Generator().manual_seed(0))}, tmp_path / EMBEDDING_FILE)
    concept = read_embedding(tmp_path / EMBEDDING_FILE, bundle, WORD)
    theirs = their_pipeline(tmp_path / "base")
    theirs.load_textual_inversion(str(tmp_path / EMBEDDING_FILE))
    assert_same_with_concept(bundle, concept, theirs, "a <fox>", "a fox")
