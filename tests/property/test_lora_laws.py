"""Laws of low-rank adapters: identity at the start, attach and detach, merging, stacking, strength."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sfumato.adapters.lora import Adapted, LoRA, LoRAConfig
from sfumato.adapters.protocol import Adapter
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


ranks, alphas = st.integers(1, 6), st.none() | st.floats(0.5, 32)
target_sets = st.sampled_from([ALL, ("to_q",), ("conv", "words"), ("all", "!to_out.0")])
inits = st.sampled_from(["kaiming", "gaussian"])


@given(ranks, alphas, target_sets, inits, st.floats(-2, 2))
def test_new_adapter_is_the_identity(
    rank: int, alpha: float | None, targets: tuple[str, ...], init: str, strength: float
) -> None:
    config = LoRAConfig(rank, alpha, targets=targets, init=init)
    model = net()
    before = model(TOKENS)
    lora = LoRA(model, config)
    lora.strength = strength
    with lora.attached():
        assert torch.equal(model(TOKENS), before)
    with lora.merged():
        assert torch.equal(model(TOKENS), before)


@given(ranks, target_sets)
def test_detach_gives_back_the_same_objects_and_keys(rank: int, targets: tuple[str, ...]) -> None:
    config = LoRAConfig(rank, targets=targets)
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


@given(st.integers(1, 5), st.floats(0.5, 8), st.booleans(), st.floats(-2, 2), st.booleans())
def test_merged_equals_attached_and_restores_bit_for_bit(
    rank: int, alpha: float, stabilised: bool, strength: float, attach_first: bool
) -> None:
    # In float64: the law is of algebra, and strong random factors in four layers amplify float32's rounding.
    model = net().double()
    lora = trained(model, rank=rank, alpha=alpha, rank_stabilised=stabilised).double()
    lora.strength = strength
    before = copy.deepcopy(model.state_dict())
    with lora.attached():
        attached = model(TOKENS)
    if attach_first:
        lora.attach()
    with lora.merged():
        torch.testing.assert_close(model(TOKENS), attached, atol=1e-9, rtol=1e-9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if attach_first:
        assert torch.equal(model(TOKENS), attached)


def test_merging_is_undone_when_the_block_fails() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt), trained(model).merged():
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_stacked_adapters_add_up_and_detach_in_any_order(order: tuple[int, ...]) -> None:
    model = net()
    modules, before = dict(model.named_modules()), model(TOKENS)
    adapters = [trained(model, seed, rank=seed) for seed in (1, 2, 3)]
    for adapter in adapters:
        adapter.attach()
    stacked = model(TOKENS)
    with adapters[0].merged(), adapters[2].merged():
        torch.testing.assert_close(model(TOKENS), stacked, atol=1e-4, rtol=1e-4)
    for index in order[:2]:
        adapters[index].detach()
    last = model(TOKENS)
    adapters[order[2]].detach()
    assert torch.equal(model(TOKENS), before)
    with adapters[order[2]].attached():
        assert torch.equal(model(TOKENS), last)
    assert all(module is modules[name] for name, module in model.named_modules())


def test_strength_scales_the_change_of_a_linear_layer() -> None:
    layer = nn.Sequential(nn.Linear(4, 3))
    lora = trained(layer, rank=2)
    x = torch.randn(5, 4)
    base = layer(x)
    lora.attach()
    full = layer(x) - base
    for strength in (0.0, 0.25, -1.0, 3.0):
        lora.strength = strength
        torch.testing.assert_close(layer(x) - base, full * strength, atol=1e-5, rtol=1e-4)


def test_only_the_factors_learn_and_the_base_stays_bit_identical() -> None:
    model = net().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    lora = LoRA(model, LoRAConfig(rank=2, targets=ALL))
    lora.attach()
    optimizer = torch.optim.AdamW([*model.parameters(), *lora.parameters()], lr=0.1, weight_decay=0.1)
    outputs = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(TOKENS).square().sum()
        loss.backward()
        optimizer.step()
        outputs.append(loss.item())
    assert outputs[-1] < outputs[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_no_adapter_tensor_is_in_the_base_and_no_base_tensor_in_the_adapter() -> None:
    model = net()
    lora = trained(model)
    lora.attach()
    base = {id(parameter) for parameter in model.parameters()}
    own = {id(parameter) for parameter in lora.parameters()}
    assert not base & own
    assert len(own) == 2 * len(lora.names) == len(lora.state())
    assert isinstance(lora, Adapter)


def test_dropout_acts_in_training_mode_of_the_adapter_only() -> None:
    model = nn.Sequential(nn.Linear(64, 8))
    lora = trained(model, dropout=0.5)
    lora.attach()
    x = torch.randn(2, 64)
    assert torch.equal(model(x), model(x))
    lora.train()
    assert not torch.equal(model(x), model(x))


def test_moving_the_model_moves_the_factors() -> None:
    model = net()
    lora = trained(model)
    lora.attach()
    model.double()
    assert model(TOKENS).dtype == torch.float64
    assert {parameter.dtype for parameter in lora.parameters()} == {torch.float64}
    assert model.to_q.weight is model.to_q.base.weight


def test_a_copied_model_keeps_its_shared_registries() -> None:
    model = net()
    trained(model).attach()
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
        ({"init": "svd"}, "init is 'svd'"),
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
