"""Score what methods drew of subjects whose true pictures are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from sfumato.data.benchmark.schema import Benchmark, Prompt, PromptKind
from sfumato.data.images import load_image, resize
from sfumato.evaluation.encoders import Dual, Seeing
from sfumato.evaluation.fidelity import prompt_fidelity, subject_fidelity
from sfumato.evaluation.likeness import PictureDistance, Rows, class_before, cosines, means, side_rows
from sfumato.evaluation.reading import Reader
from sfumato.evaluation.scoreboard import COST_COLUMNS, Column, Entry
from sfumato.evaluation.trial import Asked, Case, Picture, Trial, cost_values

TRUTH = "the truth itself"
COLUMNS = (
    Column("truth_features", "truth, features", "less", of_subject=True),
    Column("truth_perceptual", "truth, perceptual", "less", of_subject=True),
    Column("truth_pixels", "truth, pixels", "less", of_subject=True),
    Column("subject", "subject fidelity", "more", of_subject=True),
    Column("changed", "change made", "more", "%"),
    Column("prompt", "change read back", "more", "%"),
    Column("text", "prompt fidelity", "more"),
    Column("drift", "drift of the class", "less"),
    Column("pres", "PRES", "less"),
    Column("div", "DIV", "more"),
    *COST_COLUMNS,
)
DETAILS = tuple(Column(f"truth_features_{kind}", kind, "less") for kind in get_args(PromptKind))
NOTES = (
    "By kind of prompt: distance from the truth in features.",
    "Truth: distance of every picture from the picture that it should be, the nearest where several are right; in "
    "features 1 - cosine, perceptual as in training the autoencoder, in pixels the root mean square of [0, 1].",
    "Subject fidelity: mean pairwise cosine with the pictures that were learned from. The truth itself says what it is "
    "at best: the prompts ask for something else than those pictures.",
    "Change made: share of pictures whose features are nearer to the true picture than to the same subject without the "
    "change; the picture of a method that ignores the prompt is not.",
    "Change read back: share of pictures in which a classifier, fitted to real pictures, reads what the prompt asked "
    "for; prompts without a classifier do not count.",
    "Prompt fidelity: cosine of picture and prompt, the class noun alone in the place of the word: a picture gains by "
    "what was asked of the subject, not by who it is.",
    "Drift: 1 - cosine of pictures of the class prompt before and after learning, seed by seed. PRES: mean cosine of "
    "those after with the pictures that were learned from.",
    "DIV: mean perceptual distance of pictures of one prompt.",
    "Base with the class noun: asked what the methods are asked, with the class noun alone in the place of their word. "
    "That noun never names a held-out icon: it is a neighbour that the base knows, such as horse face for the unicorn.",
    "Learned: better than that row in every column that concerns the subject, each beyond chance (the 95 % bootstrap "
    "interval over subjects lies above 0; five or more). In part: in some of these columns.",
    "Seconds and memory: of a process of its own for each lesson, the base included, what --cache held before not.",
)


class Scorer:
    """Scores trials.

    Args:
        folder: The benchmark.
        benchmark: Its content.
        eye: Encodes pictures.
        distance: Perceptual distance.
        reader: Reads changes off pictures.
        text: Compares pictures with texts; `None` leaves that column out.
    """

    def __init__(
        self,
        folder: Path,
        benchmark: Benchmark,
        eye: Seeing,
        distance: PictureDistance,
        reader: Reader,
        text: Dual | None = None,
    ) -> None:
        self._folder, self._eye, self._distance, self._reader, self._text = folder, eye, distance, reader, text
        self._subjects = {subject.name: subject for subject in benchmark.subjects}

    def score(self, trials: Sequence[Trial]) -> list[Entry]:
        """Score all trials of one subject, the truth itself last.

        Args:
            trials: Of one subject, with or without that of the base; drift needs it.
        """
        case, costs = trials[0].case, {trial.method: cost_values(trial) for trial in trials}
        return [
            Entry(case.name, case.kind, method, means(rows) | costs.get(method, {}))
            for method, rows in self.rows(trials).items()
        ]

    def rows(self, trials: Sequence[Trial]) -> dict[str, Rows]:
        """Score every picture of all trials of one subject.

        Args:
            trials: As for `score`.

        Returns:
            For each method, the truth itself last, the values of each column in the order of prompts and seeds: one a
            picture, in `pres` and `drift` one a picture of the class, in `div` one a prompt.
        """
        case = trials[0].case
        subject = self._subjects[case.name]
        prompts = {prompt.name: prompt for prompt in subject.prompts}
        truths = {asked.name: [self._read(f) for f in prompts[asked.name].truths] for asked in case.asked}
        learned = self._eye.embed_pictures([self._read(picture.file) for picture in subject.pictures])
        before = class_before(trials, self._eye)
        said = {asked.name: asked.with_noun(case.class_noun) for asked in case.asked}
        found: dict[str, Rows] = {}
        for trial in trials:
            drawn = {name: [_fitted(p, truths[name][0]) for p in pictures] for name, pictures in trial.drawn.items()}
            rows = self._of_subject(drawn, truths, learned, prompts) | self._of_prompts(
                subject.style, said, prompts, drawn
            )
            found[trial.method] = rows | side_rows(
                replace(trial, drawn=drawn), self._eye, learned, before, self._distance
            )
        best = self._eye.embed_pictures([p for group in truths.values() for p in group])
        return {
            **found,
            TRUTH: {"subject": _near(best, learned), **self._of_prompts(subject.style, said, prompts, truths)},
        }

    def _of_subject(
        self,
        drawn: Mapping[str, Sequence[Picture]],
        truths: Mapping[str, Sequence[Picture]],
        learned: Tensor,
        prompts: Mapping[str, Prompt],
    ) -> Rows:
        """Measure distances to the truth and the likeness to the subject."""
        features: list[float] = []
        by_kind: dict[str, list[float]] = {}
        changed: list[float] = []
        perceptual: list[float] = []
        pixels: list[float] = []
        seen = []
        for name, pictures in drawn.items():
            looked, wanted = self._eye.embed_pictures(pictures), self._eye.embed_pictures(truths[name])
            seen.append(looked)
            apart = (1.0 - cosines(looked, wanted).max(dim=1).values).tolist()
            features += apart
            unchanged = self._eye.embed_pictures([self._read(prompts[name].unchanged)])
            changed += [
                float(far < 1.0 - near)
                for far, near in zip(apart, cosines(looked, unchanged)[:, 0].tolist(), strict=True)
            ]
            by_kind.setdefault(prompts[name].kind, []).extend(apart)
            by_truth = [self._distance.between(pictures, [truth] * len(pictures)) for truth in truths[name]]
            perceptual += np.min(by_truth, axis=0).tolist()
            pixels += [min(_pixels(picture, truth) for truth in truths[name]) for picture in pictures]
        return {
            "truth_features": features,
            "truth_perceptual": perceptual,
            "truth_pixels": pixels,
            "subject": _near(torch.cat(seen), learned),
            "changed": changed,
            **{f"truth_features_{kind}": values for kind, values in by_kind.items()},
        }

    def _of_prompts(
        self,
        style: str,
        said: Mapping[str, str],
        prompts: Mapping[str, Prompt],
        drawn: Mapping[str, Sequence[Picture]],
    ) -> Rows:
        """Measure whether pictures show what was asked for."""
        right: list[float] = []
        near: list[float] = []
        for name, pictures in drawn.items():
            verdicts = self._reader.right(style, prompts[name].expects, pictures)
            right += [float(verdict) for verdict in verdicts if verdict is not None]
            if self._text is not None:
                words = self._text.embed_texts([said[name]] * len(pictures))
                near += prompt_fidelity(self._text.embed_pictures(pictures).double(), words.double()).tolist()
        return {"prompt": right, "text": near}

    def _read(self, file: str) -> Picture:
        """Read a picture of the benchmark."""
        return load_image(self._folder / file).rgb


def cases_of(folder: Path, benchmark: Benchmark) -> list[Case]:
    """Turn the subjects of a benchmark into cases."""
    return [
        Case(
            subject.name,
            folder / subject.folder,
            subject.class_noun,
            subject.class_prompt,
            tuple(Asked(prompt.name, prompt.kind, prompt.text, prompt.words) for prompt in subject.prompts),
            f"{subject.kind}s",
        )
        for subject in benchmark.subjects
    ]


def wanted_attributes(benchmark: Benchmark, cases: Sequence[Case]) -> set[tuple[str, str]]:
    """List the styles and attributes of drawn people that the prompts of some cases let one read."""
    chosen = {case.name: {asked.name for asked in case.asked} for case in cases}
    return {
        (subject.style, attribute)
        for subject in benchmark.subjects
        for prompt in subject.prompts
        if prompt.name in chosen.get(subject.name, ())
        for attribute in prompt.expects
        if attribute not in ("ground", "place")
    }


def _near(drawn: Tensor, learned: Tensor) -> list[float]:
    """Return how near each picture is to those that were learned from."""
    return [float(value) for value in subject_fidelity(drawn.double(), learned.double())]


def _fitted(picture: Picture, truth: Picture) -> Picture:
    """Scale a picture to the size of the truth."""
    height, width = truth.shape[:2]
    return resize(picture, width, height)


def _pixels(picture: Picture, truth: Picture) -> float:
    """Return the root mean square difference of two pictures, colours in [0, 1]."""
    difference = (picture.astype(np.float64) - truth.astype(np.float64)) / 255.0
    return float(np.sqrt(np.mean(difference**2)))
