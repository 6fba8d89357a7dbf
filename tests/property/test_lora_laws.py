"""Laws of low-rank adapters: identity at the start, attach and detach, merging, stacking, strength."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sfumato.adapters.config import KindName, LoRAConfig
from sfumato.adapters.kinds import KINDS
from sfumato.adapters.lora import Adapted, LoRA
from sfumato.adapters.products import split_size
from sfumato.errors import AdapterError, ConfigError


class Net(nn.Module):
    """A word embedding, a convolution and two linear layers, one of them inside a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 6)
        self.conv = nn.Conv2d(6, 4, 3, stride=2, padding=2, dilation=2, bias=False)
        self.to_q = nn.Linear(4, 5)
        self.to_out = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Dropout(0.5))

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.conv(self.words(tokens).permute(0, 3, 1, 2))
        out: Tensor = self.to_out(self.to_q(h.permute(0, 2, 3, 1)))
        return out


TOKENS = torch.arange(50).reshape(2, 5, 5) % 7
ALL = ("all",)


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().eval()


def trained(model: nn.Module, seed: int = 1, **options: object) -> LoRA:
    """An adapter whose factors are all different from zero."""
    generator = torch.Generator().manual_seed(seed)
    lora = LoRA(model, LoRAConfig(targets=ALL, **options), generator=generator)
    with torch.no_grad():
        for parameter in lora.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return lora


VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"init": "gaussian"},
    {"init": "pissa"},
    {"kind": "dora"},
    {"kind": "dora", "init": "pissa"},
    {"kind": "loha"},
    {"kind": "loha", "init": "gaussian"},
    {"kind": "lokr"},
    {"kind": "lokr", "init": "gaussian", "factor": 2},
    {"kind": "full"},
)
"""Every kind with every start that it has."""


def options(variant: dict[str, Any], **others: Any) -> dict[str, Any]:
    """Options of a variant, without a scale where there is none."""
    if variant.get("kind") == "full":
        others = {name: value for name, value in others.items() if name not in ("alpha", "rank_stabilised")}
    return {**others, **variant}


ranks, alphas = st.integers(1, 3), st.none() | st.floats(0.5, 32)
variants = st.sampled_from(VARIANTS)
every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: "-".join(map(str, variant.values())))
target_sets = st.sampled_from([ALL, ("to_q",), ("conv", "words"), ("all", "!to_out.0")])


def test_every_kind_has_a_variant() -> None:
    assert {variant.get("kind", "lora") for variant in VARIANTS} == set(KINDS) == set(get_args(KindName))


@given(ranks, alphas, target_sets, variants, st.floats(-2, 2))
def test_new_adapter_is_the_identity(
    rank: int, alpha: float | None, targets: tuple[str, ...], variant: dict[str, Any], strength: float
) -> None:
    config = LoRAConfig(**options(variant, rank=rank, alpha=alpha, targets=targets))
    model = net()
    before = model(TOKENS)
    lora = LoRA(model, config)
    lora.strength = strength
    with lora.attached():
        assert torch.equal(model(TOKENS), before)
    with lora.merged():
        assert torch.equal(model(TOKENS), before)


@given(ranks, target_sets, variants)
def test_detach_gives_back_the_same_objects_and_keys(
    rank: int, targets: tuple[str, ...], variant: dict[str, Any]
) -> None:
    config = LoRAConfig(rank, targets=targets, **variant)
    model = net()
    modules = dict(model.named_modules())
    keys = {name: id(tensor) for name, tensor in model.named_parameters()}
    values = copy.deepcopy(model.state_dict())
    lora = LoRA(model, config)
    lora.attach()
    assert list(model.state_dict()) == list(values)
    assert {name: id(tensor) for name, tensor in model.named_parameters()} == keys
    assert all(isinstance(model.get_submodule(name), Adapted) for name in lora.names)
    lora.detach()
    after = dict(model.named_modules())
    assert after.keys() == modules.keys()
    assert all(after[name] is module for name, module in modules.items())
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())


@given(variants, ranks, st.floats(0.5, 8), st.booleans(), st.floats(-2, 2), st.booleans())
def test_merged_equals_attached_and_restores_bit_for_bit(
    variant: dict[str, Any], rank: int, alpha: float, stabilised: bool, strength: float, attach_first: bool
) -> None:
    # In float64: the law is of algebra, and strong random factors in four layers amplify float32's rounding.
    model = net().double()
    lora = trained(model, **options(variant, rank=rank, alpha=alpha, rank_stabilised=stabilised)).double()
    lora.strength = strength
    before = copy.deepcopy(model.state_dict())
    with lora.attached():
        attached = model(TOKENS)
    if attach_first:
        lora.attach()
    with lora.merged():
        torch.testing.assert_close(
            model(TOKENS), attached, atol=1e-9 * max(1.0, float(attached.detach().abs().max())), rtol=1e-9
        )
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if attach_first:
        assert torch.equal(model(TOKENS), attached)


