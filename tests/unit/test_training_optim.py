"""Learning rates, groups, Muon, moving averages."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from sfumato.adapters.tokens import TokenRows
from sfumato.errors import ConfigError
from sfumato.training.ema import Ema, EmaConfig
from sfumato.training.optim import OptimConfig, build_optimizers, lr_factor
from sfumato.training.optim_own import AdamW, Muon, orthogonalized


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("constant", 0, 0.25),
        ("constant", 3, 1.0),
        ("constant", 99, 1.0),
        ("cosine", 4, 1.0),
        ("cosine", 52, 0.1 + 0.9 * 0.5),
        ("cosine", 100, 0.1),
        ("linear", 52, 0.1 + 0.9 * 0.5),
        ("trapezoid", 79, 1.0),
        ("trapezoid", 90, 0.1 + 0.9 * 0.5),
        ("trapezoid", 3, 1.0),
    ],
)
def test_learning_rate_follows_its_schedule(schedule: str, step: int, expected: float) -> None:
    config = OptimConfig(schedule=schedule, warmup_steps=4, decay_steps=20, final_lr=0.1)  # type: ignore[arg-type]
    assert lr_factor(config, step, 100) == pytest.approx(expected)


def test_no_schedule_leaves_its_range_beyond_the_end() -> None:
    for schedule in ("cosine", "linear", "trapezoid"):
        config = OptimConfig(schedule=schedule, final_lr=0.2, decay_steps=5)  # type: ignore[arg-type]
        assert lr_factor(config, 1000, 10) == pytest.approx(0.2)


class Net(nn.Module):
    """One weight of every sort."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token_embedding = nn.Embedding(5, 4)
        self.conv_in = nn.Conv2d(3, 8, 3)
        self.body = nn.Conv2d(8, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 6)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def decays(net: Net, config: OptimConfig) -> dict[str, float]:
    optimizers = build_optimizers({"net": net}, config)
    return {
        optimizers.names[weight]: group["weight_decay"]
        for part in optimizers.parts
        for group in part.param_groups
        for weight in group["params"]
    }


def test_norms_biases_and_embeddings_do_not_decay_unless_asked() -> None:
    plain = decays(Net(), OptimConfig(weight_decay=0.1))
    assert {name for name, decay in plain.items() if decay} == {
        "net.conv_in.weight",
        "net.body.weight",
        "net.linear.weight",
    }
    assert not any("frozen" in name for name in plain)
    assert set(decays(Net(), OptimConfig(weight_decay=0.1, decay_all=True)).values()) == {0.1}


def test_muon_takes_inner_matrices_and_kernels_only() -> None:
    optimizers = build_optimizers({"net": Net()}, OptimConfig(name="muon", lr=1e-3, muon_lr=5e-3))
    muon = next(part for part in optimizers.parts if isinstance(part, Muon))
    names = {optimizers.names[weight] for weight in muon.param_groups[0]["params"]}
    assert names == {"net.body.weight", "net.linear.weight"}
    assert muon.param_groups[0]["peak_lr"] == 5e-3


def test_every_option_reaches_its_optimizer() -> None:
    config = OptimConfig(name="muon", lr=3e-4, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.2, muon_momentum=0.7)
    adam, muon = build_optimizers({"net": Net()}, config).parts
    group = adam.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (3e-4, (0.8, 0.9), 1e-6, 0.2)
    assert (muon.param_groups[0]["momentum"], muon.param_groups[0]["weight_decay"]) == (0.7, 0.2)


def test_set_lr_scales_every_group_from_its_own_peak() -> None:
    optimizers = build_optimizers({"net": Net()}, OptimConfig(name="muon", lr=1e-3, muon_lr=4e-3, warmup_steps=4))
    assert optimizers.set_lr(1, 10) == pytest.approx(5e-4)
    assert optimizers.parts[1].param_groups[0]["lr"] == pytest.approx(2e-3)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (9, 9)])
def test_orthogonalized_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalized(matrices))
    assert values.min() > 0.5 and values.max() < 1.3
    assert torch.linalg.svdvals(orthogonalized(matrices * 1000)).max() < 1.3


