"""Checkpoints: nothing half written is ever read, a killed run goes on to the same bytes, a full disk loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from sfumato.errors import CannotResume, CheckpointError, StorageError
from sfumato.events import Checkpoint
from sfumato.runtime.json_values import flattened
from sfumato.training.state import RunState, broken, latest, load, read_state, save
from training_task import done, full_after, last_checkpoint, notices, run, short, tensor_bytes

CONFIG = short(steps=24, save_every=3, keep=2)


def saved(folder: Path, step: int, keep: int = 5, value: float = 0.0) -> Path:
    """Write a checkpoint of one linear layer."""
    part = nn.Linear(3, 2)
    nn.init.constant_(part.weight, value)
    return save(folder, RunState(step, {"seed": 1}, {"bad": 2.0}), {"net": part}, keep)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    folder = saved(tmp_path, 12, value=3.0)
    assert folder == tmp_path / "checkpoints" / "step-00000012"
    assert read_state(folder) == RunState(12, {"seed": 1}, {"bad": 2.0})
    net = nn.Linear(3, 2)
    load(folder, {"net": net})
    assert bool((net.weight == 3.0).all())


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        saved(tmp_path, step, keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000003", "step-00000010"]


def test_what_is_needed_stays_and_what_comes_after_goes(tmp_path: Path) -> None:
    for step in (1, 4, 9):
        saved(tmp_path, step)
    (tmp_path / "checkpoints" / "step-00000009" / "manifest.json").unlink()
    part = nn.Linear(3, 2)
    save(tmp_path, RunState(6, {}), {"net": part}, keep=1, needed=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000006"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda f: (f / "manifest.json").unlink(), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text('{"net'), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text("[]"), "manifest.json is missing or unreadable"),
        (lambda f: (f / "manifest.json").write_text("{}"), "manifest.json does not list state.json"),
        (lambda f: (f / "net.safetensors").unlink(), "net.safetensors is missing"),
        (lambda f: os.truncate(f / "net.safetensors", 100), r"net.safetensors has 100 of \d+ bytes"),
        (lambda f: flip_last_byte(f / "net.safetensors"), "net.safetensors has changed since it was written"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_its_reason(tmp_path: Path, damage: Any, problem: str) -> None:
    good, bad = saved(tmp_path, 5), saved(tmp_path, 6)
    damage(bad)
    found = latest(tmp_path)
    assert found.path == good
    assert len(found.rejected) == 1 and found.rejected[0].startswith(f"'{bad}' was passed over: ")
    assert re.search(problem, found.rejected[0])
    assert broken(good) is None


def flip_last_byte(file: Path) -> None:
    """Change one bit."""
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def test_a_run_tells_which_checkpoint_it_passed_over(tmp_path: Path) -> None:
    run(tmp_path, short(steps=4))
    os.truncate(tmp_path / "checkpoints" / "step-00000004" / "net.safetensors", 9)
    events = run(tmp_path, short(steps=4), resume=True)
    assert "net.safetensors has 9 of" in notices(events)[0]
    assert "after step 2" in notices(events)[1]
    assert broken(tmp_path / "checkpoints" / "step-00000004") is None


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"'{tmp_path}' is not a training checkpoint: state\.json is missing"):
        read_state(tmp_path)


def test_what_file_managers_leave_is_no_part(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1, value=3.0)
    for name in (".DS_Store", "._net.safetensors"):
        (folder / name).write_bytes(b"x")
    net = nn.Linear(3, 2)
    assert latest(tmp_path).path == folder
    load(folder, {"net": net})
    assert bool((net.weight == 3.0).all())


def test_other_parts_or_shapes_cannot_be_loaded(tmp_path: Path) -> None:
    folder = saved(tmp_path, 1)
    with pytest.raises(CannotResume, match=rf"'{folder}' holds net; this run has ema, net\."):
        load(folder, {"net": nn.Linear(3, 2), "ema": nn.Linear(1, 1)})
    with pytest.raises(CannotResume, match=r"Part 'net' of .* does not fit this run: .*size mismatch"):
        load(folder, {"net": nn.Linear(4, 2)})


def test_settings_are_compared_as_json_gives_them_back() -> None:
    assert flattened({"a": {"b": (1, 2)}, "p": Path("x")}) == {"a.b": [1, 2], "p": "x"}


# A run that is killed. The child is forked, so that it starts in milliseconds; the kill is a real SIGKILL.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The final bytes of an uninterrupted run."""
    events = run(tmp_path_factory.mktemp("whole"), CONFIG, second=True)
    assert done(events).info["step"] == CONFIG.steps
    return tensor_bytes(last_checkpoint(events))


