"""What a run does without where it cannot be written: shards, previews, TensorBoard; the steps stay the same."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.errors import CheckpointError, OutOfMemory, StorageError
from sfumato.events import Event, Preview
from sfumato.training import journal
from sfumato.training.journal import read_events
from sfumato.training.latents import LatentPool, LatentPoolConfig
from sfumato.training.pictures import DataConfig, PictureBatch, PictureBatches
from sfumato.training.stream import Prefetched
from training_task import done, full_after, last_checkpoint, notices, run, short, tensor_bytes

STEPS = 12


def in_layers(batch: PictureBatch) -> dict[str, Tensor]:
    """Encode a picture as itself, laid out as networks compute, pixel by pixel."""
    mean = torch.from_numpy(batch.pixels.astype(np.float32)).permute(0, 3, 1, 2) / 255
    return {"mean": mean, "std": mean / 9, "features": 2 * mean}


def pool(folder: Path, calls: list[int], **config: Any) -> LatentPool:
    """Make a pool of two shards of four pictures that moves every three steps."""
    made = PictureBatches(DataConfig(kind="shapes", size=16, workers=0), 2)

    def make(index: int) -> PictureBatch:
        calls.append(index)
        return made(index)

    values = {"shard_size": 4, "window": 2, "encode_batch": 2, "rotate_every": 3, **config}
    return LatentPool(LatentPoolConfig(**values), folder, {}, Prefetched(make, workers=0), in_layers, seed=0)


def test_shards_that_cannot_be_written_are_used_from_memory_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    for step in range(STEPS):
        assert not notices(list(pool(tmp_path / "kept", [], keep="all").move_to(step)))
    from_files, from_memory = pool(tmp_path / "kept", calls, keep="all"), pool(tmp_path / "full", [])
    told: list[str] = []
    for step in range(STEPS):
        with monkeypatch.context() as patch:
            if step < 7 or step == 9:
                full_after(1, patch)
            told += notices(list(from_memory.move_to(step)))
        list(from_files.move_to(step))
        ours, theirs = from_memory.batch(step, 4), from_files.batch(step, 4)
        assert (ours.captions, ours.ids) == (theirs.captions, theirs.ids)
        assert ours.features is not None and theirs.features is not None
        for one, other in ((ours.x_0, theirs.x_0), (ours.features, theirs.features)):
            assert torch.equal(one, other) and one.stride() == other.stride()
        held, read = (shards._shard_at(step % 2) for shards in (from_memory, from_files))
        assert (
            torch.equal(held.mean, read.mean) and held.mean.stride() == read.mean.stride() and held.first == read.first
        )
    assert calls == [], "what is compared with was read from files"
    assert len(told) == 1, "one notice while the disk stays full"
    assert "shard-000000.safetensors': the disk is full" in told[0]
    assert told[0].endswith("The run goes on: what it has encoded is in memory.")
    assert not list((tmp_path / "full").rglob("shard-*"))


def test_a_disk_that_is_full_again_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moving = pool(tmp_path, [])
    told: list[str] = []
    for step in range(STEPS):
        with monkeypatch.context() as patch:
            if step in (0, 6):
                full_after(1, patch)
            told += notices(list(moving.move_to(step)))
    assert [("shard-000000" in one, "shard-000003" in one) for one in told] == [(True, False), (False, True)]
    assert [path.name for path in tmp_path.rglob("shard-*")] == ["shard-000004.safetensors"]


def test_a_shard_that_cannot_be_removed_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    moving = pool(tmp_path, [])
    with monkeypatch.context() as patch:
        for step in range(STEPS):
            list(moving.move_to(step))
            if step == 4:
                patch.setattr(Path, "unlink", unlink)
    assert len(list(tmp_path.rglob("shard-*"))) == 4


def test_a_preview_that_cannot_be_written_is_told_and_changes_nothing(tmp_path: Path) -> None:
    reasons = {3: StorageError, 4: OutOfMemory, 5: CheckpointError}

    def preview(step: int, folder: Path) -> Iterator[Event]:
        if step in reasons:
            raise reasons[step]("Could not draw.", hint="Make room.")
        yield Preview(step, folder / f"{step}.png")

    plain = run(tmp_path / "plain", short())
    events = run(tmp_path / "full", short(preview_every=1), preview=preview)
    assert [event.step for event in events if isinstance(event, Preview)] == [1, 2, 6]
    assert notices(events) == ["Could not draw. Make room. The run goes on without this preview."] * 3
    assert tensor_bytes(last_checkpoint(plain)) == tensor_bytes(last_checkpoint(events))


def metric_steps(folder: Path) -> list[int]:
    """Return the steps of the numbers in the record of a run."""
    return [line["step"] for line in read_events(folder) if line["event"] == "Metric"]


def test_a_run_goes_on_without_tensorboard_where_it_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("mine")
    events = run(tmp_path, short(tensorboard=True))
    (told,) = notices(events)
    assert told.startswith(f"The run goes on without TensorBoard: '{tmp_path}/tensorboard' could not be written: File ")
    assert done(events).info["step"] == 6 and metric_steps(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert (tmp_path / "tensorboard").read_text() == "mine"


class Board:
    """A writer for TensorBoard whose disk is full from a step on, and when it is closed."""

    def __init__(self, full_from: int) -> None:
        self.full_from = full_from
        self.written: list[int] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """Take one number."""
        if step >= self.full_from:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written.append(step)

    def close(self) -> None:
        """Fail to write the rest."""
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(("full_from", "last"), [(3, 2), (99, 6)])
def test_a_run_goes_on_without_tensorboard_when_its_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_from: int, last: int
) -> None:
    board = Board(full_from)
    monkeypatch.setattr(journal, "_board", lambda folder, resumed: board)
    events = run(tmp_path, short(tensorboard=True))
    told = ["could not be written: No space left on device." in message for message in notices(events)]
    assert told == ([True] if full_from < 6 else [])
    assert max(board.written) == last and metric_steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_shards_that_another_run_has_made_are_not_ordered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordered: list[range] = []
    monkeypatch.setattr(Prefetched, "order", lambda self, indices: ordered.append(indices))
    config = {"keep": "all", "rotate_every": 1}
    for count in (3, 0):
        shards = pool(tmp_path, [], **config)
        for step in range(3):
            list(shards.move_to(step))
        assert len(ordered) == (1 if count == 0 else 3), "the last shard alone is not there yet"
        ordered.clear()
