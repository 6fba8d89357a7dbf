"""The loop: order, numbers, events, interruption, resume."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sfumato.errors import CannotResume, OutOfMemory, StorageError
from sfumato.events import Artifact, Done, Event, Notice, Preview
from sfumato.runtime import interrupt
from sfumato.runtime.seeding import derive_seed
from sfumato.training import state as states
from sfumato.training.journal import Journal, read_events
from sfumato.training.loop import train
from sfumato.training.optim import OptimConfig
from sfumato.training.optim_own import AdamW
from training_task import done, last_checkpoint, metrics, notices, run, short, stop_after, tensor_bytes, tiny_task


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The final bytes of an uninterrupted run with two phases."""
    events = run(tmp_path_factory.mktemp("whole"), short(accumulate=2), second=True)
    return tensor_bytes(last_checkpoint(events))


def test_loss_falls(tmp_path: Path) -> None:
    losses = metrics(run(tmp_path, short(steps=40, save_every=100, log_every=10)), "main/loss")
    assert losses[40] < 0.5 * losses[10]


def test_events_come_in_order_and_at_their_steps(tmp_path: Path) -> None:
    def preview(step: int, folder: Path) -> Iterator[Event]:
        yield Preview(step, folder / f"{step}.png")

    def finish(step: int, folder: Path) -> Iterator[Event]:
        yield Artifact(folder, "concept")

    config = short(steps=4, log_every=2, validate_every=3, preview_every=4)
    events = run(tmp_path, config, preview=preview, finish=finish, validate=lambda step: {"validation/x": 1.0})
    names = [(type(event).__name__, getattr(event, "step", None)) for event in events]
    assert names == [
        ("Metric", 2),
        ("Checkpoint", 2),
        ("Metric", 3),
        ("Metric", 4),
        ("Metric", 4),
        ("Preview", 4),
        ("Checkpoint", 4),
        ("Artifact", None),
        ("Done", None),
    ]
    assert metrics(events, "validation/x") == {3: 1.0, 4: 1.0}


def test_metrics_hold_rate_norm_means_and_throughput(tmp_path: Path) -> None:
    events = run(tmp_path, short(steps=2, log_every=2, accumulate=3), optim=OptimConfig(lr=0.5, schedule="linear"))
    values = {name: value for event in events if hasattr(event, "values") for name, value in event.values.items()}
    assert values["main/two"] == 2.0
    assert values["main/lr"] == pytest.approx(0.5 * (1.0 + 0.5) / 2)
    assert values["main/gradient_norm"] > 0
    assert values["pictures_per_s"] > 0


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    seen: list[float] = []
    optimizer_step = AdamW.step

    def spy(self: AdamW) -> None:
        gradients = [w.grad for group in self.param_groups for w in group["params"]]
        seen.append(float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None])))
        optimizer_step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdamW, "step", spy)
        events = run(tmp_path, short(steps=3, clip_norm=0.01))
    assert seen == pytest.approx([0.01] * 3, rel=1e-3)
    assert min(metrics(events, "main/gradient_norm").values()) > 0.01


def test_accumulation_averages_the_gradients_of_its_batches(tmp_path: Path) -> None:
    optim = OptimConfig(lr=1e-2, eps=1.0, weight_decay=0.0)
    task, reference = tiny_task(optim=optim), tiny_task(optim=optim)
    run(tmp_path, short(steps=1, accumulate=2, clip_norm=None), task=task)
    for draw in (0, 1):
        torch.manual_seed(derive_seed(0, "train/main", draw))
        (reference.phases[0].loss(draw).loss / 2).backward()
    for before, after in zip(reference.saved["net"].parameters(), task.saved["net"].parameters(), strict=True):
        assert before.grad is not None
        expected = before.detach() - 1e-2 * before.grad / (before.grad.abs() + 1.0)
        torch.testing.assert_close(after.detach(), expected, atol=1e-6, rtol=1e-5)


def test_resumed_run_ends_with_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    config = short(accumulate=2)
    for stop in (1, 2, 5):
        folder = tmp_path / str(stop)
        events = train(tiny_task(second=True), config, folder, settings={"loop": config.model_dump()})
        stop_after(events, stop)
        events = run(folder, config, second=True, resume=True)
        assert f"after step {stop}" in notices(events)[0]
        assert tensor_bytes(last_checkpoint(events)) == whole


def test_resumed_run_ends_with_the_same_bytes_on_two_threads(tmp_path: Path) -> None:
    config = short(threads=2)
    uninterrupted = tensor_bytes(last_checkpoint(run(tmp_path / "whole", config)))
    stop_after(train(tiny_task(), config, tmp_path / "parted", settings={"loop": config.model_dump()}), 3)
    assert tensor_bytes(last_checkpoint(run(tmp_path / "parted", config, resume=True))) == uninterrupted


def test_time_limit_stops_saves_and_resumes_to_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    def wait(step: int) -> Iterator[Event]:
        if step == 2:
            time.sleep(0.3)
        yield from ()

    events = run(tmp_path, short(accumulate=2, max_seconds=0.3), second=True, before_step=wait)
    assert done(events).info["step"] < 6
    assert "the time limit of 0.3 s is reached" in notices(events)[-1]
    events = run(tmp_path, short(accumulate=2), second=True, resume=True)
    assert tensor_bytes(last_checkpoint(events)) == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_with_its_state_saved(
    tmp_path: Path, whole: dict[str, bytes], number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def before(step: int) -> Iterator[Event]:
        if step == 3:
            os.kill(os.getpid(), number)
        yield from ()

    handler, told = signal.getsignal(number), []
    config = short(accumulate=2)
    monkeypatch.setattr(interrupt, "listeners", [lambda: told.append(number)])
    events = run(tmp_path, config, second=True, before_step=before)
    assert told == [number], "a person hears of it at once, and once"
    assert signal.getsignal(number) is handler
    assert done(events).info["step"] == 4
    assert f"{number.name} was received" in notices(events)[-1]
    events = run(tmp_path, config, second=True, resume=True)
    assert tensor_bytes(last_checkpoint(events)) == whole


def test_a_folder_with_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path, short(steps=1))
    with pytest.raises(CannotResume, match=rf"'{tmp_path}' already holds a run\. Resume it"):
        run(tmp_path, short(steps=1))


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_place_that_cannot_be_a_folder_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=rf"Could not write '{tmp_path / place}'"):
        run(tmp_path / place, short())


