"""A concept file of ours opens in diffusers' `load_lora_weights` and gives the same picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.formats.bundle import save_bundle
from sfumato.formats.concept import Concept, LearnedWord, load_concept, save_concept, taken_from
from sfumato.formats.kohya import save_kohya, trigger_phrase, word_names
from sfumato.formats.safe_io import read_safetensors
from sfumato.training.whole import WholeWeights
from their_pipeline import assert_same_with_concept, their_pipeline
from tiny import tiny_bundle

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("targets", "rank", "alpha", "options"),
    [
        ({"unet": ("attention",), "text_encoder": ("attention",)}, 4, 8.0, {}),
        ({"unet": ("attention", "feed-forward", "conv1", "proj_in")}, 3, 1.0, {"rank_stabilised": True}),
        ({"unet": ("attention", "conv1"), "text_encoder": ("attention",)}, 3, 6.0, {"kind": "dora"}),
        ({"unet": ("attention", "conv1")}, 4, 2.0, {"init": "pissa"}),
        ({"unet": ("attention",), "text_encoder": ("attention", "token_embedding")}, 4, 8.0, {}),
    ],
    ids=["lora", "rslora", "dora", "pissa", "table"],
)
def test_diffusers_draws_the_same_picture_with_our_concept(
    tmp_path: Path, targets: dict[str, tuple[str, ...]], rank: int, alpha: float, options: dict[str, Any]
) -> None:
    bundle = tiny_bundle(2)
    generator = torch.Generator().manual_seed(0)
    adapters = {}
    for part, chosen in targets.items():
        adapters[part] = LoRA(bundle.modules[part], LoRAConfig(rank, alpha, targets=chosen, **options))
        for parameter in adapters[part].parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    bare = Concept((LearnedWord("<fox>", "fox", "zq fox"),), {}, {}, bundle.name, bundle.base_hash)
    file = tmp_path / "fox.safetensors"
    save_concept(taken_from(bare, adapters), file, live=adapters)
    save_bundle(bundle, tmp_path / "base", torch.float32)

    theirs = their_pipeline(tmp_path / "base")
    theirs.load_lora_weights(str(tmp_path), weight_name=file.name)
    assert_same_with_concept(bundle, load_concept(file), theirs, "a zq fox", "a zq fox")


@pytest.mark.parametrize("vectors", [0, 2])
def test_diffusers_draws_the_same_picture_with_a_file_in_kohyas_layout(tmp_path: Path, vectors: int) -> None:
    bundle = tiny_bundle(2)
    generator = torch.Generator().manual_seed(0)
    adapters = {part: LoRA(bundle.modules[part], LoRAConfig(4, 8.0)) for part in ("unet", "text_encoder")}
    for lora in adapters.values():
        for parameter in lora.parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    rows = torch.randn(vectors, 32, generator=generator) if vectors else None
    word = LearnedWord("<fox>", "fox", "<fox> fox" if vectors else "zq fox", rows)
    concept = taken_from(Concept((word,), {}, {}, bundle.name, bundle.base_hash), adapters)
    save_kohya(concept, tmp_path / "fox.safetensors", torch.float32)
    save_bundle(bundle, tmp_path / "base", torch.float32)

    theirs = their_pipeline(tmp_path / "base")
    theirs.load_lora_weights(str(tmp_path), weight_name="fox.safetensors")
    if vectors:
        theirs.load_textual_inversion(str(tmp_path / "fox-word.safetensors"), token="fox-word")
    prompt = f"a {trigger_phrase(word, word_names(concept, tmp_path / 'fox.safetensors'))}"
    assert_same_with_concept(bundle, concept, theirs, prompt, "a fox" if vectors else "a zq fox")


def test_diffusers_draws_the_same_picture_with_the_change_of_all_weights(tmp_path: Path) -> None:
    """All layers but the two tables, which kohya's layout has no name for."""
    bundle = tiny_bundle(2)
    generator = torch.Generator().manual_seed(0)
    whole = WholeWeights(bundle.modules, ("unet", "text_encoder"))
    with torch.no_grad():
        for module in whole.modules.values():
            for weight in module.parameters():
                weight += torch.randn(weight.shape, generator=generator) * 0.02
    adapters, share = whole.extract(4)
    whole.restore()
    bare = Concept((LearnedWord("<fox>", "fox", "zq fox"),), {}, {}, bundle.name, bundle.base_hash)
    concept = taken_from(replace(bare, lineage={"change_held": share}), adapters)
    save_kohya(concept, tmp_path / "fox.safetensors", torch.float32)
    save_bundle(bundle, tmp_path / "base", torch.float32)

    theirs = their_pipeline(tmp_path / "base")
    theirs.load_lora_weights(str(tmp_path), weight_name="fox.safetensors")
    part = "text_encoder"
    factors = {name: tensor for name, tensor in concept.factors[part].items() if "_embedding." not in name}
    names = tuple(dict.fromkeys(name.rpartition(".")[0] for name in factors))
    assert len(names) == len(concept.configs[part].targets) - 2
    without = replace(
        concept,
        factors={**concept.factors, part: factors},
        configs={**concept.configs, part: replace(concept.configs[part], targets=names)},
    )
    assert_same_with_concept(bundle, without, theirs, "a zq fox", "a zq fox")


@pytest.mark.parametrize("vectors", [1, 3])
def test_diffusers_opens_a_concept_with_a_word_of_its_own(tmp_path: Path, vectors: int) -> None:
    bundle = tiny_bundle(2)
    generator = torch.Generator().manual_seed(0)
    adapters = {"unet": LoRA(bundle.unet, LoRAConfig(4, 8.0))}
    for parameter in adapters["unet"].parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    rows = torch.randn(vectors, 32, generator=generator)
    bare = Concept((LearnedWord("<fox>", "fox", "<fox> fox", rows),), {}, {}, bundle.name, bundle.base_hash)
    file = tmp_path / "fox.safetensors"
    save_concept(taken_from(bare, adapters, 0.8), file, live=adapters, strength=0.8)
    save_bundle(bundle, tmp_path / "base", torch.float32)

    theirs = their_pipeline(tmp_path / "base")
    theirs.load_lora_weights(str(tmp_path), weight_name=file.name)
    theirs.load_textual_inversion({"<fox>": read_safetensors(file)["sfumato.lora_token_rows"]})
    assert_same_with_concept(bundle, load_concept(file), theirs, "a <fox> fox", "a fox")
