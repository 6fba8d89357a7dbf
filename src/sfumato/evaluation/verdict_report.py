"""The verdict for the eye: one page that needs nothing else, one sheet, and the numbers for programs."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfumato.data.images import png_bytes
from sfumato.evaluation.canvas import Canvas, Number
from sfumato.evaluation.charts import BOUND, CHOSEN, FAINT, INK, Curve, draw_curve, draw_plane
from sfumato.evaluation.joint_probe import JointProbe
from sfumato.evaluation.measures import Interval, mean_interval
from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.scores import columns
from sfumato.evaluation.verdict_plan import VerdictPlan, filled
from sfumato.events import Artifact, Event, Verdict
from sfumato.formats.atomic import atomic_folder

Picture = UInt8[np.ndarray, "H W 3"]
Measured = Mapping[int, Mapping[str, tuple[float, Interval | None]]]
"""Every number of every step, with its interval where it has one."""

_WIDTH, _MARGIN, _LABEL, _GAP = 1080, 20, 84, 4
_CHART, _SMALLEST = 190, 24
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;background:#faf9f6;"
    "color:#28282c}table{border-collapse:collapse;font-size:13px}td,th{padding:.2em .7em;text-align:right;"
    "border-bottom:1px solid #e2e0da}td:first-child,th:first-child{text-align:left}.alarm{color:#a3262a;"
    "font-weight:600}.chosen{background:#fbe9df}"
)
_MEANINGS = {
    "subject_share": "subject, 0–1",
    "prompt_share": "prompt, 0–1",
    "drift_share": "drift, 0–1",
    "copies": "copies",
    "leaks": "leaks",
    "subject_fidelity": "subject, cosine",
    "prompt_margin": "prompt, margin",
    "word_fidelity": "word alone, cosine",
    "pres": "PRES",
    "class_shift": "class moved",
    "div": "DIV",
}


@dataclass(frozen=True)
class _Section:
    """What is told of one subject: its measurements, the verdict with its alarms alone, numbers by step, its sheet."""

    probe: SubjectProbe
    verdict: Verdict
    measured: Measured
    sheet: Canvas


@dataclass(frozen=True)
class _Columns:
    """Which pictures of a row find room: as many of each prompt as of the others, then of the plain sentences."""

    plan: VerdictPlan
    prompts: int
    seeds: int
    class_seeds: int

    @property
    def count(self) -> int:
        """Pictures that are shown of a row."""
        return self.prompts * self.seeds + 2 * self.class_seeds

    @property
    def whole(self) -> int:
        """Pictures of a row."""
        return len(self.plan.prompts) * self.plan.seeds + 2 * self.plan.class_seeds

    def of(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Take what is shown from a row; that of the base ends before the sentence with the word."""
        plan = self.plan
        first = len(plan.prompts) * plan.seeds
        shown = [prompt * plan.seeds + seed for prompt in range(self.prompts) for seed in range(self.seeds)]
        for start in (first, first + plan.class_seeds):
            shown += range(start, start + self.class_seeds)
        return [pictures[index] for index in shown if index < len(pictures)]


