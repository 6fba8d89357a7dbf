"""Measure a base model: fixed prompts and seeds, real pictures through the same instruments beside every number."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path

import torch

from sfumato.data.primer.library import Primer
from sfumato.evaluation.distance import measure_distance
from sfumato.evaluation.features import FeatureExtractor, Measuring
from sfumato.evaluation.grounds import ground_name, on_white
from sfumato.evaluation.icons import look_at_icons, measure_recall, measure_style
from sfumato.evaluation.measures import Measure, share
from sfumato.evaluation.people import measure_people
from sfumato.evaluation.plan import EvaluationPlan
from sfumato.evaluation.probes import check_available
from sfumato.evaluation.questions import KINDS, Answer, questions, real_answers
from sfumato.evaluation.relation import measure_relations
from sfumato.evaluation.report import Report
from sfumato.evaluation.sheet import prompt_sheet
from sfumato.evaluation.subject import Subject, draw_answers
from sfumato.events import Artifact, Done, Event, Metric, Notice
from sfumato.formats.atomic import atomic_write_bytes

COLOUR_TARGET = 0.95
_MISSING = {
    "known icons": "the plan asks for none",
    "held-out icons": "the plan asks for none, or the data hold out no icons; so style is not measured either",
    "pairs": "the plan asks for none",
    "people": "the plan asks for none, or the data have no drawn people",
    "scenes": "the plan asks for none",
}


def evaluate_base(
    subject: Subject, primer: Primer, plan: EvaluationPlan, folder: Path, eye: FeatureExtractor
) -> Generator[Event, None, Report]:
    """Measure a base and write the report.

    Args:
        subject: The base.
        primer: The training set that questions and real pictures come from.
        plan: What is asked.
        folder: Gets `base.json`, `base.md` and `sheet.png`.
        eye: Looks at pictures.

    Yields:
        `Progress`, a `Metric` for every part, a `Notice` for what cannot be measured, an `Artifact` for every file and
        `Done`.

    Returns:
        The report.

    Raises:
        ConfigError: scikit-learn is not installed.
        DataError: The training set is damaged.
        StorageError: The folder cannot be written.
    """
    started = time.perf_counter()
    check_available()
    asked = questions(primer, plan)
    notes = [f"{kind}: not measured; {_MISSING[kind]}." for kind in KINDS if kind not in asked]
    answers: dict[str, list[Answer]] = {}
    for kind, scenes in asked.items():
        answers[kind] = yield from draw_answers(subject, kind, scenes, plan)
        left_out = len(scenes) - len(answers[kind])
        if left_out:
            notes.append(f"{kind}: {left_out} of {len(scenes)} prompts are too long for the base and were left out.")
    for note in notes:
        yield Notice(0, note)
    answers = {kind: given for kind, given in answers.items() if given}
    measures: list[Measure] = []
    for part in (_icons, _colours, _relations, _people, _distances):
        found = yield from part(subject, primer, plan, eye, answers)
        if found:
            yield Metric(0, {measure.name: measure.value for measure in found})
        measures += found
    data_hash = str(primer.manifest.get("sha256", ""))
    report = Report(subject.name, subject.base_hash, data_hash, plan.model_dump(), measures, notes)
    yield from _write(report, answers, folder)
    reached = {measure.name: measure.is_reached for measure in measures if measure.target is not None}
    yield Done(time.perf_counter() - started, {"targets": reached})
    return report


Answers = dict[str, list[Answer]]


def _icons(
    subject: Subject, primer: Primer, plan: EvaluationPlan, eye: FeatureExtractor, answers: Answers
) -> Measuring[list[Measure]]:
    """Measure concepts and styles."""
    kinds = [kind for kind in ("known icons", "held-out icons") if kind in answers]
    if not kinds:
        return []
    icons = yield from look_at_icons(primer, eye)
    drawn = {kind: eye.look(on_white(answer.picture) for answer in answers[kind]) for kind in kinds}
    measures: list[Measure] = []
    for kind in kinds:
        measures += yield from measure_recall(eye, icons, kind, answers[kind], drawn[kind], plan.seed)
    if "held-out icons" in answers:
        styles = [answer.thing.style for kind in kinds for answer in answers[kind]]
        unseen = real_answers(answer.scene for answer in answers["held-out icons"])
        features = torch.cat(list(drawn.values()))
        measures += yield from measure_style(eye, icons, (styles, features), unseen, plan.probes.icons, plan.seed)
    return measures


def _colours(
    subject: Subject, primer: Primer, plan: EvaluationPlan, eye: FeatureExtractor, answers: Answers
) -> Measuring[list[Measure]]:
    """Measure whether plain grounds have the colour that the prompt names."""
    yield from ()
    asked = [
        answer
        for kind in ("known icons", "held-out icons", "pairs", "people")
        for answer in answers.get(kind, ())
        if answer.scene.caption.endswith(f"{answer.scene.facts.background.colours[0]} background")
    ]
    if not asked:
        return []
    real = _colours_right(real_answers(answer.scene for answer in asked))
    ceiling = sum(real) / len(real)
    named = len({answer.scene.facts.background.colours[0] for answer in asked})
    right = _colours_right(asked)
    name = "colour of a plain background"
    return [share(name, right, target=COLOUR_TARGET, ceiling=ceiling, chance=1 / named, seed=plan.seed)]


def _colours_right(answers: Sequence[Answer]) -> list[bool]:
    """Say of each picture whether its ground has the colour asked for."""
    return [ground_name(answer.picture) == answer.scene.facts.background.colours[0] for answer in answers]


def _relations(
    subject: Subject, primer: Primer, plan: EvaluationPlan, eye: FeatureExtractor, answers: Answers
) -> Measuring[list[Measure]]:
    """Measure relations between two things."""
    if "pairs" not in answers:
        return []
    return (yield from measure_relations(primer, eye, answers["pairs"], plan.seed))


def _people(
    subject: Subject, primer: Primer, plan: EvaluationPlan, eye: FeatureExtractor, answers: Answers
) -> Measuring[list[Measure]]:
    """Measure attributes of drawn people."""
    if "people" not in answers:
        return []
    return (yield from measure_people(primer, eye, answers["people"], plan.probes.people, plan.seed))


def _distances(
    subject: Subject, primer: Primer, plan: EvaluationPlan, eye: FeatureExtractor, answers: Answers
) -> Measuring[list[Measure]]:
    """Measure Fréchet distances."""
    if len(answers.get("scenes", ())) < 2:
        return []
    return (yield from measure_distance(primer, eye, answers["scenes"], subject.reconstruct, plan))


def _write(report: Report, answers: Answers, folder: Path) -> Generator[Event, None, None]:
    """Write the three files."""
    files = {
        "base.json": report.to_json().encode(),
        "base.md": report.to_markdown().encode(),
        "sheet.png": prompt_sheet(list(answers.items())),
    }
    for name, content in files.items():
        atomic_write_bytes(folder / name, content)
        yield Artifact(folder / name, "image" if name.endswith(".png") else "report")
