"""Rehearse a lesson: its first three steps with everything around them, for real, in a folder that is thrown away.

The rehearsal is the lesson itself with fewer steps, so nothing of what it finds is modelled: it reads the pictures,
draws for the verdict, steps, saves, judges and writes. Only what is drawn in numbers is cut short, and scaled
afterwards.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from sfumato.errors import TrainingError
from sfumato.evaluation.verdict_plan import VerdictPlan
from sfumato.evaluation.verdict_report import write_report
from sfumato.events import Artifact, Done, Event, Progress
from sfumato.formats.bundle import load_bundle
from sfumato.operations.learn import judge, lesson_config, verdict_plan
from sfumato.operations.own_process import Ended, Send, in_own_process
from sfumato.operations.stopwatch import Look, NetworkTime, Stopwatch, TimedProbe
from sfumato.requests import LearnRequest
from sfumato.runtime.out_of_memory import is_out_of_memory
from sfumato.runtime.peak_memory import be_ended_first, peak_memory_bytes
from sfumato.training.learn_config import LearnConfig
from sfumato.training.personalise import learn as learn_subject

STEPS = 3
"""Optimizer steps of a rehearsal; the first one warms up and is not counted."""
LOOK_STEPS = 2
"""Sampler steps of a look; all of its pictures are drawn, since judging them together takes memory."""
CLASS_PICTURES = 4
"""Class pictures of each class: a whole batch of the sampler."""
_KILLED = (-9, -6)  # ended by the system; aborted where C++ got no memory


@dataclass(frozen=True)
class Sizes:
    """What a rehearsal wrote, in bytes.

    Attributes:
        result: The concept file, or the folder of the base.
        checkpoint: One saved state.
        learned: What learns, kept beside the best look.
        optimizer: The optimizer's moments, part of a saved state.
        look: Scores and pictures of one look.
        preview: One sheet of previews.
        report: The report on the verdict.
        cache: Encoded pictures and texts.
        class_cache: Class pictures.
    """

    result: int
    checkpoint: int
    learned: int
    optimizer: int
    look: int
    preview: int
    report: int
    cache: int
    class_cache: int


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal found.

    Attributes:
        watch: Seconds and peaks by part.
        base_look: The look at the base; None without a verdict.
        look: The look at a saved step; None without a verdict.
        look_steps: Sampler steps of both.
        class_pictures: Class pictures that were drawn for each class; 0 for none.
        sizes: What it wrote.
    """

    watch: Stopwatch
    base_look: Look | None
    look: Look | None
    look_steps: int
    class_pictures: int
    sizes: Sizes

    @property
    def peak_bytes(self) -> int:
        """The most memory that the process held."""
        return self.watch.peak_bytes


@dataclass(frozen=True)
class OutOfRoom:
    """A rehearsal that ran out of memory, and what it had by then."""

    peak_bytes: int


@dataclass(frozen=True)
class _Job:
    """What the other process is told."""

    request: LearnRequest
    folder: Path
    started_s: float


def rehearse(request: LearnRequest) -> Generator[Event, None, Rehearsed | OutOfRoom]:
    """Rehearse a lesson in a process of its own; nothing is written but to a temporary folder.

    Args:
        request: The lesson.

    Yields:
        `Progress` of its preparation and looks.

    Returns:
        What it found.

    Raises:
        SfumatoError: The lesson's own problem, with its field and hint.
        TrainingError: The process ended for another reason than memory.
    """
    with tempfile.TemporaryDirectory(prefix="sfumato-plan-", ignore_cleanup_errors=True) as folder:
        found = yield from in_own_process(_rehearse, _Job(request, Path(folder), time.time()))
    if not isinstance(found, Ended):
        return found
    if found.exit_code in _KILLED:
        return OutOfRoom(found.peak_bytes)
    raise TrainingError(
        f"The measured steps ended with exit code {found.exit_code} before they were finished.",
        hint="Start the lesson itself to see what happens.",
    )


def rehearsal_config(config: LearnConfig, folder: Path) -> LearnConfig:
    """Cut a lesson down to its first steps; everything that decides their cost stays.

    Args:
        config: The lesson.
        folder: Where its result goes instead.
    """
    loop = {
        "steps": STEPS,
        "log_every": 1,
        "save_every": STEPS,
        "validate_every": 0,
        "preview_every": STEPS if config.loop.preview_every else 0,
        "max_seconds": None,
    }
    return config.model_copy(
        update={
            "output": folder / config.output.name,
            **({"num_class_images": min(CLASS_PICTURES, config.num_class_images)} if config.prior_weight else {}),
            "progressive_steps": 0,  # all vectors at once, as at the end
            "loop": config.loop.model_copy(update=loop),
        }
    )


def shorter_verdict(plan: VerdictPlan) -> VerdictPlan:
    """Cut the sampler steps of a verdict; pictures and batches stay as many as they are."""
    steps = min(LOOK_STEPS, plan.drawing.steps)
    return plan.model_copy(update={"drawing": plan.drawing.model_copy(update={"steps": steps})})


def _rehearse(job: _Job, send: Send) -> Rehearsed | OutOfRoom:
    """Rehearse; runs in the other process, which is to be the first to go when memory runs out."""
    be_ended_first()
    try:
        return _rehearsed(job, send)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return OutOfRoom(peak_memory_bytes())


def _rehearsed(job: _Job, send: Send) -> Rehearsed:
    """Learn for three steps and look at the clock."""
    watch, request = Stopwatch(job.started_s), job.request
    config = rehearsal_config(lesson_config(request), job.folder)
    asked = shorter_verdict(verdict_plan(request) if request.verdict else VerdictPlan())
    judging = judge(request, asked, config.pictures)
    base = load_bundle(request.base, held_in=config.held_in)
    probe = None if judging is None else TimedProbe(judging, NetworkTime(base.unet), watch)
    result = config.output
    for event in learn_subject(config, base, job.folder / "run", cache=job.folder / "cache", probe=probe):
        watch.note(event)
        if isinstance(event, Progress):
            send(event)
        elif isinstance(event, Artifact):
            result = event.path
        elif isinstance(event, Done) and event.info.get("stopped"):
            raise KeyboardInterrupt
    if judging is not None:
        for event in write_report(judging, job.folder / "report"):
            watch.note(event)
    return Rehearsed(
        watch,
        None if probe is None else probe.base_look,
        None if probe is None else probe.step_look,
        asked.drawing.steps,
        config.num_class_images if config.prior_weight else 0,
        _sizes(job.folder, result),
    )


def _sizes(folder: Path, result: Path) -> Sizes:
    """Weigh what a rehearsal wrote."""
    run = folder / "run"
    checkpoints, looks = run / "checkpoints", run / "looks"
    learned = _weight(looks, "learned-*")
    return Sizes(
        result=_weight(result),
        checkpoint=_weight(checkpoints),
        learned=learned,
        optimizer=_weight(checkpoints, "optimizer-*"),
        look=_weight(looks) - learned,
        preview=_weight(run / "previews"),
        report=_weight(folder / "report"),
        cache=_weight(folder / "cache") - _weight(folder / "cache" / "class"),
        class_cache=_weight(folder / "cache" / "class"),
    )


def _weight(place: Path, pattern: str = "*") -> int:
    """Sum the sizes of a file, or of the files below a folder."""
    if place.is_file():
        return place.stat().st_size
    return sum(file.stat().st_size for file in place.rglob(pattern) if file.is_file())
