"""Judge a subject while it is learned, and end with the best saved step instead of the last.

The judge comes from outside (`Probe`): training knows no measure. At every saved step it looks at what the concept
draws, and the learned weights of the best step so far are kept beside its scores. Each look is one folder that appears
whole or not at all, and a state that was saved but not looked at is looked at when the run goes on: an interrupted run
ends with the same verdict and the same bytes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from sfumato.errors import CannotResume, Diverged, OutOfMemory, StorageError
from sfumato.events import Event, Notice, Verdict
from sfumato.formats.atomic import atomic_folder
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.pipeline import Pipeline
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.task import Task

LOOKS = "looks"
_FOLDER = re.compile(r"step-(\d{8,})")


@runtime_checkable
class Probe(Protocol):
    """Judges what is learned."""

    def texts(self) -> Sequence[str]:
        """Return everything that it asks for, words not written out."""
        ...

    def begin(self, pipeline: Pipeline) -> Iterator[Event]:
        """Look at the base before anything is learned."""
        ...

    def look(self, step: int, drawing: AbstractContextManager[Pipeline], folder: Path) -> Iterator[Event]:
        """Score a saved step by what it draws, and write into a folder what `recall` needs.

        Args:
            step: The step.
            drawing: Gives what draws; while it is open, memory holds copies of the weights that were changed.
            folder: Where scores are written.

        Raises:
            Diverged: What it draws holds numbers that are not finite.
        """
        ...

    def recall(self, step: int, folder: Path) -> None:
        """Read the scores of a step from the folder that `look` wrote."""
        ...

    def forget(self, step: int) -> None:
        """Forget a step whose look could not be finished."""
        ...

    def leader(self) -> int:
        """Return the best step so far; the best of all steps is it or a later one."""
        ...

    def settled(self) -> str | None:
        """Say why no later step can win, or return None."""
        ...

    def verdict(self) -> Verdict:
        """Return the step to use."""
        ...


class Trial:
    """Lets a probe look at every saved step of a run and brings the best one back at the end.

    Args:
        probe: The judge.
        learner: What learns.
        loop: Says which steps are saved.
    """

    def __init__(self, probe: Probe, learner: Learner, loop: LoopConfig) -> None:
        self.probe, self.learner, self.loop = probe, learner, loop
        self._seen: set[int] = set()
        self._reason: str | None = None

    def task(self) -> Task:
        """Return what the loop needs."""
        return replace(
            self.learner.task(),
            begin=self.begin,
            after_save=self.after_save,
            settled=lambda: self._reason,
            finish=self.finish,
        )

    def way_out(self) -> str | None:
        """Say how a run that cannot go on still gives the best of its scored steps; None where there is none."""
        if not self._seen:
            return None
        last = max(self._seen)
        if 0 < last <= self.learner.config.joins_at:
            return None  # a lesson that ends before all vectors have joined is refused
        return (
            f"Step {last} was saved and scored, and its numbers were finite: the same command with "
            f"'--resume --steps {last}' writes the best of the steps so far."
        )

    def begin(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Recall the looks up to the step that the run goes on from; those of later steps are repeated."""
        for number, folder in _looks(run_dir):
            if number > step:
                shutil.rmtree(folder)
                continue
            self.probe.recall(number, folder)
            self._seen.add(number)
        missing = [at for at in range(self.loop.save_every, step, self.loop.save_every) if at not in self._seen]
        if missing:
            steps = ", ".join(map(str, missing))
            yield Notice(step, f"Steps {steps} were not scored; the verdict is without them.")
        self._check_leader(run_dir)
        self._reason = self._settled(step)
        yield from self.after_save(step, run_dir)

    def _settled(self, step: int) -> str | None:
        """Say why no later step can win; None as long as vectors have not joined, with which all may be otherwise."""
        return self.probe.settled() if step > self.learner.config.joins_at else None

    def _check_leader(self, run_dir: Path) -> None:
        """Refuse to go on where the best step so far lost its weights to another: the judge's bounds have changed."""
        kept = [number for number, folder in _looks(run_dir) if self._has_weights(folder)]
        if self._seen and kept and (leader := self.probe.leader()) not in kept:
            raise CannotResume(
                f"By the bounds given now step {leader} is the best so far, but its weights are gone; by those of then "
                f"step {', '.join(map(str, kept))} was the best, and only its weights were kept.",
                hint="Give the bounds of then (--min-prompt, --max-drift), or resume with --no-verdict.",
            )

    def _is_finite(self) -> bool:
        """Say whether what was learned can be drawn with."""
        states = (module.state_dict().values() for module in self.learner.learning.values())
        return all(bool(torch.isfinite(tensor).all()) for tensors in states for tensor in tensors)

    def _has_weights(self, folder: Path) -> bool:
        """Say whether a look still holds what had been learned."""
        return all((folder / f"{name}.safetensors").is_file() for name in self.learner.learning)

    def after_save(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Look at a saved step, unless it is only where the run was interrupted."""
        is_due = step > 0 and (step % self.loop.save_every == 0 or step >= self.loop.steps)
        if not is_due or step in self._seen:
            return
        if not self._is_finite():
            yield Notice(step, f"Step {step} is not scored: what was learned holds numbers that are not finite.")
            return
        try:
            yield from self._look(step, run_dir)
        except StorageError as error:
            if step >= self.loop.steps:
                raise
            self.probe.forget(step)
            yield Notice(step, f"{error} Step {step} is not scored; the run goes on.")
            return
        except Diverged as error:
            self.probe.forget(step)
            yield Notice(step, f"Step {step} is not scored: {error}")
            return
        except OutOfMemory as error:
            hint = "Step {} is saved: the same command with '--resume --no-verdict' goes on without looks."
            raise OutOfMemory(error.message, field=error.field, hint=hint.format(step)) from error
        self._seen.add(step)
        leader = self.probe.leader()
        for number, folder in _looks(run_dir):
            if number != leader:  # it cannot win any more
                for name in self.learner.learning:
                    (folder / f"{name}.safetensors").unlink(missing_ok=True)
        self._reason = self._settled(step)
        if self._reason is not None and step < self.loop.steps:
            yield Notice(step, self._reason)

    def _look(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Write what has been learned, and the scores of what it draws."""
        with atomic_folder(_folder(run_dir, step)) as stage:
            for name, module in self.learner.learning.items():
                write_safetensors(stage / f"{name}.safetensors", module.state_dict())
            yield from self.probe.look(step, self.learner.drawing(step), stage)

    def finish(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Tell the verdict, bring the weights of its step back and write them.

        Raises:
            Diverged: What was learned was finite at no saved step.
        """
        if not self._seen:
            raise Diverged(
                f"No saved step up to step {step} holds finite numbers; there is nothing to choose from.",
                hint="Lower the learning rate.",
            )
        verdict = self.probe.verdict()
        yield verdict
        folder = _folder(run_dir, verdict.step)
        for name, module in self.learner.learning.items():
            file = folder / f"{name}.safetensors"
            if not file.is_file():
                raise CannotResume(
                    f"The verdict is for step {verdict.step}, but '{file}' is gone.",
                    hint=f"Remove '{run_dir}' and learn again.",
                )
            module.load_state_dict(read_safetensors(file))
        self.learner.lineage["verdict"] = {
            "reason": verdict.reason,
            "scores": verdict.scores,
            "alarms": list(verdict.alarms),
            "front": list(verdict.front),
            "steps": sorted(self._seen),
        }
        yield from self.learner.finish(verdict.step, run_dir)


def _folder(run_dir: Path, step: int) -> Path:
    """Name the folder of a look."""
    return run_dir / LOOKS / f"step-{step:08d}"


def _looks(run_dir: Path) -> list[tuple[int, Path]]:
    """Return the looks of a run by step; what is still being written has another name."""
    found = [(m, path) for path in (run_dir / LOOKS).glob("step-*") if (m := _FOLDER.fullmatch(path.name))]
    return sorted((int(match.group(1)), path) for match, path in found)