@every_variant
def test_merging_is_undone_when_the_block_fails(variant: dict[str, Any]) -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt), trained(model, rank=2, **variant).merged():
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_stacked_adapters_add_up_and_detach_in_any_order(order: tuple[int, ...]) -> None:
    model = net().double()
    modules, before = dict(model.named_modules()), model(TOKENS)
    kinds = ("lora", "dora", "dora")  # the second DoRA must measure the plain weight, not the one merged before it
    adapters = [trained(model, seed, rank=seed, kind=kinds[seed - 1]).double() for seed in (1, 2, 3)]
    for adapter in adapters:
        adapter.attach()
    stacked = model(TOKENS)
    for first, second in itertools.permutations(adapters, 2):
        with first.merged(), second.merged():
            torch.testing.assert_close(model(TOKENS), stacked, atol=1e-8, rtol=1e-8)
    for index in order[:2]:
        adapters[index].detach()
    last = model(TOKENS)
    adapters[order[2]].detach()
    assert torch.equal(model(TOKENS), before)
    with adapters[order[2]].attached():
        assert torch.equal(model(TOKENS), last)
    assert all(module is modules[name] for name, module in model.named_modules())


@every_variant
def test_strength_scales_the_change_of_a_linear_layer(variant: dict[str, Any]) -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    lora = trained(layer, rank=2, **variant)
    x = torch.randn(5, 4)
    base = layer(x)
    lora.attach()
    full = layer(x) - base
    for strength in (0.0, 0.25, -1.0, 3.0):
        lora.strength = strength
        torch.testing.assert_close(layer(x) - base, full * strength, atol=1e-5, rtol=1e-4)


@every_variant
def test_only_the_factors_learn_and_the_base_stays_bit_identical(variant: dict[str, Any]) -> None:
    model = net().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    lora = LoRA(model, LoRAConfig(rank=2, targets=ALL, **variant))
    lora.attach()
    start = copy.deepcopy(lora.state_dict())
    optimizer = torch.optim.AdamW([*model.parameters(), *lora.parameters()], lr=0.03, weight_decay=0.1)
    outputs = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model(TOKENS).square().sum()
        loss.backward()
        optimizer.step()
        outputs.append(loss.item())
    assert outputs[-1] < outputs[0]
    moved = {name for name, tensor in lora.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved == {name for name, _ in lora.named_parameters()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_no_adapter_tensor_is_in_the_base_and_no_base_tensor_in_the_adapter() -> None:
    model = net()
    lora = trained(model)
    lora.attach()
    base = {id(parameter) for parameter in model.parameters()}
    own = {id(parameter) for parameter in lora.parameters()}
    assert not base & own
    assert len(own) == 2 * len(lora.names) == len(lora.state())


@every_variant
def test_dropout_acts_in_training_mode_of_the_adapter_only(variant: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(64, 8))
    lora = trained(model, dropout=0.5, rank=4, **variant)
    lora.attach()
    x = torch.randn(2, 64)
    assert torch.equal(model(x), model(x))
    lora.train()
    assert not torch.equal(model(x), model(x))


@every_variant
def test_moving_the_model_moves_the_factors(variant: dict[str, Any]) -> None:
    model = net()
    lora = trained(model, rank=2, **variant)
    lora.attach()
    model.double()
    assert model(TOKENS).dtype == torch.float64
    assert {tensor.dtype for tensor in lora.state_dict().values()} == {torch.float64}
    assert model.to_q.weight is model.to_q.base.weight


@every_variant
def test_a_copied_model_keeps_its_shared_registries(variant: dict[str, Any]) -> None:
    model = net()
    trained(model, rank=2, **variant).attach()
    twin = copy.deepcopy(model)
    assert torch.equal(twin(TOKENS), model(TOKENS))
    with torch.no_grad():
        twin.to_q.weight.zero_()
    assert twin.to_q.base.weight.abs().sum() == 0
    assert model.to_q.weight.abs().sum() > 0


def test_wrapper_answers_for_its_base_and_is_printed() -> None:
    model = net()
    trained(model, rank=3).attach()
    assert model.to_q.out_features == 5
    assert "Adapted" in str(model)
    assert "rank=3" in str(model)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = model.to_q.nothing


@every_variant
def test_state_and_what_a_file_holds_give_the_same_output(variant: dict[str, Any]) -> None:
    model = net().double()
    lora = trained(model, 1, rank=2, **variant).double()
    with lora.attached():
        expected = model(TOKENS)
    same = trained(model, 2, rank=2, **variant).double()
    same.load_state(lora.state())
    with same.attached():
        assert torch.equal(model(TOKENS), expected)
    opened = LoRA(model, replace(lora.config.stored, targets=lora.names)).double()
    opened.load_state(lora.stored())
    with opened.attached():
        torch.testing.assert_close(model(TOKENS), expected, atol=1e-9, rtol=1e-9)


def test_sizes_of_what_learns() -> None:
    """Numbers for a 24 x 40 layer at rank 2, from the formulas of each kind."""
    expected = {"lora": 2 * 64, "dora": 2 * 64 + 24, "loha": 4 * 64, "lokr": 4 * 5 + 2 * (6 + 8), "full": 24 * 40}
    for kind, count in expected.items():
        lora = LoRA(nn.Sequential(nn.Linear(40, 24)), LoRAConfig(rank=2, targets=ALL, kind=kind))
        assert sum(parameter.numel() for parameter in lora.parameters()) == count


def test_a_higher_rank_of_lokr_has_the_second_matrix_whole() -> None:
    lora = LoRA(nn.Sequential(nn.Conv2d(8, 6, 3)), LoRAConfig(rank=2, targets=ALL, kind="lokr"))
    assert {name: tuple(tensor.shape) for name, tensor in lora.state().items()} == {
        "0.lokr_w1": (2, 2),
        "0.lokr_w2": (3, 4, 3, 3),
    }


@given(st.integers(1, 4096), st.none() | st.integers(1, 64))
def test_a_size_is_split_into_two_factors(size: int, factor: int | None) -> None:
    first, second = split_size(size, factor)
    assert first * second == size
    if factor is not None and size % factor == 0:
        assert first == factor
    else:
        limit = min(math.isqrt(size), factor or size)
        assert first <= limit and not any(size % number == 0 for number in range(first + 1, limit + 1))


def test_pissa_starts_with_the_largest_singular_values() -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    lora = LoRA(model, LoRAConfig(rank=2, alpha=6.0, targets=ALL, init="pissa"))
    down, up = lora.state()["0.down"], lora.state()["0.up"]
    left, values, right = torch.linalg.svd(model[0].weight.detach())
    torch.testing.assert_close(3.0 * up @ down, left[:, :2] @ torch.diag(values[:2]) @ right[:2])
    with pytest.raises(AdapterError, match=r"needs 6 singular values; a layer of shape \(5, 6\) has 5"):
        LoRA(model, LoRAConfig(rank=6, targets=ALL, init="pissa"))


def test_dora_leaves_rows_of_zeros_finite() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1] = 0.0
    lora = LoRA(model, LoRAConfig(rank=2, targets=ALL, kind="dora"))
    lora.attach()
    model(torch.randn(2, 4)).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in lora.parameters())


