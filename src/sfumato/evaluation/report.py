"""The report on a base: for people as a table, for programs as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sfumato.evaluation.markdown_table import markdown_table
from sfumato.evaluation.measures import Measure
from sfumato.runtime.json_values import json_value

FORMAT = 1
_HEADER = ("measure", "target", "reached", "95 % interval", "ceiling", "chance", "n")


@dataclass(frozen=True)
class Report:
    """Everything that was measured.

    Attributes:
        base: Name of the base.
        base_hash: Hash of its weights.
        data_hash: Hash of the training set that the questions come from.
        plan: The plan, as plain data.
        measures: What was measured.
        notes: What could not be measured, and why.
    """

    base: str
    base_hash: str
    data_hash: str
    plan: dict[str, Any]
    measures: Sequence[Measure]
    notes: Sequence[str] = field(default_factory=tuple)

    def to_json(self) -> str:
        """Return the report as JSON; the same base, data and plan give the same bytes, what has no value is null."""
        measures = [{**asdict(measure), "is_reached": measure.is_reached} for measure in self.measures]
        content = {
            "format": FORMAT,
            "base": {"name": self.base, "hash": self.base_hash},
            "data": {"hash": self.data_hash},
            "plan": self.plan,
            "measures": measures,
            "notes": list(self.notes),
        }
        return json.dumps(json_value(content), indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return the report as a page with one table."""
        judged = [measure for measure in self.measures if measure.is_reached is not None]
        met = sum(measure.is_reached is True for measure in judged)
        lines = [
            f"# How good is {self.base}?",
            "",
            f"{met} of {len(judged)} targets are reached. Base {self.base_hash[:12]}, data {self.data_hash[:12]}, "
            f"seed {self.plan.get('seed')}.",
            "",
            *markdown_table(_HEADER, map(_cells, self.measures)),
            "",
            "Ceiling: what real pictures reach through the same instrument (for a distance: the floor, what the "
            "autoencoder alone costs). Chance: what guessing reaches. n: generated pictures. Intervals: bootstrap over "
            "pictures; distances have none, since resampling biases them. ✓ and ✗: target reached or not.",
        ]
        if self.notes:
            lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def _cells(measure: Measure) -> tuple[str, ...]:
    """Write the cells of one line of the table."""
    show = _distance if measure.is_distance else _percent
    low, high = (math.nan, math.nan) if measure.interval is None else measure.interval
    interval = "–" if math.isnan(low) else f"{show(low)} to {show(high)}"
    mark = {True: " ✓", False: " ✗", None: ""}[measure.is_reached]
    target = "–" if measure.target is None else f"{'≤' if measure.is_distance else '≥'} {show(measure.target)}"
    return (
        measure.name,
        target,
        show(measure.value) + mark,
        interval,
        "–" if measure.ceiling is None else show(measure.ceiling),
        "–" if measure.chance is None else show(measure.chance),
        str(measure.count),
    )


def _percent(value: float) -> str:
    """Write a share; small ones with more digits, and one that could not be measured as a dash."""
    if math.isnan(value):
        return "–"
    return f"{100 * value:.2f} %" if 0 < value < 0.01 else f"{100 * value:.1f} %"


def _distance(value: float) -> str:
    """Write a distance, and one that could not be measured as a dash."""
    return "–" if math.isnan(value) else f"{value:.2f}"
