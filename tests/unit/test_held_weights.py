"""Frozen weights held in bf16: the numbers of autocast over float32 weights, from half the memory; nothing is lost."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.adapters.lora import Adapted, LoRA, LoRAConfig
from sfumato.errors import AdapterError, CheckpointError, ConfigError
from sfumato.formats.bundle import Bundle, load_bundle, save_bundle
from sfumato.formats.concept import Concept, LearnedWord, taken_from
from sfumato.models.unet import UNet
from sfumato.operations.pictures import draw
from sfumato.operations.replay import replay
from sfumato.pipeline import Pipeline, Settings
from sfumato.requests import GenerateRequest, ReplayRequest
from sfumato.runtime.precision import computing_in, hold
from sfumato.training.learn_config import LearnConfig
from sfumato.training.personalise import learn
from tiny import tiny_bundle

CPU = torch.device("cpu")
FEW = Settings(steps=3, batch_size=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    save_bundle(tiny_bundle(), folder, torch.float32)
    return folder


@pytest.fixture
def held(folder: Path) -> Bundle:
    return load_bundle(folder, held_in="bf16")


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def random_factors(network: nn.Module, **options: Any) -> LoRA:
    lora = LoRA(network, LoRAConfig(rank=2, **options), generator=torch.Generator().manual_seed(0))
    draw_from = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for factor in lora.parameters():
            factor.add_(torch.randn(factor.shape, generator=draw_from) * 0.05)
    return lora


def test_products_alone_are_held_and_the_hash_is_that_of_the_files(folder: Path, held: Bundle) -> None:
    plain = load_bundle(folder)
    assert (held.held_in, plain.held_in) == ("bf16", "fp32")
    assert held.base_hash == plain.base_hash and held.stored_hash is not None and plain.stored_hash is None
    for part, network in held.modules.items():
        exact = plain.modules[part].state_dict()
        for name, module in network.named_modules():
            for own, weight in module.named_parameters(recurse=False):
                full = exact[f"{name}.{own}"]
                rounded = own == "weight" and isinstance(module, nn.Linear | nn.Conv2d) and part != "autoencoder"
                assert weight.dtype == (torch.bfloat16 if rounded else torch.float32), f"{part}.{name}.{own}"
                assert torch.equal(weight, full.bfloat16() if rounded else full) and not weight.requires_grad
    assert held.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)


def test_flags_are_kept() -> None:
    layer = nn.Linear(3, 2)
    hold(layer)
    assert layer.weight.dtype == torch.bfloat16 and layer.weight.requires_grad


@pytest.mark.parametrize(
    "options", [{"kind": kind} for kind in ("lora", "dora", "loha", "lokr", "full")] + [{"init": "pissa"}]
)
def test_every_kind_learns_as_over_float32_weights(folder: Path, held: Bundle, options: dict[str, Any]) -> None:
    found = []
    state: dict[str, Tensor] = {}
    for bundle in (load_bundle(folder), held):
        lora = random_factors(bundle.unet, targets=("attention", "*.conv1"), **options)
        state = state or {name: tensor.detach().clone() for name, tensor in lora.state().items()}
        lora.load_state(state)  # DoRA and PiSSA start from the weights themselves
        lora.attach()
        source = torch.Generator().manual_seed(2)
        x_t, context = torch.randn(2, 4, 8, 8, generator=source), torch.randn(2, 7, 32, generator=source)
        with computing_in("bf16", CPU):
            out = bundle.unet(x_t, torch.tensor([10, 500]), context)
        out.float().square().mean().backward()
        assert all(weight.grad is None for weight in bundle.unet.parameters())
        factors = dict(lora.named_parameters())
        assert {factor.dtype for factor in factors.values()} == {torch.float32}
        found.append([out.detach(), *(factor.grad for factor in factors.values())])
        lora.detach()
    for plain, rounded in zip(*found, strict=True):
        assert rounded is not None and rounded.dtype == plain.dtype and rounded.any()
        assert torch.equal(plain, rounded) or options.get("kind") == "dora"
    for part in (slice(1), slice(1, None)):  # lengths of DoRA are those of the weights as they are held
        plain, rounded = (torch.cat([tensor.float().flatten() for tensor in side[part]]) for side in found)
        assert float((rounded - plain).norm()) < 0.1 * float(plain.norm())


def test_dora_starts_as_the_base_and_pissa_from_float32_values(held: Bundle) -> None:
    for options in ({"kind": "dora"}, {"init": "pissa"}):
        lora = LoRA(held.unet, LoRAConfig(rank=2, **options))  # type: ignore[arg-type]
        x_t, context = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 32)
        with torch.no_grad(), computing_in("bf16", CPU):
            before = held.unet(x_t, torch.tensor([10]), context)
            with lora.attached():
                assert torch.equal(held.unet(x_t, torch.tensor([10]), context), before)
        assert {tensor.dtype for tensor in lora.state().values()} == {torch.float32}


def test_merging_into_rounded_weights_is_refused(held: Bundle) -> None:
    before, lora = weights(held.unet), random_factors(held.unet)
    with pytest.raises(AdapterError, match=rf"'{lora.names[0]}' is held in torch\.bfloat16") as caught, lora.merged():
        pass
    assert "Attach the adapter" in str(caught.value.hint)
    assert all(torch.equal(tensor, before[name]) for name, tensor in held.unet.state_dict().items())
    assert lora.is_active


def concept_for(bundle: Bundle) -> Concept:
    word = LearnedWord("<fox>", "fox", "<fox> fox", torch.full((1, 32), 0.02))
    bare = Concept((word,), factors={}, configs={}, base_name=bundle.name, base_hash=bundle.base_hash)
    return taken_from(bare, {part: random_factors(bundle.modules[part]) for part in ("unet", "text_encoder")})


@torch.no_grad()
def test_a_concept_draws_on_held_weights_as_on_float32_and_leaves_them(folder: Path, held: Bundle) -> None:
    before = {part: weights(network) for part, network in held.modules.items()}
    plain = load_bundle(folder)
    concept, pictures = concept_for(plain), []
    for bundle in (plain, held):
        pipeline = Pipeline(bundle)
        without = pipeline.images(["a fox"], [0, 1], FEW)
        with pipeline.using((concept, 1.0)):
            pictures.append(pipeline.images(["a <fox>"], [0, 1], FEW))
        assert torch.equal(pipeline.images(["a fox"], [0, 1], FEW), without)
        assert float((pictures[-1] - without).abs().mean()) > 0.01
        assert pictures[-1].dtype == torch.float32
    assert not torch.equal(*pictures)
    assert float((pictures[0] - pictures[1]).abs().mean()) < 0.05
    for part, network in held.modules.items():
        assert all(torch.equal(tensor, before[part][name]) for name, tensor in network.state_dict().items())
        assert not any(isinstance(module, Adapted) for module in network.modules())


def test_a_picture_drawn_with_held_weights_is_drawn_again(folder: Path, held: Bundle, tmp_path: Path) -> None:
    request = GenerateRequest(prompt="a fox", base=str(folder), steps=2)
    (picture,) = [event for event in draw(request, Pipeline(held)) if hasattr(event, "recipe")]
    assert picture.recipe["base"]["held_in"] == "bf16"  # type: ignore[union-attr]
    path = picture.save(tmp_path / "fox.png")  # type: ignore[union-attr]
    list(replay(ReplayRequest(picture=path)))
    (plain,) = [event for event in draw(request) if hasattr(event, "recipe")]
    assert "held_in" not in plain.recipe["base"]  # type: ignore[union-attr]


def test_rounded_weights_are_not_saved_as_a_base(held: Bundle, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'tiny' are held in bf16, rounded for learning; needed: fp32"):
        save_bundle(held, tmp_path / "base")
    assert not (tmp_path / "base").exists()


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"precision": "fp32"}, "method 'lora' with precision 'fp32' needs fp32 or stored"),
        ({"method": "dreambooth"}, "method 'dreambooth' with precision 'bf16' needs fp32"),
    ],
)
def test_a_lesson_that_needs_float32_is_refused(
    held: Bundle, tmp_path: Path, changes: dict[str, Any], needed: str
) -> None:
    values = {"folder": tmp_path, "placeholder": "<fox>", "class_noun": "fox", "output": tmp_path / "a.safetensors"}
    config = LearnConfig(**{**values, "precision": "bf16", **changes})
    with pytest.raises(ConfigError, match=rf"'tiny' are held in bf16, but {needed}"):
        list(learn(config, held, tmp_path / "run"))


def test_computing_reaches_every_part_of_the_network() -> None:
    unet = UNet(tiny_bundle().unet.config)
    held = copy.deepcopy(unet)
    hold(held)
    x_t, context = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 32)
    with torch.no_grad(), computing_in("bf16", CPU):
        plain = unet(x_t, torch.tensor([1, 9]), unet.prepare_context(context))
        assert torch.equal(held(x_t, torch.tensor([1, 9]), held.prepare_context(context)), plain)
    sizes = [sum(weight.nbytes for weight in network.parameters()) for network in (unet, held)]
    assert sizes[1] < 0.52 * sizes[0]