def _columns(plan: VerdictPlan) -> _Columns:
    """Choose what is shown so that no picture is too small to be seen."""
    room = (_WIDTH - 2 * _MARGIN - _LABEL) // (_SMALLEST + _GAP)
    class_seeds = min(plan.class_seeds, room // 6)
    room -= 2 * class_seeds
    prompts = min(len(plan.prompts), room)
    return _Columns(plan, prompts, min(plan.seeds, room // prompts), class_seeds)


def write_report(probe: SubjectProbe | JointProbe, folder: Path) -> Iterator[Event]:
    """Write `report.html`, `report.png` and `scores.json`; of several subjects, each has a section in all three.

    Args:
        probe: What has looked at all steps.
        folder: Where to; an existing one is replaced as a whole.

    Yields:
        An `Artifact` of kind `report` for the page and the sheet.

    Raises:
        StorageError: The folder cannot be written.
    """
    verdict = probe.verdict()
    sections = [_section(one, verdict) for one in (probe.subjects if isinstance(probe, JointProbe) else (probe,))]
    with atomic_folder(folder) as stage:
        (stage / "report.html").write_text(_page(sections, verdict), encoding="utf-8")
        (stage / "report.png").write_bytes(_below_each_other([section.sheet for section in sections]))
        (stage / "scores.json").write_text(json.dumps(_content(sections, verdict), indent=1) + "\n", encoding="utf-8")
    yield Artifact(folder / "report.html", "report")
    yield Artifact(folder / "report.png", "report")


def _section(probe: SubjectProbe, verdict: Verdict) -> _Section:
    """Gather what is told of one subject."""
    own = replace(verdict, alarms=probe.alarms(verdict.step))
    measured = {step: columns(scores, probe.yardstick) for step, scores in sorted(probe.steps.items())}
    return _Section(probe, own, measured, _sheet(probe, own))


def _below_each_other(sheets: Sequence[Canvas]) -> bytes:
    """Return sheets of one width as one PNG."""
    if len(sheets) == 1:
        return sheets[0].png()
    rows = [np.asarray(Image.open(io.BytesIO(sheet.png())).convert("RGB")) for sheet in sheets]
    return png_bytes(Image.fromarray(np.concatenate(rows)))


def _content(sections: Sequence[_Section], verdict: Verdict) -> dict[str, Any]:
    """Return everything that was measured as plain data."""
    if len(sections) == 1:
        return _judgement(verdict) | _measurements(sections[0])
    subjects = [
        {"placeholder": one.probe.placeholder, "alarms": list(one.verdict.alarms), **_measurements(one)}
        for one in sections
    ]
    return {**_judgement(verdict), "subjects": subjects}


def _judgement(verdict: Verdict) -> dict[str, Any]:
    """Return what the verdict says as plain data."""
    return {
        "step": verdict.step,
        "reason": verdict.reason,
        "alarms": list(verdict.alarms),
        "front": list(verdict.front),
    }


def _measurements(section: _Section) -> dict[str, Any]:
    """Return what was measured of one subject as plain data."""
    probe, stick = section.probe, section.probe.yardstick
    return {
        "left_out": list(stick.left_out),
        "asked": probe.asked(),
        "subject_pictures": list(stick.names),
        "subject_to_itself": list(stick.own),
        "kin": {"features": stick.kin.features, "pixels": stick.kin.pixels, "source": stick.kin.source},
        "base": stick.base.to_dict(),
        "steps": [
            {**probe.steps[step].to_dict(), "means": _means(numbers)} for step, numbers in section.measured.items()
        ],
    }


def _means(numbers: Mapping[str, tuple[float, Interval | None]]) -> dict[str, Any]:
    """Return the means of a step with their intervals as plain data."""
    return {name: {"value": value, "interval": interval} for name, (value, interval) in numbers.items()}


def _sheet(probe: SubjectProbe, verdict: Verdict) -> Canvas:
    """Lay the whole report out."""
    lines = textwrap.wrap(f"Use step {verdict.step}. {verdict.reason}", 150)
    alarms = [line for alarm in verdict.alarms for line in textwrap.wrap(f"Alarm. {alarm}", 150)]
    shown = _columns(probe.plan)
    if shown.count < shown.whole:
        lines.append(f"Shown are {shown.count} of the {shown.whole} pictures of a row; all of them are scored.")
    side = (_WIDTH - 2 * _MARGIN - _LABEL) / shown.count - _GAP
    rows = len(probe.drawn) + 2
    top = _MARGIN + 34 + 17 * (len(lines) + len(alarms))
    grid = top + _CHART + 60
    canvas = Canvas(_WIDTH, int(grid + rows * (side + _GAP) + _MARGIN))
    canvas.rect(0, 0, canvas.width, canvas.height, "#faf9f6")
    canvas.text((_MARGIN, _MARGIN + 16), f"Verdict on {probe.placeholder}", 18)
    for number, line in enumerate([*lines, *alarms]):
        canvas.text((_MARGIN, _MARGIN + 40 + 17 * number), line, 12, INK if number < len(lines) else BOUND)
    _charts(canvas, probe, verdict, top)
    _grid(canvas, probe, verdict, grid, side, shown)
    return canvas


def _charts(canvas: Canvas, probe: SubjectProbe, verdict: Verdict, top: Number) -> None:
    """Draw the curves that the rule looks at, and the front."""
    candidates, rule = probe.candidates(), probe.plan.rule
    steps = [one.step for one in candidates]
    drawn = []
    for title, rows, bound, is_floor in (
        ("subject fidelity", [one.fidelity for one in candidates], None, False),
        ("prompt fidelity", [one.prompt for one in candidates], rule.min_prompt, True),
        ("drift of the class", [one.drift for one in candidates], rule.max_drift, False),
    ):
        known = [row for row in rows if row is not None]
        if len(known) == len(rows):
            means, intervals = [float(np.mean(row)) for row in known], [mean_interval(row) for row in known]
            drawn.append(Curve(title, steps, means, intervals, bound, is_floor))
    width = (_WIDTH - 2 * _MARGIN) / (len(drawn) + (len(drawn) > 1))
    for number, curve in enumerate(drawn):
        draw_curve(canvas, (_MARGIN + number * width, top, width, _CHART), curve, verdict.step)
    if len(drawn) > 1:
        across, up = drawn[1], drawn[0]
        points = list(zip(steps, across.values, up.values, strict=True))
        box = (_MARGIN + len(drawn) * width, top, width, _CHART)
        names = ("steps that none beats", across.title, up.title)
        draw_plane(canvas, box, points, verdict.front, verdict.step, names)


def _grid(canvas: Canvas, probe: SubjectProbe, verdict: Verdict, top: Number, side: Number, shown: _Columns) -> None:
    """Place a row for the base and for every step, what comes nearest to those of the step to use, and the subject."""
    prompts, seeds = filled(probe.plan.prompts, probe.placeholder)[: shown.prompts], shown.seeds
    with_word = probe.plan.plain.replace("{}", probe.placeholder)
    heads = [*prompts, f"{probe.class_prompt} (without the word)", f"{with_word} (alone)"]
    for number, head in enumerate(heads):
        of_class = max(0, number - len(prompts))
        left = _MARGIN + _LABEL + ((number - of_class) * seeds + of_class * shown.class_seeds) * (side + _GAP)
        letters = max(8, int((seeds if number < len(prompts) else shown.class_seeds) * (side + _GAP) / 5.6))
        for line, text in enumerate(textwrap.wrap(head, letters, max_lines=3, placeholder=" …")):
            canvas.text((left, top - 30 + 12 * line), text, 10)
    rows: list[tuple[str, str, list[Picture]]] = [
        ("the base" if step == 0 else f"step {step}", CHOSEN if step == verdict.step else INK, shown.of(pictures))
        for step, pictures in sorted(probe.drawn.items())
    ]
    nearest = [probe.learned[one.index] for one in probe.steps[verdict.step].nearest]
    rows += [("your nearest", FAINT, shown.of(nearest)), ("your pictures", FAINT, probe.subject[: shown.count])]
    for row, (label, colour, pictures) in enumerate(rows):
        y = top + row * (side + _GAP)
        canvas.text((_MARGIN, y + side / 2), label, 11, colour)
        if label == f"step {verdict.step}":
            canvas.rect(_MARGIN + _LABEL - 8, y, 4, side, CHOSEN)
        for column, picture in enumerate(pictures):
            canvas.picture(_MARGIN + _LABEL + column * (side + _GAP), y, side, picture)


def _page(sections: Sequence[_Section], verdict: Verdict) -> str:
    """Write the page."""
    words = escape(" and ".join(section.probe.placeholder for section in sections))
    alarms = "".join(f'<p class="alarm">Alarm. {escape(alarm)}</p>' for alarm in verdict.alarms)
    bodies = [_body(section) for section in sections]
    if len(sections) > 1:
        heads = [f"<h1>{escape(section.probe.placeholder)}</h1>" for section in sections]
        bodies = [head + body for head, body in zip(heads, bodies, strict=True)]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Verdict on {words}</title>'
        f"<style>{_STYLE}</style><h1>Verdict on {words}</h1>"
        f"<p><b>Use step {verdict.step}.</b> {escape(verdict.reason)}</p>{alarms}{''.join(bodies)}"
    )


def _body(section: _Section) -> str:
    """Write what is told of one subject."""
    measured, probe = section.measured, section.probe
    names = [name for name in _MEANINGS if any(name in numbers for numbers in measured.values())]
    head = "".join(f"<th>{escape(_MEANINGS[name])}</th>" for name in names)
    rows = ""
    for step, numbers in measured.items():
        cells = "".join(f"<td>{_cell(*numbers[name]) if name in numbers else '–'}</td>" for name in names)
        rows += f'<tr class="{"chosen" if step == section.verdict.step else ""}"><td>{step}</td>{cells}</tr>'
    notes = "".join(f"<li>{escape(note)}</li>" for note in probe.yardstick.left_out)
    asked = probe.asked()
    return (
        f"<h2>Curves and pictures</h2>{section.sheet.svg()}"
        f"<h2>Numbers</h2><table><tr><th>step</th>{head}</tr>{rows}</table>"
        "<p>Mean and 95 % interval over pictures; the same prompts and seeds at every step. Shares: subject "
        "and drift, 0 is what the base draws of the class, 1 what the subject's own pictures are to each other; "
        "prompt, 0 ignores the prompt, 1 is as the base follows it.</p>"
        f"<ul>{notes}<li>Pictures judged by {escape(str(asked['picture_encoder']))}, on white where their ground is "
        f"plain; texts by {escape(str(asked['text_encoder'] or 'what the base draws for the same prompts'))}.</li></ul>"
    )


def _cell(value: float, interval: Interval | None) -> str:
    """Write a number with its interval."""
    return f"{value:.3f}" if interval is None else f"{value:.3f} <small>({interval[0]:.3f}–{interval[1]:.3f})</small>"
