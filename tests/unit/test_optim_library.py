"""Optimizers of other libraries: each learns, resumes bit for bit, and says how to get it when it is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.events import Event, Preview
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.training.loop import train
from sfumato.training.optim import OptimConfig, Optimizers, build_optimizers
from sfumato.training.optim_library import SUITED, OptimizerName
from sfumato.training.task import Task
from training_task import last_checkpoint, notices, short, stop_after, tensor_bytes, tiny_task

LIBRARIES = ("adafactor", "adamw-8bit", "lion", "prodigy", "schedule-free")
MODULES = {"adamw-8bit": "torchao", "lion": "lion_pytorch", "prodigy": "prodigyopt", "schedule-free": "schedulefree"}


class Net(nn.Module):
    """A matrix large enough for moments of 8 bits, one that starts at zero, and what has no matrix."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.wide = nn.Linear(64, 64)
        self.conv = nn.Conv2d(4, 4, 3)
        self.up = nn.Linear(64, 4, bias=False)
        nn.init.zeros_(self.up.weight)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, step: int) -> Tensor:
        """A quadratic with noise that depends on the step."""
        x = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(step))
        h = self.up(self.wide(torch.ones(8, 64) + x.mean((1, 2, 3))[:, None])) + self.conv(x).flatten(1)
        return (h - 1).square().mean()


def config(name: str, **changes: Any) -> OptimConfig:
    suited = {key: value for key, value in SUITED[name].items() if key != "lr_factor"}  # type: ignore[index]
    return OptimConfig.model_validate({"name": name, "lr": 1e-2, **suited, **changes})


def stepped(net: Net, optimizers: Optimizers, first: int, count: int) -> None:
    for step in range(first, first + count):
        optimizers.zero_grad()
        optimizers.set_lr(step, 20)
        net.loss(step).backward()
        optimizers.step()


@pytest.mark.parametrize("name", get_args(OptimizerName))
def test_loss_falls(name: str) -> None:
    net = Net()
    optimizers = build_optimizers({"net": net}, config(name))
    before = float(net.loss(1000).detach())
    stepped(net, optimizers, 0, 60)
    with optimizers.averaged():
        assert float(net.loss(1000).detach()) < 0.9 * before


@pytest.mark.parametrize("name", LIBRARIES)
def test_state_goes_through_a_file_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole, halves, rest = Net(), Net(), Net()
    factors = {} if name == "prodigy" else {"net.up.*": 4.0}  # as LoRA+: more groups than there were
    warm = config(name, warmup_steps=3, weight_decay=0.1, lr_factors=factors)
    ours = build_optimizers({"net": whole}, warm)
    stepped(whole, ours, 0, 7)
    before = build_optimizers({"net": halves}, warm)
    stepped(halves, before, 0, 4)
    write_safetensors(tmp_path / "state.safetensors", before.state_dict())
    rest.load_state_dict(halves.state_dict())
    after = build_optimizers({"net": rest}, warm)
    after.load_state_dict(read_safetensors(tmp_path / "state.safetensors"))
    stepped(rest, after, 4, 3)
    for a, b in zip(whole.parameters(), rest.parameters(), strict=True):
        assert torch.equal(a, b)
    assert ours.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in ours.state_dict().items())


def test_numbers_of_a_library_come_back_as_numbers() -> None:
    net = Net()
    optimizers = build_optimizers({"net": net}, config("prodigy"))
    first = {key: value.clone() for key, value in optimizers.state_dict().items()}
    stepped(net, optimizers, 0, 40)
    group = optimizers.parts[0].param_groups[0]
    found = {key: group[key] for key in ("d", "d_max", "d_numerator", "k")}
    assert found["d"] > 1e-5 and found["k"] == 40
    steps = optimizers.parts[0].state[net.up.weight]["step"]
    later = {key: value.clone() for key, value in optimizers.state_dict().items()}
    optimizers.load_state_dict(first)
    assert (group["d"], group["k"]) == (1e-5, 0) and not optimizers.parts[0].state
    optimizers.load_state_dict(later)
    assert {key: group[key] for key in found} == found
    assert optimizers.parts[0].state[net.up.weight]["step"] == steps == 40
    assert all(type(group[key]) is type(found[key]) for key in found)


def test_moments_of_8_bits_are_small() -> None:
    net = Net()
    optimizers = build_optimizers({"net": net}, config("adamw-8bit"))
    stepped(net, optimizers, 0, 2)
    state = optimizers.state_dict()
    assert state["net.wide.weight/exp_avg.codes"].dtype == torch.uint8
    assert state["net.wide.bias/exp_avg"].dtype == torch.float32
    assert float(optimizers.parts[0].param_groups[0]["lr"]) == pytest.approx(1e-2)


def test_schedule_free_gives_back_the_weights_of_learning_bit_for_bit() -> None:
    net = Net()
    optimizers = build_optimizers({"net": net}, config("schedule-free"))
    stepped(net, optimizers, 0, 5)
    before = [weight.detach().clone() for weight in net.parameters()]
    with pytest.raises(RuntimeError, match="inside"), optimizers.averaged():
        assert not all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        raise RuntimeError("inside")
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    stepped(net, optimizers, 5, 1)  # still learning


