"""Non-finite numbers never reach the weights, and are traced to a layer and to samples."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato.errors import Diverged
from sfumato.formats.safe_io import read_safetensors
from sfumato.training.guard import Cause, Guard, GuardConfig, finite, locate
from sfumato.training.loop import train
from sfumato.training.optim import OptimConfig
from sfumato.training.task import LossReport, Phase, Task
from training_task import Net, last_checkpoint, metrics, notices, run, short, stop_after, tensor_bytes, tiny_task


def poisoned(draws: set[int], row: int = 2) -> object:
    """Make one sample of some draws not a number."""

    def spoil(draw: int, x: Tensor) -> Tensor:
        if draw in draws:
            x = x.clone()
            x[row, 0, 0, 0] = math.nan
        return x

    return spoil


def all_finite(folder: Path) -> bool:
    """Say whether everything in a checkpoint is finite."""
    tensors = [t for file in folder.glob("*.safetensors") for t in read_safetensors(file).values()]
    return all(bool(torch.isfinite(t).all()) for t in tensors if t.is_floating_point())


def test_a_poisoned_sample_is_dropped_and_named_with_its_layer(tmp_path: Path) -> None:
    events = run(tmp_path, short(steps=5), spoil=poisoned({2}))
    (message,) = notices(events)
    assert message == (
        "Step 3 was dropped and no weight moved: the loss was nan; the first non-finite output is that of layer "
        "'net.conv'; in sample picture 10."
    )
    assert metrics(events, "dropped_steps") == {1: 0.0, 2: 0.0, 3: 1.0, 4: 1.0, 5: 1.0}
    assert set(metrics(events, "main/loss")) == {1, 2, 4, 5}
    assert all_finite(last_checkpoint(events))


def test_a_dropped_step_changes_neither_weights_nor_moments_nor_averages_nor_statistics(tmp_path: Path) -> None:
    before = run(tmp_path / "a", short(steps=2, save_every=1))
    after = run(tmp_path / "b", short(steps=3, save_every=1), spoil=poisoned({2}))
    assert tensor_bytes(last_checkpoint(before)) == tensor_bytes(last_checkpoint(after))


@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (5,), (8,), (9,), (1, 2, 5, 6, 7, 9)])
@pytest.mark.parametrize("bad", [{2, 3}, {4, 5}, {6, 7, 8}])
def test_a_run_that_goes_back_resumes_to_the_same_bytes(bad: set[int], stops: tuple[int, ...], tmp_path: Path) -> None:
    config = short(steps=10, save_every=4, keep=1)
    whole = run(tmp_path / "a", config, spoil=poisoned(bad))
    for number, step in enumerate(stops):
        task = tiny_task(spoil=poisoned(bad))
        settings = {"loop": config.model_dump()}
        stop_after(train(task, config, tmp_path / "b", settings=settings, resume=number > 0), step)
    again = run(tmp_path / "b", config, spoil=poisoned(bad), resume=True)
    assert tensor_bytes(last_checkpoint(whole)) == tensor_bytes(last_checkpoint(again))
    assert metrics(again, "dropped_steps")[10] == len(bad)


def test_the_last_good_state_stays_and_is_the_newest_that_a_good_step_was_taken_from(tmp_path: Path) -> None:
    events = run(tmp_path, short(steps=8, save_every=2, keep=1), spoil=poisoned({4, 5}))
    assert "the state of step 2 brought back" in notices(events)[1]
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000006", "step-00000008"]


def test_a_good_state_that_is_gone_is_replaced_by_the_one_at_hand(tmp_path: Path) -> None:
    config = short(steps=8, save_every=2, keep=3)
    settings = {"loop": config.model_dump()}
    stop_after(train(tiny_task(), config, tmp_path, settings=settings), 5)
    for folder in ("step-00000002", "step-00000004"):
        shutil.rmtree(tmp_path / "checkpoints" / folder)
    again = run(tmp_path, config, spoil=poisoned({6, 7}), resume=True)
    assert "the state of step 5 brought back" in notices(again)[2]


def test_only_the_bad_batch_of_an_accumulated_step_is_named(tmp_path: Path) -> None:
    (message,) = notices(run(tmp_path, short(steps=3, accumulate=3), spoil=poisoned({4}, row=1)))
    assert message.startswith("Step 2 was dropped") and message.endswith("in sample picture 17.")


def test_a_huge_learning_rate_brings_the_good_state_back_and_ends_with_the_cause(tmp_path: Path) -> None:
    task = tiny_task(optim=OptimConfig(lr=1e38))
    start = [weight.detach().clone() for weight in task.saved["net"].parameters()]
    seen = []
    with pytest.raises(Diverged, match=r"8 steps up to step \d+ were not finite: the loss was (nan|inf); .*Lower the"):
        for event in train(task, short(steps=100, save_every=1000), tmp_path, settings={}):
            seen.append(event)
    messages = notices(seen)
    assert "no weight moved" in messages[0]
    assert "the state of step 0 brought back" in messages[1]
    assert all(torch.equal(a, b.detach()) for a, b in zip(start, task.saved["net"].parameters(), strict=True))


def test_a_gradient_that_is_not_finite_is_traced_though_the_loss_is(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))

    def loss(draw: int) -> LossReport:
        h = net[0](torch.ones(2, 3)) * 0.0
        root = net[1](h).square().sum() * 0 + (h.abs().sum() * 0).sqrt()
        return LossReport(root, {}, ("left", "right"), None, 2)

    task = Task([Phase("main", {"net": net}, loss, OptimConfig())], {"net": net})
    before = [weight.detach().clone() for weight in net.parameters()]
    (message,) = notices(run(tmp_path, short(steps=1), task=task))
    assert "the gradient's norm was nan" in message
    assert "the first non-finite gradient is that at the output of layer 'net.0'" in message
    assert "all 2 samples of the step, from left" in message
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_a_broken_weight_is_named_before_its_output() -> None:
    net = Net()
    with torch.no_grad():
        net.head.weight[0, 0] = math.inf

    def loss() -> LossReport:
        return LossReport(net(torch.ones(2, 3, 8, 8)).sum(), {}, ("a", "b"))

    text = locate({"net": net}, loss, loss(), "the loss was inf")
    assert text.startswith("the loss was inf; weight 'net.head.weight' is itself not finite")


def test_a_layer_of_a_compiled_module_is_named() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].bias.fill_(1e3)
        net[1].weight.fill_(3e38)
    net.compile(backend="eager")

    def loss() -> LossReport:
        return LossReport(net(torch.ones(2, 2)).sum(), {}, ("a", "b"))

    report = loss()
    assert not torch.isfinite(report.loss)
    text = locate({"net": net}, loss, report, "the loss was inf")
    assert "the first non-finite output is that of layer 'net.1'" in text


def test_a_bad_second_phase_leaves_the_first_one_done_and_the_average_alone(tmp_path: Path) -> None:
    task = tiny_task(second=True)
    critic = task.phases[1]

    def loss(draw: int) -> LossReport:
        report = critic.loss(draw)
        return LossReport(report.loss * (math.nan if draw == 4 else 1.0))

    task.phases = [task.phases[0], Phase("critic", critic.modules, loss, critic.optim, critic.active)]
    events = run(tmp_path, short(steps=6), task=task)
    (message,) = notices(events)
    assert message.startswith("Step 5 was dropped but for the part of main: the loss was nan")
    assert "the samples have no names" in message
    assert task.ema is not None and task.ema.updates == 5
    assert all_finite(last_checkpoint(events))


def test_bad_steps_are_forgotten_after_calm() -> None:
    guard = Guard(GuardConfig(max_bad=3, calm_steps=2), {}, lambda step: None)
    for step in range(10):
        guard.bad(step, "x")
        guard.good()
        guard.good()
    guard.bad(10, "x")
    guard.good()
    guard.bad(11, "x")
    with pytest.raises(Diverged, match=r"3 steps up to step 12 were not finite: the cause\."):
        guard.bad(12, "the cause")
    assert guard.counters["dropped"] == 13


def test_a_sample_that_spoils_every_bad_step_is_named_as_what_is_to_go() -> None:
    def ended(*causes: str) -> str | None:
        guard = Guard(GuardConfig(max_bad=2, calm_steps=1), {}, lambda step: None)
        guard.bad(1, Cause("x", ("old.png",)))
        guard.good()
        guard.bad(2, causes[0])
        again = Guard(guard.config, {}, lambda step: None)
        again.resume(2, guard.counters)  # what is known of samples is kept with the state
        with pytest.raises(Diverged) as caught:
            again.bad(3, causes[1])
        return caught.value.hint

    usual = "Lower the learning rate, lengthen the warm-up or look at the samples named."
    both, one, other = Cause("x", ("a.png", "b.png")), Cause("x", ("a.png",)), Cause("x", ("b.png",))
    assert ended(both, one) == "Take a.png out: it was in every one of them, and the other samples were finite."
    assert ended(one, other) == ended("x", one) == ended("x", "x") == usual


def test_a_sample_is_named_once_and_alone_only_beside_others() -> None:
    def found(row: int, names: tuple[str, ...]) -> Cause:
        values = torch.zeros(len(names)).index_fill(0, torch.tensor([row, 2]), math.nan)
        report = LossReport(values.sum(), {}, names, values)
        return locate({}, lambda: report, report, "the loss was nan")

    text = "the loss was nan; every layer's output and gradient is finite, only their sum is too large; "
    twice = found(0, ("a.png", "b.png", "a.png"))
    assert (twice, twice.samples) == (f"{text}in sample a.png", ("a.png",))
    every = found(1, ("a.png", "a.png", "a.png"))
    assert (every, every.samples) == (f"{text}in sample a.png", ())


def test_finite() -> None:
    assert finite(1.0, -3.0) and not finite(1.0, math.nan) and not finite(-math.inf)