def test_a_record_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(StorageError, match=r"Could not write '.*events\.jsonl'"):
        run(tmp_path, short())


def test_resume_without_a_checkpoint_begins(tmp_path: Path) -> None:
    events = run(tmp_path, short(steps=1), resume=True)
    assert done(events).info["step"] == 1
    assert notices(events) == [f"There is no checkpoint in '{tmp_path}' to go on from: the run begins."]


def test_resume_of_a_finished_run_only_finishes_again(tmp_path: Path) -> None:
    def finish(step: int, run_dir: Path) -> Iterator[Event]:
        yield Artifact(run_dir / f"{step}", "thing", {})

    run(tmp_path, short(steps=2), finish=finish)
    events = run(tmp_path, short(steps=2), resume=True, finish=finish)
    assert [type(event) for event in events] == [Notice, Artifact, Done]


def test_more_steps_may_be_asked_for_but_no_other_recipe(tmp_path: Path) -> None:
    settings = {"lr": 0.1, "loop": {"steps": 2, "save_every": 2}}
    run(tmp_path, short(steps=2), settings=settings)
    settings["loop"] = {"steps": 3, "save_every": 1}
    assert done(run(tmp_path, short(steps=3), settings=settings, resume=True)).info["step"] == 3
    with pytest.raises(CannotResume, match=r"lr: 0\.1 → 0\.2; seed: 'absent' → 4\. Change these back"):
        run(tmp_path, short(steps=3), settings={**settings, "lr": 0.2, "seed": 4}, resume=True)


def test_a_run_from_before_an_option_existed_goes_on_while_it_stands_at_its_default(tmp_path: Path) -> None:
    run(tmp_path, short(steps=2), settings={"lr": 0.1})
    task, now = tiny_task(), {"lr": 0.1, "new": {"option": False}}
    list(train(task, short(steps=3), tmp_path, settings=now, defaults={"lr", "new.option"}, resume=True))
    changed = {**now, "other": True}
    with pytest.raises(CannotResume, match=r"other: 'absent' → True"):
        list(train(tiny_task(), short(steps=4), tmp_path, settings=changed, defaults={"new.option"}, resume=True))


def test_the_record_reads_as_if_nothing_had_been_interrupted(tmp_path: Path) -> None:
    config = short(steps=5, save_every=2)
    events = train(tiny_task(), config, tmp_path, settings={})
    for event in events:
        if getattr(event, "step", 0) == 3:
            break
    record = tmp_path / "events.jsonl"
    before = record.read_text()
    events.close()  # type: ignore[attr-defined]
    states.latest(tmp_path)
    # as after SIGKILL: the checkpoint of step 3 is lost, half a line was being written
    (tmp_path / "checkpoints" / "step-00000003" / "manifest.json").unlink()
    record.write_text(before + '{"event": "Metr')
    run(tmp_path, config, settings={}, resume=True)
    steps = [line["step"] for line in read_events(tmp_path) if line["event"] == "Metric"]
    assert steps == [1, 2, 3, 4, 5]
    assert all(json.loads(line) for line in record.read_text().splitlines())


def test_a_new_run_empties_an_old_record(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "Metric", "step": 7}\n')
    Journal(tmp_path, 0, tensorboard=False).close()
    assert read_events(tmp_path) == []


def test_callers_random_state_and_threads_are_left_alone(tmp_path: Path) -> None:
    task = tiny_task()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path, short(steps=1, threads=2), task=task)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == 1


def test_previews_and_validation_do_not_change_the_result(tmp_path: Path) -> None:
    def disturb(step: int, folder: Path) -> Iterator[Event]:
        torch.rand(100)
        yield from ()

    plain = run(tmp_path / "a", short())
    busy = run(tmp_path / "b", short(preview_every=1, validate_every=1), preview=disturb)
    assert tensor_bytes(last_checkpoint(plain)) == tensor_bytes(last_checkpoint(busy))


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(tmp_path, short(steps=3, tensorboard=True))
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [item.step for item in board.Scalars("main/loss")] == [1, 2, 3]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_too_little_memory_is_one_error_that_says_what_to_change(tmp_path: Path, error: Exception) -> None:
    def spoil(draw: int, x: torch.Tensor) -> torch.Tensor:
        raise error

    for can_save_memory in (False, True):
        with pytest.raises(OutOfMemory, match=r"A step with 3 batch.*does not fit.*set loop\.accumulate to 6") as full:
            task = tiny_task(spoil=spoil, can_save_memory=can_save_memory)
            run(tmp_path / str(can_save_memory), short(accumulate=3), task=task)
        assert ("gradient_checkpointing" in str(full.value.hint)) == can_save_memory


def test_other_run_time_errors_pass_through(tmp_path: Path) -> None:
    def spoil(draw: int, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("another bug")

    with pytest.raises(RuntimeError, match="another bug"):
        run(tmp_path, short(), spoil=spoil)


def test_a_run_in_another_thread_catches_no_signals(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert done(pool.submit(run, tmp_path, short(steps=1)).result()).info["step"] == 1
