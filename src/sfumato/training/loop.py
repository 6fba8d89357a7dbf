"""The only training loop.

    draw → loss → backward → guard → clip → optimizer → average → log · validate · preview · save

Every random number comes from the step (or from torch's global generator, which the loop seeds by the step) and every
save is atomic: a run that is interrupted at any moment and resumed ends with the same bytes as one that was not, at the
same number of threads.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from sfumato.errors import CheckpointError, OutOfMemory, StorageError
from sfumato.events import Checkpoint, Done, Event, Metric, Notice
from sfumato.formats.atomic import storage_error
from sfumato.runtime.interrupt import StopRequest
from sfumato.runtime.memory import keep_freed_memory
from sfumato.runtime.out_of_memory import fitting_into_memory
from sfumato.runtime.seeding import derive_seed
from sfumato.training import state as states
from sfumato.training.guard import Guard, GuardConfig, copies_of_buffers, finite, locate, put_back
from sfumato.training.interval import Interval
from sfumato.training.journal import Journal
from sfumato.training.optim import Optimizers, build_optimizers, check_average
from sfumato.training.section import Section
from sfumato.training.task import LossReport, Phase, Task

MAY_CHANGE = (
    "loop.steps",
    "loop.*_every",
    "loop.keep",
    "loop.max_seconds",
    "loop.threads",
    "loop.tensorboard",
    "optim.decay_steps",
    "preview.*",
    "preview_prompts",
    "validation_pictures",
    "validation_scenes",
    "bundle_every",
    "name",
    "autoencoder",
    "autoencoder_recipe",
    "gradient_checkpointing",
    "device",
    "compile",
    "*.folder",
    "*.workers",
    "latents.keep",
)
"""Settings that a resumed run may change: they alter no step that is behind it, only where the run ends and what is
said on the way, or where it is computed. Data are compared by hash, not by path."""


class LoopConfig(Section):
    """How long a run takes and what it tells meanwhile.

    Attributes:
        steps: Optimizer steps of the whole run.
        accumulate: Batches whose gradients make one step.
        clip_norm: Largest norm of the gradient of a phase; `None` does not clip.
        log_every: Steps between `Metric` events; their values are means over the interval.
        validate_every: Steps between measurements on fixed data; 0 for none.
        preview_every: Steps between previews; 0 for none.
        save_every: Steps between checkpoints; the last step is always saved.
        keep: Number of checkpoints that stay; the one that a run goes back to after bad steps stays besides.
        max_seconds: Stop and save after this time; resume goes on. `None` for no limit.
        threads: CPU threads; `None` leaves torch's choice. Bits are repeated only at the same number.
        tensorboard: Write numbers for TensorBoard where it is installed.
        guard: What to do about numbers that are not finite.
    """

    steps: int = Field(default=1000, ge=1)
    accumulate: int = Field(default=1, ge=1)
    clip_norm: float | None = Field(default=1.0, gt=0)
    log_every: int = Field(default=10, ge=1)
    validate_every: int = Field(default=0, ge=0)
    preview_every: int = Field(default=0, ge=0)
    save_every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    threads: int | None = Field(default=None, ge=1)
    tensorboard: bool = True
    guard: GuardConfig = GuardConfig()


def train(
    task: Task,
    config: LoopConfig,
    run_dir: Path,
    *,
    settings: Mapping[str, Any],
    defaults: Collection[str] = (),
    resume: bool = False,
) -> Iterator[Event]:
    """Run a task to its last step, from the beginning or from its newest checkpoint.

    The first SIGINT or SIGTERM, closing the generator, and the time limit end the run after the step in progress, with
    its state saved.

    Args:
        task: What is trained.
        config: How long, how often.
        run_dir: Folder for checkpoints, previews and the record of events; made if missing.
        settings: The effective recipe as plain data; a resumed run must have the same.
        defaults: Dotted keys of settings that stand at their default; an older run may lack them.
        resume: Go on from the newest whole checkpoint; without one the run begins.

    Yields:
        `Metric`, `Preview`, `Checkpoint`, `Notice`, whatever the task's hooks yield, and `Done` at the end.

    Raises:
        CannotResume: The folder holds a run and `resume` is off, or the saved run had other settings.
        Diverged: Non-finite numbers, again and again.
        StorageError: The final state could not be written.
        OutOfMemory: A step does not fit into memory.
    """
    keep_freed_memory()
    threads = torch.get_num_threads()
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    run = None
    try:
        with _fitting(config, task.can_save_memory), StopRequest() as stop, torch.random.fork_rng(devices=[]):
            run = _Run(task, config, run_dir, settings, stop, defaults)
            yield from run.go(resume)
    finally:
        if run is not None:
            run.close()
        task.close()
        torch.set_num_threads(threads)


def _fitting(config: LoopConfig, can_save_memory: bool) -> AbstractContextManager[None]:
    """Say what to change when a step does not fit into memory."""
    halved = f"Halve batch_size and set loop.accumulate to {2 * config.accumulate} (the same step in smaller parts)"
    hint = f"{halved}, or switch gradient_checkpointing on." if can_save_memory else f"{halved}."
    return fitting_into_memory(f"A step with {config.accumulate} batch(es)", hint)


class _Run:
    """One run of a task in a folder."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        run_dir: Path,
        settings: Mapping[str, Any],
        stop: StopRequest,
        defaults: Collection[str],
    ) -> None:
        self.task, self.config, self.run_dir, self.stop = task, config, run_dir, stop
        self.settings, self.defaults = settings, defaults
        self.optimizers = {phase.name: build_optimizers(phase.modules, phase.optim) for phase in task.phases}
        self.parts: dict[str, states.Saved] = {
            **task.saved,
            **{f"optimizer-{name}": optimizer for name, optimizer in self.optimizers.items()},
            **({} if task.ema is None else {"ema": task.ema}),
        }
        check_average(self.optimizers, 0.0 if task.ema is None else task.ema.config.decay)
        self.guard = Guard(config.guard, self.parts, self._load_step)
        self.watched = task.watched or {k: m for phase in task.phases for k, m in phase.modules.items()}
        self.step = 0
        self.saved_step = -1
        self.interval = Interval()
        self.journal: Journal | None = None
        self.started = time.perf_counter()

    def go(self, resume: bool) -> Iterator[Event]:
        """Yield the events of the whole run, each written to the record first."""
        first = list(self._restore(resume))
        self.journal = Journal(self.run_dir, self.step, self.config.tensorboard)
        try:
            with closing(self._events(first)) as events:  # a preview cut short first puts the weights back
                for event in events:
                    problem = self.journal.write(event)
                    yield event
                    if problem is not None:
                        yield Notice(self.step, problem)
        except GeneratorExit:
            if self.step != self.saved_step:
                self._save()
            raise

    def close(self) -> None:
        """Close the record."""
        if self.journal is not None:
            self.journal.close()

    def _events(self, first: list[Event]) -> Generator[Event]:
        """Yield what happens from the restored step to the last."""
        yield from first
        with self._shipped():
            yield from self.task.begin(self.step, self.run_dir)
        reason = self._reason_to_stop()
        while not self._is_complete() and reason is None:
            yield from self.task.before_step(self.step)
            notices = self._one_step()
            self.step += 1
            yield from notices
            yield from self._after_step()
            reason = self._reason_to_stop()
        if self.step != self.saved_step:
            yield self._save()
            with self._shipped():
                yield from self.task.after_save(self.step, self.run_dir)
        finished = self._is_complete()
        if finished:
            with self._shipped():
                yield from self.task.finish(self.step, self.run_dir)
        elif reason is not None:
            yield Notice(self.step, f"Stopped after step {self.step} of {self.config.steps}: {reason}. Resume goes on.")
        info = {"step": self.step, "steps": self.config.steps, "stopped": None if finished else reason}
        if finished and self.stop.reason is not None:
            info["asked_to_stop"] = self.stop.reason  # whoever goes on after this run should know
        yield Done(time.perf_counter() - self.started, info)

    def _is_complete(self) -> bool:
        """Say whether no step is left to take."""
        return self.step >= self.config.steps or self.task.settled() is not None

    def _reason_to_stop(self) -> str | None:
        """Say why the run should end early, if it should."""
        limit = self.config.max_seconds
        if limit is not None and time.perf_counter() - self.started >= limit:
            return f"the time limit of {limit:g} s is reached"
        return self.stop.reason

    def _one_step(self) -> list[Event]:
        """Take one optimizer step in every active phase; a bad one is dropped with the phases after it."""
        buffers = copies_of_buffers(self.task.saved)
        taken: list[str] = []
        for phase in self.task.phases:
            if not phase.active(self.step):
                continue
            cause = self._phase(phase)
            if cause is not None:
                self.optimizers[phase.name].zero_grad()
                put_back(buffers)
                return [Notice(self.step + 1, self.guard.bad(self.step + 1, cause, taken))]
            taken.append(phase.name)
        if self.step == self.saved_step and self.step % self.config.save_every == 0:
            self.guard.trust(self.step)
        self.guard.good()
        if self.task.ema is not None:
            self.task.ema.update()
        return []

    def _phase(self, phase: Phase) -> str | None:
        """Take the step of one phase, or return why it must not be taken."""
        optimizer = self.optimizers[phase.name]
        optimizer.zero_grad()
        lr = optimizer.set_lr(self.step - phase.first_step, self.config.steps - phase.first_step)
        for part in range(self.config.accumulate):
            report = self._loss(phase, self.step * self.config.accumulate + part)
            value = float(report.loss.detach())
            if not finite(value):
                return self._cause(phase, part, report, f"the loss was {value}")
            (report.loss / self.config.accumulate).backward()
            self.interval.add({f"{phase.name}/{name}": value for name, value in report.metrics.items()})
            self.interval.add({f"{phase.name}/loss": value})
            self.interval.pictures += report.pictures
        norm = self._clipped_norm(optimizer)
        if not finite(norm):
            return self._bad_gradient(phase, norm)
        optimizer.step()
        optimizer.zero_grad()
        self.interval.add({f"{phase.name}/gradient_norm": norm, f"{phase.name}/lr": lr})
        return None

    def _loss(self, phase: Phase, draw: int) -> LossReport:
        """Compute the loss of one draw, with torch's global generator seeded by the draw."""
        torch.manual_seed(derive_seed(self.task.seed, f"train/{phase.name}", draw))
        return phase.loss(draw)

    def _clipped_norm(self, optimizer: Optimizers) -> float:
        """Return the norm of all gradients of a phase, which are clipped if it is finite and too large."""
        gradients = [weight.grad for weight in optimizer.names if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        value, limit = float(norm), self.config.clip_norm
        if limit is not None and finite(value) and value > limit:
            torch._foreach_mul_(gradients, limit / (value + 1e-6))
        return value

    def _bad_gradient(self, phase: Phase, norm: float) -> str:
        """Find the batch of the step whose gradient is not finite and say where it comes from."""
        for part in range(self.config.accumulate):
            self.optimizers[phase.name].zero_grad()
            report = self._loss(phase, self.step * self.config.accumulate + part)
            report.loss.backward()
            if not finite(self._clipped_norm(self.optimizers[phase.name])):
                return self._cause(phase, part, report, f"the gradient's norm was {norm}")
        return f"the gradient's norm was {norm}, only as the sum over {self.config.accumulate} batches"

    def _cause(self, phase: Phase, part: int, report: LossReport, found: str) -> str:
        """Repeat a bad batch with every layer watched and say what happened."""
        self.optimizers[phase.name].zero_grad()
        draw = self.step * self.config.accumulate + part
        return locate(self.watched, lambda: self._loss(phase, draw), report, found)

    def _after_step(self) -> Iterator[Event]:
        """Log, validate, save and preview when it is time to."""
        config, last = self.config, self.step == self.config.steps
        if self.step % config.log_every == 0 or last:
            yield Metric(self.step, {**self.interval.means(), "dropped_steps": self.guard.counters["dropped"]})
            self.interval = Interval()
        if config.validate_every and (self.step % config.validate_every == 0 or last):
            with self._shipped():
                values = dict(self.task.validate(self.step))
            if values:
                yield Metric(self.step, values)
        saves = self.step % config.save_every == 0 and not last
        if saves:
            yield self._save_or_go_on()  # first: a drawing for which memory is too small may end the process
        if config.preview_every and (self.step % config.preview_every == 0 or last):
            with self._shipped():
                yield from self._preview_or_go_on()
        if saves and self.step == self.saved_step:
            with self._shipped():
                yield from self.task.after_save(self.step, self.run_dir)

    @contextmanager
    def _shipped(self) -> Iterator[None]:
        """Use the weights that the run would hand over inside the block: averages where there are any.

        The time in it is not that of steps, so it does not count in the throughput.
        """
        started = time.perf_counter()
        with ExitStack() as stack:
            for optimizer in self.optimizers.values():
                stack.enter_context(optimizer.averaged())
            if self.task.ema is not None and self.task.ships_average:
                stack.enter_context(self.task.ema.applied())
            yield
        self.interval.start += time.perf_counter() - started

    def _preview_or_go_on(self) -> Iterator[Event]:
        """Draw a preview; when it cannot be written, or shows nothing, the run goes on without it."""
        try:
            yield from self.task.preview(self.step, self.run_dir / "previews")
        except (CheckpointError, StorageError, OutOfMemory) as error:
            yield Notice(self.step, f"{error} The run goes on without this preview.")

    def _save_or_go_on(self) -> Event:
        """Save; when that fails the run goes on and tries again at the next time."""
        try:
            return self._save()
        except StorageError as error:
            return Notice(self.step, f"{error} The run goes on and saves again after {self.config.save_every} steps.")

    def _save(self) -> Checkpoint:
        """Write a checkpoint of the present step."""
        content = states.RunState(self.step, dict(self.settings), dict(self.guard.counters))
        path = states.save(self.run_dir, content, self.parts, self.config.keep, self.guard.good_step)
        self.saved_step = self.step
        return Checkpoint(self.step, path)

    def _load_step(self, step: int) -> None:
        """Bring the checkpoint of a step back."""
        states.load(states.folder_of(self.run_dir, step), self.parts)

    def _restore(self, resume: bool) -> Iterator[Event]:
        """Bring the newest checkpoint back, if there is one and it is wanted."""
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, self.run_dir, 0) from error
        found = states.latest(self.run_dir)
        if (found.path or found.rejected) and not resume:
            raise states.already_there(self.run_dir)
        for problem in found.rejected:
            yield Notice(0, problem)
        if found.path is None:
            if resume:
                yield Notice(0, f"There is no checkpoint in '{self.run_dir}' to go on from: the run begins.")
            return
        saved = states.read_state(found.path)
        states.check_settings(saved.settings, self.settings, MAY_CHANGE, self.defaults)
        states.load(found.path, self.parts)
        counters = dict(saved.counters)
        good = int(counters.get("good_step", 0))
        if good and states.broken(states.folder_of(self.run_dir, good)) is not None:
            del counters["good_step"]
        self.guard.resume(saved.step, counters)
        self.step = self.saved_step = saved.step
        yield Notice(self.step, f"Resumed from '{found.path}' after step {self.step}.{self._moved(saved.settings)}")

    def _moved(self, saved: Mapping[str, Any]) -> str:
        """Say that a run goes on elsewhere, where its steps are rounded otherwise."""
        before, now = saved.get("device"), self.settings.get("device")
        return "" if before == now else f" It goes on on {now}, not on {before}: steps are rounded otherwise there."
