"""Drawn people: are the attributes that the prompt names to be seen in the picture?

For every style and attribute a linear classifier learns from real pictures of training people. It is checked on real
pictures of the people asked for, whose identities are in no training picture, and then reads the generated ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sfumato.data.compose import Scene
from sfumato.data.primer.library import Primer
from sfumato.evaluation.attributes import ATTRIBUTES, NAMES, label, stated
from sfumato.evaluation.features import FeatureExtractor, Measuring
from sfumato.evaluation.grounds import on_white
from sfumato.evaluation.measures import Measure, Rows, balanced_accuracy, bootstrap
from sfumato.evaluation.probes import LinearProbe
from sfumato.evaluation.questions import Answer, training_people
from sfumato.events import Progress

TARGET = 0.80
_LEAST_OF_A_LABEL = 5


@dataclass(frozen=True)
class Readings:
    """What was read of one attribute; one row a picture that could be judged.

    Attributes:
        rows: Number of the picture.
        labels: The truth.
        real: Whether it was read right off the real picture.
        generated: Whether it was read right off the generated picture.
    """

    rows: np.ndarray
    labels: np.ndarray
    real: np.ndarray
    generated: np.ndarray

    def share(self, chosen: np.ndarray) -> float:
        """Return the accuracy on generated pictures as a share of that on the real ones, over some readings.

        It is not a number where no real picture is read right.
        """
        real = balanced_accuracy(self.real[chosen], self.labels[chosen])
        return balanced_accuracy(self.generated[chosen], self.labels[chosen]) / real if real > 0 else math.nan

    def resampled(self, counts: np.ndarray) -> np.ndarray:
        """Return positions of readings, each as often as its picture was drawn."""
        return np.repeat(np.arange(len(self.rows)), counts[self.rows])


def measure_people(
    primer: Primer, eye: FeatureExtractor, answers: Sequence[Answer], size: int, seed: int
) -> Measuring[list[Measure]]:
    """Measure how well the stated attributes of drawn people can be read back.

    Args:
        primer: The training set.
        eye: Looks at the pictures.
        answers: Pictures of held-out people, at least one.
        size: Number of real pictures that the classifiers learn from.
        seed: Decides which ones, and the resampling.

    Returns:
        For each attribute the accuracy and its share of what is reached on real pictures, and the mean of the shares.
    """
    scenes = training_people(primer, size, seed)
    known = yield from eye.look_at_real((on_white(scene.image) for scene in scenes), len(scenes), "real people")
    real = yield from eye.look_at_real(
        (on_white(answer.scene.image) for answer in answers), len(answers), "real held-out people"
    )
    drawn = eye.look(on_white(answer.picture) for answer in answers)
    readings: dict[str, Readings] = {}
    for number, attribute in enumerate(ATTRIBUTES):
        found = _read(primer, attribute, (scenes, known), answers, (real, drawn))
        if found is not None:
            readings[attribute] = found
        yield Progress("attributes of people", number + 1, len(ATTRIBUTES))
    return _measures(readings, len(answers), seed)


def _measures(readings: Mapping[str, Readings], count: int, seed: int) -> list[Measure]:
    """Turn readings into measures; pictures are resampled together, since one picture has several attributes."""
    measures = []
    for attribute, found in readings.items():
        everything = np.arange(len(found.rows))
        ceiling = balanced_accuracy(found.real, found.labels)
        reached = balanced_accuracy(found.generated, found.labels)
        chance = 1 / max(1, len(np.unique(found.labels)))

        def accuracy(rows: Rows, found: Readings = found) -> float:
            return balanced_accuracy(found.generated[rows], found.labels[rows])

        def relative(rows: Rows, found: Readings = found) -> float:
            return found.share(rows)

        intervals = [bootstrap(statistic, len(everything), seed) for statistic in (accuracy, relative)]
        name = f"people, {NAMES[attribute]}"
        measures += [
            Measure(f"{name}: accuracy", reached, len(everything), intervals[0], None, ceiling, chance),
            Measure(
                f"{name}: share of what real pictures reach",
                found.share(everything),
                len(everything),
                intervals[1],
                TARGET,
                1.0,
                chance / ceiling if ceiling > 0 else None,
            ),
        ]
    if readings:
        measures.append(_mean(readings, count, seed))
    return measures


def _mean(readings: Mapping[str, Readings], count: int, seed: int) -> Measure:
    """Average the shares over the attributes that have one."""

    def mean(rows: Rows) -> float:
        counts = np.bincount(rows, minlength=count)
        shares = np.array([found.share(found.resampled(counts)) for found in readings.values()])
        return math.nan if np.isnan(shares).all() else float(np.nanmean(shares))

    name = "people, mean of the shares"
    return Measure(name, mean(np.arange(count)), count, bootstrap(mean, count, seed), TARGET, 1.0)


def _read(
    primer: Primer,
    attribute: str,
    known: tuple[Sequence[Scene], Tensor],
    answers: Sequence[Answer],
    features: tuple[Tensor, Tensor],
) -> Readings | None:
    """Read one attribute off real and generated pictures, style by style; `None` if no classifier can be fitted."""
    scenes, known_features = known
    records = [primer.by_file[answer.thing.file] for answer in answers]
    rows: list[int] = []
    labels: list[str] = []
    real: list[bool] = []
    generated: list[bool] = []
    for style in sorted({record["style"] for record in records}):
        probe, kinds = fit_attribute(primer, attribute, style, scenes, known_features)
        asked = [
            row
            for row, (record, answer) in enumerate(zip(records, answers, strict=True))
            if record["style"] == style
            and attribute in stated(record, answer.scene.caption)
            and label(record, attribute) in kinds
        ]
        if probe is None or not asked:
            continue
        truth = [str(label(records[row], attribute)) for row in asked]
        rows += asked
        labels += truth
        for found, into in zip(features, (real, generated), strict=True):
            into += [read == true for read, true in zip(probe.predict(found[asked]), truth, strict=True)]
    if not rows:
        return None
    return Readings(np.array(rows), np.array(labels), np.array(real), np.array(generated))


def fit_attribute(
    primer: Primer, attribute: str, style: str, scenes: Sequence[Scene], features: Tensor
) -> tuple[LinearProbe | None, set[str]]:
    """Fit the classifier of one attribute in one style.

    Args:
        primer: The training set.
        attribute: A name out of `ATTRIBUTES`, or another key of a record's attributes.
        style: Key of the style.
        scenes: Pictures of people; those of other styles are passed over.
        features: Their features, `(n, d)`.

    Returns:
        The classifier and the labels that it knows; `None` where fewer than two labels have enough pictures.
    """
    labels: dict[int, Any] = {}
    for row, scene in enumerate(scenes):
        record = primer.by_file[scene.facts.things[0].file]
        if record["style"] == style:
            labels[row] = label(record, attribute)
    counts = {kind: list(labels.values()).count(kind) for kind in set(labels.values()) - {None}}
    kinds = {str(kind) for kind, count in counts.items() if count >= _LEAST_OF_A_LABEL}
    rows = [row for row, kind in labels.items() if kind in kinds]
    if len(kinds) < 2:
        return None, set()
    return LinearProbe(features[rows], [labels[row] for row in rows]), kinds