def averaging_task(**hooks: Any) -> Task:
    task = tiny_task(optim=config("schedule-free", warmup_steps=2), **hooks)
    task.ema = None
    return task


def test_schedule_free_run_previews_its_average_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def preview(step: int, folder: Path) -> Iterator[Event]:
        yield Preview(step, folder / "before.png")
        seen.append(task.saved["net"].head.weight.detach().clone())  # type: ignore[union-attr, operator]
        yield Preview(step, folder / "after.png")

    def final(folder: Path, **options: Any) -> dict[str, bytes]:
        return tensor_bytes(last_checkpoint(list(train(task, short(**options), folder, settings={}, resume=True))))

    task = averaging_task()
    whole = final(tmp_path / "whole")
    task = averaging_task(preview=preview)
    assert final(tmp_path / "seen", preview_every=2) == whole
    assert len(seen) == 3 and not torch.equal(seen[-1], task.saved["net"].head.weight)  # type: ignore[arg-type, union-attr]
    task = averaging_task(preview=preview)
    events = train(task, short(preview_every=3), tmp_path / "parted", settings={})
    stopped = stop_after((e for e in events if isinstance(e, Preview)), 3)
    events.close()  # type: ignore[attr-defined]
    assert [type(event) for event in stopped] == [Preview]  # in the middle of a preview
    task = averaging_task()
    assert final(tmp_path / "parted") == whole


def test_two_averages_are_refused(tmp_path: Path) -> None:
    task = tiny_task(optim=config("schedule-free"))
    with pytest.raises(ConfigError, match=r"ema\.decay is 0\.9, but the optimizer of 'main' averages the weights"):
        list(train(task, short(), tmp_path, settings={}))


def test_a_bad_step_brings_numbers_and_moments_back(tmp_path: Path) -> None:
    task = tiny_task(optim=config("prodigy"), spoil=lambda draw, x: x * float("nan") if draw in (3, 4) else x)
    events = list(train(task, short(), tmp_path, settings={}))
    assert any("brought back" in message for message in notices(events))
    state = read_safetensors(last_checkpoint(events) / "optimizer-main.safetensors")
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
    assert int(state["optimizer:0:group:0/k"]) == 3  # the state before step 3, and steps 5 and 6


@pytest.mark.parametrize("name", MODULES)
def test_missing_library_is_named_with_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [known for known in sys.modules if known.split(".")[0] == MODULES[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, MODULES[name], None)
    package = MODULES[name].replace("lion_pytorch", "lion-pytorch")
    with pytest.raises(ConfigError, match=f"optimizer is '{name}', which needs the package '{package}'") as caught:
        build_optimizers({"net": Net()}, config(name))
    assert f"pip install {package}" in str(caught.value.hint) and caught.value.field == "optim.name"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "cosine"}, r"schedule is 'cosine' but the optimizer 'schedule-free' needs 'constant'"),
        (
            {"betas": (0.0, 0.9)},
            r"betas is \(0\.0, 0\.9\) but the optimizer 'schedule-free' needs a first number",
        ),
    ],
)
def test_what_an_average_cannot_have_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config("schedule-free", **values)


@pytest.mark.parametrize("name", get_args(OptimizerName))
@pytest.mark.parametrize("betas", [(0.9, 1.0), (1.0, 0.9), (-0.1, 0.9)])
def test_decay_rates_out_of_range_are_refused(name: str, betas: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"betas is \(.*\); both numbers must lie in \[0, 1\)") as caught:
        config(name, betas=betas)
    assert caught.value.field == "optim.betas" and f"{betas}" in caught.value.message


@pytest.mark.parametrize("name", sorted({"adamw", "muon", *LIBRARIES} - {"prodigy"}))
def test_a_factor_on_the_learning_rate_reaches_every_optimizer(name: str) -> None:
    net = Net()
    optimizers = build_optimizers({"net": net}, config(name, lr_factors={"net.up.*": 4.0}))
    optimizers.set_lr(5, 20)
    rates = {weight: float(g["lr"]) for part in optimizers.parts for g in part.param_groups for weight in g["params"]}
    for path, weight in net.named_parameters():
        assert rates[weight] == pytest.approx(4e-2 if path.startswith("up.") else 1e-2)


def test_prodigy_refuses_several_learning_rates() -> None:
    with pytest.raises(ConfigError, match=r"'prodigy' finds one learning rate for all weights; \[0\.01, 0\.04\]"):
        build_optimizers({"net": Net()}, config("prodigy", lr=1e-2, lr_factors={"net.up.*": 4.0}))
    parts = build_optimizers({"net": Net()}, config("adamw", weight_decay=0.1)).parts
    parts[0].param_groups[0]["peak_lr"] = 0.5
    with pytest.raises(ConfigError, match=r"'prodigy' finds one learning rate for all weights; \[0\.01, 0\.5\]"):
        Optimizers(config("prodigy"), parts, {})


def test_every_optimizer_has_what_suits_it() -> None:
    assert set(SUITED) == set(get_args(OptimizerName))
    for name, suited in SUITED.items():
        assert set(suited) - {"lr_factor"} <= set(OptimConfig.model_fields), name