def child(folder: Path, kill_at: int | None = None) -> None:
    """Run or resume; kill this very process at the n-th touch of the disk, if asked to."""
    if kill_at is not None:
        touches = 0

        def before(function: Any) -> Any:
            def wrapped(*args: Any, **options: Any) -> Any:
                nonlocal touches
                touches += 1
                if touches == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)

            return wrapped

        os.fsync, shutil.rmtree = before(os.fsync), before(shutil.rmtree)  # type: ignore[assignment]
        Path.rename, Path.replace = before(Path.rename), before(Path.replace)  # type: ignore[method-assign]
    run(folder, CONFIG, second=True, resume=True)


def forked(folder: Path, kill_at: int | None = None) -> Any:
    """Start a run in another process."""
    process = multiprocessing.get_context("fork").Process(target=child, args=(folder, kill_at))
    process.start()
    return process


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path, whole: dict[str, bytes]) -> None:
    moments = random.Random(3)
    kills = 0
    for _ in range(12):
        process = forked(tmp_path)
        process.join(moments.uniform(0.02, 0.4))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
        if process.exitcode == 0:
            break
    run(tmp_path, CONFIG, second=True, resume=True)
    found = latest(tmp_path)
    assert kills > 0
    assert found.path is not None and tensor_bytes(found.path) == whole


@pytest.mark.parametrize("touch", [1, 3, 6, 10, 12, 13, 14, 15, 16, 17, 40, 55])
def test_killed_while_saving_it_ends_with_the_same_bytes(tmp_path: Path, whole: dict[str, bytes], touch: int) -> None:
    process = forked(tmp_path, kill_at=touch)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    newest = latest(tmp_path)
    assert newest.path is None or broken(newest.path) is None
    run(tmp_path, CONFIG, second=True, resume=True)
    final = tmp_path / "checkpoints" / "step-00000024"
    assert tensor_bytes(final) == whole


# A full disk.


def test_a_full_disk_is_one_error_and_the_older_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = saved(tmp_path, 1)
    with monkeypatch.context() as patch:
        full_after(2, patch)
        with pytest.raises(StorageError, match=r"disk is full\. At least .* bytes are needed, .* are free"):
            saved(tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [good.name]
    assert latest(tmp_path).path == good


def test_a_run_outlives_a_disk_that_is_full_for_a_while(tmp_path: Path, whole: dict[str, bytes]) -> None:
    def before(step: int) -> Any:
        if step == 5:
            full_after(1, patch)
        if step == 8:
            patch.undo()
        yield from ()

    with pytest.MonkeyPatch.context() as patch:
        events = run(tmp_path, CONFIG, second=True, before_step=before)
    assert any("disk is full" in message and "saves again after 3 steps" in message for message in notices(events))
    assert [event.step for event in events if isinstance(event, Checkpoint)][:3] == [3, 9, 12]
    assert tensor_bytes(last_checkpoint(events)) == whole


def test_a_disk_that_stays_full_fails_at_the_end_and_loses_only_the_last_steps(tmp_path: Path) -> None:
    def before(step: int) -> Any:
        if step == 4:
            full_after(1, patch)
        yield from ()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(StorageError, match="disk is full"):
        run(tmp_path, short(steps=6, save_every=3), before_step=before)
    found = latest(tmp_path)
    assert found.path is not None and read_state(found.path).step == 3
    assert done(run(tmp_path, short(steps=6, save_every=3), resume=True)).info["step"] == 6
