"""A figure for each of the papers' experiments: what its rows reach, with intervals, between the base and the truth."""

from __future__ import annotations

import textwrap

from benchmarks.paper_experiments import DIV, PRES, SUBJECT, TEXT, Experiment
from benchmarks.paper_report import COLUMNS, PaperReport
from sfumato.evaluation.canvas import Canvas
from sfumato.evaluation.characters import TRUTH
from sfumato.evaluation.charts import FAINT, Rows, draw_rows
from sfumato.evaluation.measures import nested_interval
from sfumato.evaluation.trial import BASELINE

_SHOWN = (SUBJECT, TEXT, PRES, DIV)
_WIDTH, _MARGIN, _CHART = 1080, 20, 220
_READ = (
    "Dots: mean over subjects; upright lines: 95 % bootstrap interval, subjects drawn first. Rows share subjects and "
    "seeds: differences are surer than the lines look, and are judged pair by pair."
)


def figure_name(experiment: Experiment) -> str:
    """Name the file of a figure."""
    return f"paper-{experiment.name}.png"


def figure(report: PaperReport, experiment: Experiment) -> bytes:
    """Draw an experiment: a chart for each of subject and prompt fidelity, PRES and DIV that was measured, as a PNG.

    Args:
        report: What was measured.
        experiment: One of its experiments.
    """
    charts = [rows for column in _SHOWN if (rows := _rows(report, experiment, column)) is not None]
    said = f"{(report.verdict(experiment) or 'not measured').capitalize()}. "
    lines = textwrap.wrap(said + ". ".join(map(str, report.judge(experiment))) + ".", 165)
    top = _MARGIN + 36 + 15 * len(lines)
    canvas = Canvas(_WIDTH, top + _CHART + 30)
    canvas.text((_MARGIN, _MARGIN + 14), f"{experiment.title[0].upper()}{experiment.title[1:]}", 16)
    for number, line in enumerate(lines):
        canvas.text((_MARGIN, _MARGIN + 36 + 15 * number), line, 11)
    width = (_WIDTH - 2 * _MARGIN) / max(1, len(charts))
    for number, rows in enumerate(charts):
        draw_rows(canvas, (_MARGIN + number * width, top, width, _CHART), rows)
    canvas.text((_MARGIN, top + _CHART + 16), _READ, 9, FAINT)
    return canvas.png()


def _rows(report: PaperReport, experiment: Experiment, column: str) -> Rows | None:
    """Gather a column of the rows of an experiment; nothing where it was not measured for all of them."""
    found = {title: report.values[arm.label].get(column) for title, arm in experiment.arms.items()}
    known = {title: list(values.values()) for title, values in found.items() if values}
    if len(known) < len(found):
        return None
    means = [report.mean(arm.label, column) or 0.0 for arm in experiment.arms.values()]
    intervals = [nested_interval(values, report.seed) for values in known.values()]
    marks = {name: mean for name in (BASELINE, TRUTH) if (mean := report.mean(name, column)) is not None}
    (title,) = [f"{one.title} ({one.better} is better)" for one in COLUMNS if one.key == column]
    names = [name.replace("+", " +") for name in known]  # where a line may break
    return Rows(title, names, means, intervals, marks)
