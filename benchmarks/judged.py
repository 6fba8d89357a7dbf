"""Score concepts of two sides by the same instruments, and say which of the wanted ratios hold."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sfumato.evaluation.encoders import choose_encoders
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.measures import mean_interval
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.scores import StepScores
from sfumato.evaluation.verdict_plan import VerdictPlan
from sfumato.formats.concept import Concept, LearnedWord
from sfumato.formats.dual_encoder import load_dual_encoder
from sfumato.pipeline import Pipeline

MOST_TIME, MOST_MEMORY = 0.5, 0.7
"""What our time and our memory may be at most, as shares of theirs."""
JUDGE_SEED = 1000
"""First seed of the pictures that are judged; a verdict chooses its step on seeds from 0 on, so these are new to it."""


@dataclass(frozen=True)
class Entry:
    """One lesson of one side.

    Attributes:
        title: Its name in the table.
        seconds: Wall time of its process.
        peak_bytes: Its peak memory.
        fidelity: `subject_fidelity` of every judged picture.
        prompt: `prompt_margin` of every judged picture.
    """

    title: str
    seconds: float
    peak_bytes: int
    fidelity: tuple[float, ...]
    prompt: tuple[float, ...]

    def line(self) -> str:
        """Write its row of the table."""
        scores = f"{np.mean(self.fidelity):8.3f} {np.mean(self.prompt):8.3f}"
        return f"    {self.title:34} {self.seconds:7.1f} s {self.peak_bytes / 2**30:6.2f} GiB {scores}\n"


@dataclass(frozen=True)
class Demand:
    """One of the things that are wanted of our side: what it is, what was found, and whether it holds."""

    wanted: str
    found: str
    holds: bool


class Judge:
    """Draws every concept with the same prompts and seeds, in our pipeline, and scores the pictures.

    Args:
        pipeline: The base.
        pictures: Folder of the subject's pictures.
        word: The word for it.
        plan: What is asked for.
        folder: Where the pictures that were drawn are kept.
    """

    def __init__(self, pipeline: Pipeline, pictures: Path, word: LearnedWord, plan: VerdictPlan, folder: Path) -> None:
        eye = FeatureExtractor()
        encoders = choose_encoders(eye=eye, dual=load_dual_encoder)
        self.pipeline, self.folder = pipeline, folder
        self.encoders = encoders
        self.probe = SubjectProbe(plan, pictures, word.placeholder, word.class_noun, lambda: (encoders, eye))
        for _ in self.probe.begin(pipeline):
            pass

    def scores(self, concept: Concept, name: str) -> StepScores:
        """Score a concept; its pictures are kept in a folder of this name."""
        number, folder = len(self.probe.steps) + 1, self.folder / name
        folder.mkdir(parents=True)
        with self.pipeline.using((concept, 1.0)):
            for _ in self.probe.look(number, nullcontext(self.pipeline), folder):
                pass
        return self.probe.steps[number]

    def lines(self) -> str:
        """Write what the scores of the table are compared with."""
        stick, encoders = self.probe.yardstick, self.encoders
        texts = "its own pictures" if encoders.texts is None else encoders.texts.name
        seen = f"{encoders.pictures.name} and {texts}"
        own, base = float(np.mean(stick.own)), stick.base
        margin = "" if base.prompt is None else f" {np.mean(base.prompt):8.3f}"
        return (
            f"    judged by {seen} on {len(base.fidelity)} pictures each\n"
            f"    {'':34} {'time':>9} {'memory':>10} {'subject':>8} {'prompt':>8}\n"
            f"    {'the pictures themselves':34} {'':9} {'':10} {own:8.3f}\n"
            f"    {'the base, asked for the class':34} {'':9} {'':10} {np.mean(base.fidelity):8.3f}{margin}\n"
        )


def demands(ours: Entry, theirs: Entry) -> tuple[Demand, Demand, Demand]:
    """Compare a lesson of ours with one of theirs."""
    subject, subject_text = _difference(ours.fidelity, theirs.fidelity)
    prompt, prompt_text = _difference(ours.prompt, theirs.prompt)
    time, memory = ours.seconds / theirs.seconds, ours.peak_bytes / theirs.peak_bytes
    return (
        Demand("as good on both axes", f"subject {subject_text}, prompt {prompt_text}", subject >= 0 and prompt >= 0),
        Demand("at most half the wall time", f"{time:.2f}", time <= MOST_TIME),
        Demand("at most 0.7 of the peak memory", f"{memory:.2f}", memory <= MOST_MEMORY),
    )


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, str]:
    """Return the mean difference of paired pictures, and the same with its 95 % interval as text."""
    differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    low, high = mean_interval(differences)
    mean = float(np.mean(differences))
    return mean, f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
