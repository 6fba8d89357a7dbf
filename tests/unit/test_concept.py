"""Concept files: round trip, what is refused, and the proof after writing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.errors import CheckpointError, ConfigError, StorageError, UnknownFormat, UnsafeFile, WrongBase
from sfumato.formats import concept as concept_file
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, LearnedWord, load_concept, save_concept, taken_from
from sfumato.formats.safe_io import read_header, read_safetensors, write_safetensors
from sfumato.pipeline import Pipeline
from tiny import tiny_bundle


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def live(bundle: Bundle) -> dict[str, LoRA]:
    """Adapters on Linear, Conv2d and Embedding layers, all factors different from zero."""
    generator = torch.Generator().manual_seed(0)
    adapters = {
        "unet": LoRA(bundle.unet, LoRAConfig(3, 6.0, 0.1, ("attention", "conv1"), rank_stabilised=True)),
        "text_encoder": LoRA(bundle.text_encoder, LoRAConfig(2, targets=("q_proj", "token_embedding"))),
    }
    for lora in adapters.values():
        for parameter in lora.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return adapters


def concept(bundle: Bundle, adapters: dict[str, LoRA] | None = None) -> Concept:
    bare = Concept(
        (
            LearnedWord("<fox>", "fox", "<fox> fox", torch.randn(2, 32, generator=torch.Generator().manual_seed(1))),
            LearnedWord("<cat>", "cat", "sks cat"),
            LearnedWord("<dog>", "dog", "<dog> dog", torch.ones(1, 32)),
        ),
        {},
        {},
        bundle.name,
        bundle.base_hash,
        {"steps": 3, "note": "für"},
        {"seed": 1, "pictures": ["a.png"]},
    )
    return taken_from(bare, live(bundle) if adapters is None else adapters)


def same(one: Concept, other: Concept) -> bool:
    plain = all(
        getattr(one, name) == getattr(other, name)
        for name in (
            "configs",
            "base_name",
            "base_hash",
            "request",
            "lineage",
        )
    )
    words = [word.said for word in one.words] == [word.said for word in other.words]
    for mine, its in zip(one.words, other.words, strict=True):
        words &= torch.equal(mine.rows, its.rows) if mine.rows is not None and its.rows is not None else mine == its
    return (
        plain
        and words
        and one.factors.keys() == other.factors.keys()
        and all(
            torch.equal(tensor, other.factors[part][name])
            for part, state in one.factors.items()
            for name, tensor in state.items()
        )
    )


def test_round_trip_and_equal_bytes(bundle: Bundle, tmp_path: Path) -> None:
    given = concept(bundle)
    save_concept(given, tmp_path / "a.safetensors", live=live(bundle))
    save_concept(load_concept(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert same(load_concept(tmp_path / "a.safetensors"), given)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_pictures_whose_names_are_not_utf8_cost_no_lesson(bundle: Bundle, tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    given = replace(concept(bundle), lineage={"pictures": [name]})
    save_concept(given, tmp_path / "a.safetensors")
    assert load_concept(tmp_path / "a.safetensors").lineage["pictures"] == [name]
    with safe_open(tmp_path / "a.safetensors", "pt") as opened:
        assert "pictures" in opened.metadata()["sfumato.concept"]


def test_keys_and_header_follow_the_published_dialect(bundle: Bundle, tmp_path: Path) -> None:
    save_concept(concept(bundle), tmp_path / "a.safetensors")
    header = read_header(tmp_path / "a.safetensors")
    names = set(header.tensors)
    attention = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert {f"{attention}.lora_A.weight", f"{attention}.lora_B.weight"} < names
    assert header.tensors[f"{attention}.lora_A.weight"].shape == (3, 64)
    table = "text_encoder.text_model.embeddings.token_embedding"
    assert {f"{table}.lora_embedding_A", f"{table}.lora_embedding_B", "sfumato.lora_token_rows"} < names
    assert all("lora" in name for name in names), "diffusers opens no file with another key"
    metadata = json.loads(header.metadata["lora_adapter_metadata"])
    assert metadata["unet.r"] == 3
    assert metadata["unet.lora_alpha"] == 3 and metadata["unet.use_rslora"] is False, "the scale lies in the factors"
    assert "encoder.layers.0.self_attn.q_proj" in metadata["text_encoder.target_modules"]
    assert header.metadata["modelspec.trigger_phrase"] == "<fox> fox, sks cat, <dog> dog"
    assert header.metadata["modelspec.architecture"] == "latent-diffusion/lora"
    assert "modelspec.resolution" not in header.metadata
    known = replace(concept(bundle), base_architecture="stable-diffusion-v1", base_size=512)
    save_concept(known, tmp_path / "b.safetensors")
    metadata = read_header(tmp_path / "b.safetensors").metadata
    assert metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["modelspec.resolution"] == "512x512"
    assert same(load_concept(tmp_path / "b.safetensors"), known)


KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "dora": ({"kind": "dora", "alpha": 6.0}, {"lora_A.weight", "lora_B.weight", "lora_magnitude_vector.weight"}),
    "loha": ({"kind": "loha", "rank_stabilised": True}, {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}),
    "lokr": ({"kind": "lokr"}, {"lokr_w1", "lokr_w2_a", "lokr_w2_b"}),
    "lokr-4": ({"kind": "lokr", "factor": 16, "rank": 8}, {"lokr_w1", "lokr_w2"}),
    "full": ({"kind": "full"}, {"diff"}),
    "pissa": ({"init": "pissa", "alpha": 2.0}, {"lora_A.weight", "lora_B.weight"}),
}


@pytest.mark.parametrize(("options", "endings"), KINDS.values(), ids=list(KINDS))
def test_every_kind_goes_through_a_file(
    bundle: Bundle, tmp_path: Path, options: dict[str, Any], endings: set[str]
) -> None:
    generator = torch.Generator().manual_seed(0)
    config = {"rank": 3, "targets": ("attn2.to_k", "conv1"), **options}
    adapters = {"unet": LoRA(bundle.unet, LoRAConfig(**config))}
    for parameter in adapters["unet"].parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    given, file = concept(bundle, adapters), tmp_path / "a.safetensors"
    save_concept(given, file, live=adapters)
    opened = load_concept(file)
    assert same(opened, given)
    save_concept(opened, tmp_path / "b.safetensors")
    assert file.read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    key = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k."
    header = read_header(file)
    assert {name.removeprefix(key) for name in header.tensors if name.startswith(key)} == endings
    assert ("lora_adapter_metadata" in header.metadata) == ("lora_A.weight" in endings)
    used = opened.adapters(bundle)["unet"]
    plain = {name: tensor.clone() for name, tensor in bundle.unet.state_dict().items()}
    with adapters["unet"].merged():
        changed = {name: tensor.clone() for name, tensor in bundle.unet.state_dict().items()}
    with used.merged():
        for name, tensor in bundle.unet.state_dict().items():
            torch.testing.assert_close(tensor, changed[name], atol=1e-6, rtol=1e-5)
    assert sum(not torch.equal(plain[name], changed[name]) for name in plain) == len(used.names)


def test_dora_of_a_convolution_has_the_shape_of_peft(bundle: Bundle, tmp_path: Path) -> None:
    adapters = {"unet": LoRA(bundle.unet, LoRAConfig(2, targets=("conv_in", "to_q"), kind="dora"))}
    save_concept(concept(bundle, adapters), tmp_path / "a.safetensors", live=adapters)
    shapes = {name: info.shape for name, info in read_header(tmp_path / "a.safetensors").tensors.items()}
    assert shapes["unet.conv_in.lora_magnitude_vector.weight"] == (1, bundle.unet.conv_in.out_channels, 1, 1)
    assert all(len(shape) == 1 for name, shape in shapes.items() if name.endswith("to_q.lora_magnitude_vector.weight"))


def test_half_precision_is_smaller_and_checked(bundle: Bundle, tmp_path: Path) -> None:
    given = concept(bundle)
    save_concept(given, tmp_path / "a.safetensors")
    save_concept(given, tmp_path / "b.safetensors", dtype=torch.float16)
    assert (tmp_path / "b.safetensors").stat().st_size < 0.7 * (tmp_path / "a.safetensors").stat().st_size
    rows = load_concept(tmp_path / "b.safetensors").main.rows
    assert rows is not None
    assert given.main.rows is not None
    assert torch.equal(rows, given.main.rows.half().float())


def test_file_that_differs_from_the_live_adapter_is_noticed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = live(bundle)
    given = taken_from(concept(bundle), adapters)
    name = adapters["unet"].names[0]
    with torch.no_grad():
        adapters["unet"].paths[0].down.add_(1e-3)  # type: ignore[operator, union-attr]
    with pytest.raises(CheckpointError, match=f"does not hold what was learned: 'unet.{name}.down' differs"):
        save_concept(given, tmp_path / "a.safetensors", live=adapters)

    def flip(path: Path, tensors: dict[str, Tensor], metadata: Any) -> None:
        key = "sfumato.lora_token_rows"
        write_safetensors(path, {**tensors, key: tensors[key] * 2}, metadata)

    monkeypatch.setattr(concept_file, "write_safetensors", flip)
    with pytest.raises(CheckpointError, match=r"'sfumato\.lora_token_rows' differs"):
        save_concept(given, tmp_path / "b.safetensors")


def test_wrong_base_names_both(bundle: Bundle) -> None:
    other = tiny_bundle(7)
    given = concept(bundle)
    given.check_base(bundle)
    with pytest.raises(WrongBase) as caught:
        given.check_base(replace(other, name="other"))
    for text in ("<fox>", "'tiny'", "'other'", bundle.base_hash[:12], other.base_hash[:12]):
        assert text in str(caught.value)


def rewritten(source: Path, target: Path, **changes: Any) -> Path:
    """Copy a concept with another header object; None removes a key."""
    about = json.loads(read_header(source).metadata["sfumato.concept"]) | changes
    about = {key: value for key, value in about.items() if value is not None}
    write_safetensors(target, read_safetensors(source), {"sfumato.concept": json.dumps(about)})
    return target


def test_a_file_of_one_word_from_before_there_were_kinds_is_read(bundle: Bundle, tmp_path: Path) -> None:
    given, file = concept(bundle), tmp_path / "a.safetensors"
    given = replace(given, words=given.words[:1])
    save_concept(given, file)
    about = json.loads(read_header(file).metadata["sfumato.concept"])
    configs = {
        part: {k: v for k, v in one.items() if k not in ("kind", "factor")} for part, one in about["configs"].items()
    }
    opened = load_concept(rewritten(file, tmp_path / "old.safetensors", configs=configs, further=None))
    assert same(opened, given)


def test_what_is_no_concept_is_named(bundle: Bundle, tmp_path: Path) -> None:
    good, other = tmp_path / "good.safetensors", tmp_path / "other.safetensors"
    save_concept(concept(bundle), good)
    with pytest.raises(UnknownFormat, match="concept format 2; this version of sfumato reads up to 1"):
        load_concept(rewritten(good, other, version=2))
    with pytest.raises(CheckpointError, match="damaged concept file.*placeholder"):
        load_concept(rewritten(good, other, placeholder=None))
    with pytest.raises(CheckpointError, match="damaged concept file.*text_encoder"):
        load_concept(rewritten(good, other, configs={}))
    for key, kind in (
        ("lora_unet_down.lora_down.weight", "kohya layout"),
        ("model.diffusion_model.out.weight", "single-file Stable Diffusion checkpoint"),
        ("base_model.model.q.lora_A.weight", "PEFT layout"),
        ("unet.q.lora_A.weight", "diffusers layout"),
        ("emb_params", "Textual Inversion embedding"),
    ):
        write_safetensors(other, {key: torch.zeros(1, 1), "x": torch.zeros(1)})
        with pytest.raises(UnknownFormat, match=f"is a .*{kind[:12]}"):
            load_concept(other)
    write_safetensors(other, {"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(UnknownFormat, match="of no known layout"):
        load_concept(other)
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(UnsafeFile, match=r"a\.pt"):
        load_concept(tmp_path / "a.pt")
    good.write_bytes(good.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="truncated"):
        load_concept(good)


def test_output_name_and_place_are_checked(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'fox\.pt' does not") as caught:
        save_concept(concept(bundle), tmp_path / "fox.pt")
    assert caught.value.hint == "Use 'fox.safetensors'."
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Could not write"):
        save_concept(concept(bundle), tmp_path / "file" / "fox.safetensors")


def test_a_word_alone_has_no_strength_and_no_two_become_the_same_words(bundle: Bundle) -> None:
    rex, fido = (
        Concept((LearnedWord(f"<{name}>", noun, f"ohw {noun}"),), {}, {}, bundle.name, bundle.base_hash)
        for name, noun in (("rex", "dog"), ("fido", "cat"))
    )
    pipeline = Pipeline(bundle)
    with pytest.raises(ConfigError, match="<rex> was given the strength 0.3, but it is a word alone"):
        pipeline.using((rex, 0.3)).__enter__()
    with pytest.raises(ConfigError, match="'<fido>' and '<rex>' of two concepts both become 'ohw' in a prompt"):
        pipeline.using((rex, 1.0), (fido, 1.0)).__enter__()
    with pipeline.using((rex, 1.0)):
        assert pipeline.expand("two <rex>s and a <rex>2") == "two ohw dogs and a <rex>2"


def test_files_of_before_are_read(bundle: Bundle, tmp_path: Path) -> None:
    given, file = concept(bundle), tmp_path / "a.safetensors"
    save_concept(given, file)
    tensors = {key.replace("lora_token_rows", "token_rows"): tensor for key, tensor in read_safetensors(file).items()}
    write_safetensors(file, {key: tensor.clone() for key, tensor in tensors.items()}, read_header(file).metadata)
    assert "sfumato.token_rows" in read_header(file).tensors and same(load_concept(file), given)
