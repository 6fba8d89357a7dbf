"""Concepts in kohya's layout, read as the programs that know it do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.learned_path import LearnedPath
from sfumato.adapters.lora import LoRA
from sfumato.errors import AdapterError, ConfigError
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, LearnedWord, taken_from
from sfumato.formats.kohya import save_kohya, trigger_phrase, word_names
from sfumato.formats.safe_io import read_header, read_safetensors
from tiny import tiny_bundle

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"alpha": 6.0},
    "rslora": {"alpha": 6.0, "rank_stabilised": True},
    "pissa": {"init": "pissa", "alpha": 2.0},
    "loha": {"kind": "loha", "alpha": 6.0},
    "lokr": {"kind": "lokr", "alpha": 6.0},
    "lokr of two whole matrices": {"kind": "lokr", "factor": 16, "rank": 8, "alpha": 4.0},
    "full": {"kind": "full"},
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def adapters(bundle: Bundle, **options: Any) -> dict[str, LoRA]:
    generator = torch.Generator().manual_seed(0)
    targets = {"unet": ("attention", "conv1", "proj_in"), "text_encoder": ("attention",)}
    made = {}
    for part, chosen in targets.items():
        config = LoRAConfig(**{"rank": 3, "targets": chosen, **options})
        made[part] = LoRA(bundle.modules[part], config, generator=generator)
        for parameter in made[part].parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return made


def concept(bundle: Bundle, made: dict[str, LoRA], *words: LearnedWord) -> Concept:
    known = words or (LearnedWord("<fox>", "fox", "zq fox"),)
    bare = Concept(known, {}, {}, bundle.name, bundle.base_hash, base_architecture="stable-diffusion-v1", base_size=512)
    return taken_from(bare, made)


def read_change(tensors: dict[str, Tensor], prefix: str, weight: Tensor) -> Tensor:
    """Return what is added to a weight, as LyCORIS and ComfyUI compute it."""
    own = {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}
    if "diff" in own:
        return own["diff"].reshape(weight.shape)
    alpha = float(own["alpha"])
    if "lora_up.weight" in own:
        up, down = own["lora_up.weight"].flatten(1), own["lora_down.weight"].flatten(1)
        return (up @ down * (alpha / len(own["lora_down.weight"]))).reshape(weight.shape)
    if "hada_w1_a" in own:
        one, other = own["hada_w1_a"] @ own["hada_w1_b"], own["hada_w2_a"] @ own["hada_w2_b"]
        return (one * other * (alpha / len(own["hada_w1_b"]))).reshape(weight.shape)
    w1, scale = own["lokr_w1"], 1.0
    if "lokr_w2" in own:
        w2 = own["lokr_w2"]
    else:
        w2, scale = own["lokr_w2_a"] @ own["lokr_w2_b"], alpha / len(own["lokr_w2_b"])
    if w2.ndim == 4:
        w1 = w1[:, :, None, None]
    return (torch.kron(w1, w2) * scale).reshape(weight.shape)


@pytest.mark.parametrize("options", KINDS.values(), ids=list(KINDS))
def test_every_kind_is_read_as_it_was_learned(bundle: Bundle, tmp_path: Path, options: dict[str, Any]) -> None:
    made = adapters(bundle, **options)
    file = tmp_path / "fox.safetensors"
    assert save_kohya(concept(bundle, made), file, torch.float32) == {file: "lora"}
    tensors, expected = read_safetensors(file), 0
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        for name, path in zip(made[part].names, made[part].paths, strict=True):
            module = bundle.modules[part].get_submodule(name)
            assert isinstance(path, LearnedPath) and isinstance(module.weight, Tensor)
            found = read_change(tensors, prefix + name.replace(".", "_"), module.weight)
            wanted = path.delta(module, 1.0).detach()
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
            assert float(wanted.abs().max()) > 1e-3
            expected += 1
    modules = {key.partition(".")[0] for key in tensors}
    assert len(modules) == expected and all(key.count(".") <= 2 for key in tensors)


def test_header_and_precision(bundle: Bundle, tmp_path: Path) -> None:
    save_kohya(concept(bundle, adapters(bundle, alpha=6.0)), tmp_path / "fox.safetensors")
    header = read_header(tmp_path / "fox.safetensors")
    told = header.metadata
    assert (told["ss_network_module"], told["ss_network_dim"], told["ss_v2"]) == ("networks.lora", "3", "False")
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == ("sd_v1", "stable-diffusion-v1/lora")
    assert told["modelspec.trigger_phrase"] == "zq fox" and told["modelspec.resolution"] == "512x512"
    assert {tensor.dtype for tensor in read_safetensors(tmp_path / "fox.safetensors").values()} == {torch.float16}


def test_words_are_files_of_their_own(bundle: Bundle, tmp_path: Path) -> None:
    rows = torch.randn(2, 32)
    fox, owl = LearnedWord("<Red fox>", "fox", "<Red fox> fox", rows), LearnedWord("<owl>", "owl", "zq owl")
    both = concept(bundle, adapters(bundle), fox, owl)
    file, word = tmp_path / "pair.safetensors", tmp_path / "red-fox-word.safetensors"
    assert save_kohya(both, file, torch.float32) == {word: "red-fox-word", file: "lora"}
    assert torch.equal(read_safetensors(word)["emb_params"], rows)
    assert [trigger_phrase(one, word_names(both)) for one in both.words] == ["red-fox-word fox", "zq owl"]
    assert read_header(file).metadata["modelspec.trigger_phrase"] == "red-fox-word fox, zq owl"
    alone = Concept((fox,), {}, {}, bundle.name, bundle.base_hash)
    word.unlink()
    assert save_kohya(alone, tmp_path / "alone.safetensors") == {word: "red-fox-word"}
    assert not (tmp_path / "alone.safetensors").exists()


def test_what_would_be_read_as_something_else_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is a DoRA, whose lengths go by outputs"):
        save_kohya(concept(bundle, adapters(bundle, kind="dora")), tmp_path / "a.safetensors")
    table = {"text_encoder": LoRA(bundle.text_encoder, LoRAConfig(2, targets=("token_embedding",)))}
    with pytest.raises(AdapterError, match="the table 'text_model.embeddings.token_embedding'"):
        save_kohya(concept(bundle, table), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="'a.pt' was given; needed: one that ends in .safetensors"):
        save_kohya(concept(bundle, adapters(bundle)), tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())