def test_muon_moves_each_weight_as_if_it_were_alone() -> None:
    shapes = ((6, 4), (4, 6), (6, 2, 2, 1), (6, 4))
    together = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    alone = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    optimizer = Muon(together, lr=1.0)
    singles = [Muon([weight], lr=1.0) for weight in alone]
    for step in range(2):
        for number, pair in enumerate(zip(together, alone, strict=True)):
            gradient = torch.randn(shapes[number], generator=torch.Generator().manual_seed(10 * step + number))
            for weight in pair:
                weight.grad = gradient.clone()
        optimizer.step()
        for single in singles:
            single.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def test_muon_update_has_the_size_of_an_adam_update() -> None:
    weight = nn.Parameter(torch.zeros(64, 32, 3, 3))
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    Muon([weight], lr=1.0).step()
    assert 0.1 < float(weight.detach().square().mean().sqrt()) < 0.3


def test_muon_decays_weights_apart_from_the_gradient() -> None:
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 4), 0.95))


def test_adamw_takes_the_steps_of_torch_bit_for_bit() -> None:
    torch.manual_seed(0)
    start = [torch.randn(5, 3), torch.randn(7), torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)]
    ours, theirs = ([nn.Parameter(weight.clone()) for weight in start] for _ in range(2))

    def groups(weights: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": weights[:1], "weight_decay": 0.3}, {"params": weights[1:]}]

    own = AdamW(groups(ours), lr=0.1, betas=(0.8, 0.9), eps=1e-3)
    reference = torch.optim.AdamW(groups(theirs), 0.1, (0.8, 0.9), 1e-3, weight_decay=0.0, fused=True)
    for number in range(4):
        gradients = [torch.randn_like(weight) for weight in start]
        for weights in (ours, theirs):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient.clone()
            weights[1].grad = None if number == 0 else weights[1].grad
        own.param_groups[1]["lr"] = reference.param_groups[1]["lr"] = 0.1 / (1 + number)
        own.step()
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other) and mine.stride() == other.stride()
        assert own.state[mine].keys() == reference.state[other].keys()
        assert all(torch.equal(own.state[mine][key], reference.state[other][key]) for key in own.state[mine])
    own.zero_grad()
    assert all(weight.grad is None for weight in ours)


def test_the_usual_optimizers_do_without_the_compiler() -> None:
    program = (
        "import sys, torch\n"
        "from sfumato.training.optim import OptimConfig, build_optimizers\n"
        "for name in ('adamw', 'muon'):\n"
        "    net = torch.nn.Sequential(torch.nn.Linear(3, 3))\n"
        "    made = build_optimizers({'net': net}, OptimConfig(name=name))\n"
        "    net(torch.ones(1, 3)).sum().backward()\n"
        "    made.set_lr(0, 1), made.step(), made.zero_grad()\n"
        "sys.exit('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_nothing_trainable_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"Nothing to train: no weight of head requires"):
        build_optimizers({"head": nn.Linear(2, 2).requires_grad_(False)}, OptimConfig())


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_of_an_optimizer_goes_round_bit_for_bit(name: str) -> None:
    def stepped(net: Net, start: dict[str, torch.Tensor] | None, steps: int) -> dict[str, torch.Tensor]:
        optimizers = build_optimizers({"net": net}, OptimConfig(name=name, lr=1e-2))  # type: ignore[arg-type]
        if start is not None:
            optimizers.load_state_dict(start)
        for _ in range(steps):
            optimizers.zero_grad()
            loss = net.linear(net.norm(net.body(net.conv_in(torch.ones(2, 3, 8, 8)))).mean((2, 3)))
            (loss.square().mean() + net.token_embedding.weight.square().sum()).backward()
            optimizers.step()
        return {key: value.clone() for key, value in optimizers.state_dict().items()}

    whole, halves = Net().to(memory_format=torch.channels_last), Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    stepped(whole, None, 4)
    stepped(halves, stepped(halves, None, 2), 2)
    for a, b in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(a, b)


def test_ema_follows_its_formula_with_and_without_warm_up() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 0.0)
    ema = Ema({"net": net}, EmaConfig(decay=0.9, warmup=True))
    assert ema.decay == pytest.approx(0.1)
    nn.init.constant_(net.weight, 1.0)
    ema.update()
    assert float(ema.state_dict()["net.weight"]) == pytest.approx(0.9)
    assert ema.decay == pytest.approx(2 / 11)
    for _ in range(200):
        ema.update()
    assert ema.decay == 0.9
    assert Ema({"net": net}, EmaConfig(decay=0.9, warmup=False)).decay == 0.9