def test_the_length_of_a_row_of_dora_is_its_magnitude() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    lora = trained(model, rank=2, kind="dora")
    with lora.merged():
        torch.testing.assert_close(model[0].weight.norm(dim=1), lora.state()["0.magnitude"].abs())


def test_state_round_trip_and_its_errors() -> None:
    model = net()
    lora, other = trained(model, 1, rank=2), trained(model, 2, rank=2)
    other.load_state({name: tensor.clone() for name, tensor in lora.state().items()})
    assert all(torch.equal(tensor, lora.state()[name]) for name, tensor in other.state().items())
    assert "to_q.down" in lora.state()
    assert lora.state()["to_q.down"].shape == (2, 4)
    assert lora.state()["to_q.up"].shape == (5, 2)
    wrong = dict(lora.state())
    wrong["to_x.up"] = wrong.pop("to_q.up")
    with pytest.raises(AdapterError, match=r"1 are absent \(to_q\.up\), 1 are unknown \(to_x\.up\)"):
        other.load_state(wrong)
    with pytest.raises(AdapterError, match=r"'words\.down' has shape \(2, 7\), the adapter needs \(3, 7\)"):
        trained(model, rank=3).load_state(lora.state())


def test_attaching_twice_and_detaching_twice_are_errors() -> None:
    lora = trained(net(), rank=4)
    with pytest.raises(AdapterError, match="not attached"):
        lora.detach()
    lora.attach()
    assert lora.is_attached
    with pytest.raises(AdapterError, match=r"\(rank 4, 4 modules\) is already attached"):
        lora.attach()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"init": "svd"}, "init is 'svd'; it must be one of kaiming, gaussian, pissa"),
        ({"kind": "ia3"}, "adapter is 'ia3'; it must be one of lora, dora, loha, lokr, full"),
        ({"init": "pissa", "kind": "loha"}, "init is 'pissa' but the adapter is 'loha'"),
        ({"alpha": 2.0, "kind": "full"}, "alpha is 2.0 and rank_stabilised is False, but the adapter 'full'"),
        ({"factor": 2}, "factor is 2 and the adapter 'lora'"),
        ({"factor": 0, "kind": "lokr"}, "factor is 0 and the adapter 'lokr'"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoRAConfig(**options)


def test_convolutions_that_lora_cannot_change_are_named() -> None:
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(AdapterError, match="2 groups and 'zeros' padding"):
        LoRA(grouped, LoRAConfig(targets=ALL))
    mirrored = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(AdapterError, match="1 groups and 'reflect' padding"):
        LoRA(mirrored, LoRAConfig(targets=ALL))


def test_same_generator_gives_the_same_factors() -> None:
    first, second = (
        LoRA(net(), LoRAConfig(targets=ALL), generator=torch.Generator().manual_seed(5)).state() for _ in range(2)
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    bound = 1 / 4**0.5
    assert 0 < first["to_q.down"].abs().max() <= bound
