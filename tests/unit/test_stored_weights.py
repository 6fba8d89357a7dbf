"""A base whose weights lie as its files have them: the numbers of float32 from half the memory; nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.adapters.lora import LoRA, LoRAConfig
from sfumato.formats.bundle import Bundle, load_bundle, save_bundle
from sfumato.formats.concept import Concept, LearnedWord, taken_from
from sfumato.nn.stored import lies_as_stored
from sfumato.pipeline import Pipeline, Settings
from tiny import tiny_bundle

FEW = Settings(steps=3, batch_size=2)
KINDS: list[dict[str, Any]] = [{"kind": kind} for kind in ("lora", "dora", "loha", "lokr", "full")]
OPTIONS = [*KINDS, {"kind": "dora", "dropout": 0.3}, {"init": "pissa"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    save_bundle(tiny_bundle(), folder)
    return folder


@pytest.fixture
def bundles(folder: Path) -> tuple[Bundle, Bundle]:
    return load_bundle(folder), load_bundle(folder, held_in="stored")


def factors(network: nn.Module, seed: int = 0, **options: Any) -> LoRA:
    source = torch.Generator().manual_seed(seed)
    lora = LoRA(network, LoRAConfig(rank=2, targets=("attention", "*.conv1"), **options), generator=source)
    with torch.no_grad():
        for factor in lora.parameters():
            factor.add_(torch.randn(factor.shape, generator=source) * 0.05)
    return lora


def predict(bundle: Bundle) -> Tensor:
    source = torch.Generator().manual_seed(2)
    x_t, context = torch.randn(2, 4, 8, 8, generator=source), torch.randn(2, 7, 32, generator=source)
    out: Tensor = bundle.unet(x_t, torch.tensor([10, 500]), context)
    return out


def test_products_alone_are_held_and_hash_and_files_are_the_same(
    bundles: tuple[Bundle, Bundle], tmp_path: Path
) -> None:
    plain, held = bundles
    for part, network in held.modules.items():
        exact = plain.modules[part].state_dict()
        for name, module in network.named_modules():
            for own, weight in module.named_parameters(recurse=False):
                is_held = own == "weight" and isinstance(module, nn.Linear | nn.Conv2d)
                assert weight.dtype == (torch.float16 if is_held else torch.float32), f"{part}.{name}.{own}"
                assert torch.equal(weight.float(), exact[f"{name}.{own}"]) and not weight.requires_grad
    assert held.base_hash == plain.base_hash and held.stored_hash is None
    assert held.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    for name, bundle in (("plain", plain), ("held", held)):
        save_bundle(bundle, tmp_path / name)
    for file in (tmp_path / "plain").rglob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "held" / file.relative_to(tmp_path / "plain")).read_bytes()


def test_a_base_in_float32_files_stays_in_float32(tmp_path: Path) -> None:
    save_bundle(tiny_bundle(), tmp_path / "base", torch.float32)
    held = load_bundle(tmp_path / "base", held_in="stored")
    assert {weight.dtype for network in held.modules.values() for weight in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("options", OPTIONS)
def test_every_kind_learns_the_same_bits(bundles: tuple[Bundle, Bundle], options: dict[str, Any]) -> None:
    found = []
    for bundle in bundles:
        lora = factors(bundle.unet, **options)
        lora.train()
        with lora.attached():
            torch.manual_seed(3)
            out = predict(bundle)
            out.square().mean().backward()
        found.append([out.detach(), *(factor.grad for factor in lora.parameters())])
        assert all(weight.grad is None for weight in bundle.unet.parameters())
    for plain, narrow in zip(*found, strict=True):
        assert plain is not None and narrow is not None and torch.equal(plain, narrow)


@pytest.mark.parametrize("options", OPTIONS)
def test_merging_gives_the_same_bits_and_puts_the_16_bits_back(
    bundles: tuple[Bundle, Bundle], options: dict[str, Any]
) -> None:
    held = bundles[1].unet
    before = dict(held.named_parameters())
    found = []
    with torch.no_grad():
        for bundle in bundles:
            first, second = factors(bundle.unet, **options), factors(bundle.unet, seed=5)
            with first.merged():
                alone = predict(bundle)
                with second.merged():
                    found.append((alone, predict(bundle)))
                assert torch.equal(predict(bundle), alone)
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
        assert not torch.equal(*found[0])
        assert torch.equal(predict(bundles[0]), predict(bundles[1]))
    after = dict(held.named_parameters())
    assert after.keys() == before.keys() and all(after[name] is weight for name, weight in before.items())
    assert all(lies_as_stored(held.get_submodule(name)) for name in first.names)


def test_weights_come_back_when_merging_fails_on_the_way(bundles: tuple[Bundle, Bundle]) -> None:
    held = bundles[1].unet
    before, lora = dict(held.named_parameters()), factors(held)
    last = lora.paths[-1]
    last.delta = None  # type: ignore[assignment]
    with pytest.raises(TypeError), lora.merged():
        raise AssertionError("nothing may be drawn with half of the change")
    assert all(weight is before[name] for name, weight in held.named_parameters())
    assert lora.is_active


@torch.no_grad()
def test_pictures_are_the_same_with_a_concept_and_without(bundles: tuple[Bundle, Bundle]) -> None:
    pictures = []
    for bundle in bundles:
        word = LearnedWord("<fox>", "fox", "<fox> fox", torch.full((1, 32), 0.02))
        bare = Concept((word,), factors={}, configs={}, base_name=bundle.name, base_hash=bundle.base_hash)
        learned = {"unet": factors(bundle.unet)}
        pipeline = Pipeline(bundle)
        without = pipeline.images(["a fox"], [0, 1], FEW)
        with pipeline.using((taken_from(bare, learned), 1.0)):
            pictures.append((without, pipeline.images(["a <fox>"], [0, 1], FEW)))
        assert torch.equal(pipeline.images(["a fox"], [0, 1], FEW), without)
    assert all(torch.equal(plain, narrow) for plain, narrow in zip(*pictures, strict=True))
    assert not torch.equal(*pictures[0])