def test_applied_swaps_and_gives_back_the_same_bits() -> None:
    net = nn.Linear(2, 2)
    ema = Ema({"net": net}, EmaConfig(decay=0.5, warmup=False))
    before = net.weight.detach().clone()
    with torch.no_grad():
        net.weight.add_(1)
    ema.update()
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        torch.testing.assert_close(net.weight.detach(), before + 0.5)
        raise RuntimeError("inside")
    assert torch.equal(net.weight, before + 1)


def test_ema_covers_every_module_and_no_frozen_weight() -> None:
    net = Net()
    names = set(Ema({"unet": net, "text_encoder": nn.Linear(1, 1)}, EmaConfig()).state_dict())
    assert {"unet.body.weight", "text_encoder.weight", "updates"} <= names
    assert not any("frozen" in name for name in names)


def test_ema_state_goes_round() -> None:
    net = nn.Linear(2, 2)
    ema, other = Ema({"net": net}, EmaConfig()), Ema({"net": nn.Linear(2, 2)}, EmaConfig())
    for _ in range(3):
        ema.update()
    other.load_state_dict({key: value.clone() for key, value in ema.state_dict().items()})
    assert other.updates == 3 and math.isclose(other.decay, ema.decay)
    assert torch.equal(other.state_dict()["net.weight"], ema.state_dict()["net.weight"])


def test_a_factor_on_the_learning_rate_reaches_the_weights_that_fit() -> None:
    torch.manual_seed(0)
    modules = {"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)}
    before = {name: [w.detach().clone() for w in module.parameters()] for name, module in modules.items()}
    config = OptimConfig(lr=1e-2, weight_decay=0.0, lr_factors={"b.*": 4.0, "*.bias": 0.5})
    optimizers = build_optimizers(modules, config)
    assert optimizers.set_lr(0, 10) == pytest.approx(1e-2)
    for module in modules.values():
        module(torch.ones(1, 3)).sum().backward()
    optimizers.step()
    way = {
        name: [(w - old).abs().max().item() for w, old in zip(module.parameters(), before[name], strict=True)]
        for name, module in modules.items()
    }  # AdamW's first step is the learning rate
    assert way["a"] == pytest.approx([1e-2, 5e-3], rel=1e-3)
    assert way["b"] == pytest.approx([4e-2, 4e-2], rel=1e-3)  # the first pattern that fits counts
    again = build_optimizers(modules, config)
    again.load_state_dict(optimizers.state_dict())
    assert again.state_dict().keys() == optimizers.state_dict().keys()
    with pytest.raises(ConfigError, match=r"The pattern '\*\.up' of lr_factors fits none of 4 weights") as caught:
        build_optimizers(modules, OptimConfig(lr_factors={"*.up": 2.0}))
    assert "a.weight" in str(caught.value.hint)


def test_a_fall_longer_than_the_run_begins_when_the_warm_up_has_ended() -> None:
    config = OptimConfig(schedule="trapezoid", warmup_steps=4, decay_steps=50, final_lr=0.1)
    assert [lr_factor(config, step, 24) for step in (3, 4)] == [1.0, 1.0]
    assert lr_factor(config, 14, 24) == pytest.approx(0.1 + 0.9 * 0.5)


def test_vectors_of_words_are_no_matrix_to_muon_and_do_not_decay() -> None:
    rows = {"word": TokenRows("<fox>", torch.randn(3, 8))}
    (optimizer,) = build_optimizers(rows, OptimConfig(name="muon", weight_decay=0.1)).parts
    assert isinstance(optimizer, AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0]
