"""A task small enough to be trained in milliseconds, with everything that could break a resumed run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sfumato.events import Checkpoint, Done, Event, Metric, Notice
from sfumato.formats import atomic
from sfumato.runtime.seeding import generator
from sfumato.training.ema import Ema, EmaConfig
from sfumato.training.loop import LoopConfig, train
from sfumato.training.optim import OptimConfig
from sfumato.training.task import LossReport, Phase, Task

Spoil = Callable[[int, Tensor], Tensor]


class Net(nn.Module):
    """Convolution, batch norm, dropout, linear layer: running statistics and global random numbers included."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Compute two numbers per picture."""
        h: Tensor = self.head(self.drop(self.norm(self.conv(x)).relu().mean((2, 3))))
        return h


def tiny_task(
    *, spoil: Spoil = lambda draw, x: x, optim: OptimConfig | None = None, second: bool = False, **hooks: Any
) -> Task:
    """Build the task. `spoil` changes the input of a draw; `second` adds a phase of its own from step 3 on."""
    net = Net().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    critic = nn.Linear(2, 1)

    def data(draw: int) -> Tensor:
        return spoil(draw, torch.randn(4, 3, 8, 8, generator=generator(0, "test/data", draw)))

    def loss(draw: int) -> LossReport:
        per_sample = (net(data(draw)) - 1).square().mean(1)
        names = tuple(f"picture {4 * draw + i}" for i in range(4))
        return LossReport(per_sample.mean(), {"two": 2.0}, names, per_sample.detach(), 4)

    def critic_loss(draw: int) -> LossReport:
        return LossReport((critic(net(data(draw)).detach()) + 1).square().mean())

    optim = optim or OptimConfig(lr=1e-2, schedule="cosine", warmup_steps=2)
    phases = [Phase("main", {"net": net}, loss, optim)]
    if second:
        phases.append(
            Phase("critic", {"critic": critic}, critic_loss, OptimConfig(name="muon"), lambda step: step >= 3)
        )
    return Task(phases, {"net": net, "critic": critic}, 0, Ema({"net": net}, EmaConfig(decay=0.9)), **hooks)


def run(folder: Path, config: LoopConfig, *, resume: bool = False, settings: Any = None, **options: Any) -> list[Event]:
    """Run the task to its end and return the events."""
    task = options.pop("task", None) or tiny_task(**options)
    settings = {"loop": config.model_dump()} if settings is None else settings
    return list(train(task, config, folder, settings=settings, resume=resume))


def short(**values: Any) -> LoopConfig:
    """Return a configuration without TensorBoard, which takes long to import."""
    return LoopConfig(**{"steps": 6, "save_every": 2, "log_every": 1, "tensorboard": False, **values})


def metrics(events: list[Event], name: str) -> dict[int, float]:
    """Return one number by step."""
    return {e.step: e.values[name] for e in events if isinstance(e, Metric) and name in e.values}


def notices(events: list[Event]) -> list[str]:
    """Return the messages."""
    return [event.message for event in events if isinstance(event, Notice)]


def last_checkpoint(events: list[Event]) -> Path:
    """Return the folder of the last checkpoint."""
    return [event.path for event in events if isinstance(event, Checkpoint)][-1]


def done(events: list[Event]) -> Done:
    """Return the last event."""
    assert isinstance(events[-1], Done)
    return events[-1]


def tensor_bytes(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file with tensors."""
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}


def stop_after(events: Iterator[Event], step: int) -> list[Event]:
    """Consume events up to the first of a step, then close the run."""
    seen = []
    for event in events:
        seen.append(event)
        if getattr(event, "step", -1) >= step:
            break
    events.close()  # type: ignore[attr-defined]
    return seen


def full_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the n-th flush of a file and all later ones fail for want of room."""
    calls = {"n": 0}
    flush = os.fsync

    def fsync(handle: int) -> None:
        calls["n"] += 1
        if calls["n"] >= count:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
