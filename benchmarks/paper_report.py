"""The table of the papers' experiments, and for each a sentence that says whether the paper's ordering is found."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from benchmarks.orderings import BySubject, Difference, Verdict, difference, together
from benchmarks.paper_experiments import SUBJECT, Claim, Experiment
from sfumato.evaluation import characters
from sfumato.evaluation.characters import TRUTH
from sfumato.evaluation.likeness import Rows
from sfumato.evaluation.markdown_table import markdown_table
from sfumato.evaluation.trial import BASELINE, Trial, cost_values
from sfumato.runtime.json_values import json_value

SLACK = 0.1
"""What counts as a small loss of subject fidelity: this share of the way from the base in words to the truth."""

_KEYS = (SUBJECT, "truth_features", "text", "changed", "pres", "drift", "div", "seconds")
COLUMNS = tuple(column for key in _KEYS for column in characters.COLUMNS if column.key == key)
Values = dict[str, dict[str, dict[str, list[float]]]]
"""By method and column the values of each subject."""


@dataclass(frozen=True)
class Judged:
    """A claim with what was measured; nothing where a column could not be."""

    claim: Claim
    differences: tuple[Difference, ...]

    @property
    def verdict(self) -> Verdict | None:
        """What is to be said of it; `None` where it could not be measured."""
        return together(one.verdict for one in self.differences) if self.differences else None

    def __str__(self) -> str:
        if self.verdict is None:
            return f"{self.claim.text}: not measured"
        return f"{self.claim.text}: {self.verdict} ({'; '.join(map(str, self.differences))})"


@dataclass(frozen=True)
class PaperReport:
    """Everything that was measured.

    Attributes:
        title: What stands above.
        experiments: In the order of the table.
        values: Of all their arms, the base in words and the truth.
        facts: What decides the numbers, as plain data.
        seed: Decides the resampling.
        notes: How to read them.
    """

    title: str
    experiments: Sequence[Experiment]
    values: Values
    facts: Mapping[str, Any]
    seed: int = 0
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def slack(self) -> float:
        """How much subject fidelity counts as a small loss; 0 where the truth is no nearer than the base in words."""
        truth, base = self.mean(TRUTH, SUBJECT), self.mean(BASELINE, SUBJECT)
        return 0.0 if truth is None or base is None else max(0.0, SLACK * (truth - base))

    def mean(self, method: str, column: str) -> float | None:
        """Average a column over subjects, each counting the same; `None` where it was not measured."""
        found = self.values.get(method, {}).get(column)
        return float(np.mean([np.mean(values) for values in found.values()])) if found else None

    def judge(self, experiment: Experiment) -> list[Judged]:
        """Compare the rows of an experiment as its claims say."""
        judged = []
        for claim in experiment.claims:
            found = []
            for link in claim.links:
                both = [self._column(experiment, title, link.column) for title in (link.upper, link.lower)]
                if all(both):
                    found.append(difference(both[0], both[1], self.slack if link.is_close else 0.0, self.seed))
            judged.append(Judged(claim, tuple(found) if len(found) == len(claim.links) else ()))
        return judged

    def verdict(self, experiment: Experiment) -> Verdict | None:
        """Judge an experiment by all its claims that could be measured."""
        known = [verdict for judged in self.judge(experiment) if (verdict := judged.verdict) is not None]
        return together(known) if known else None

    def sentence(self, experiment: Experiment) -> str:
        """Say whether what the paper reports is found, and in what."""
        verdict = self.verdict(experiment) or "not measured"
        return f"{experiment.title}: {verdict}. {'. '.join(map(str, self.judge(experiment)))}."

    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Return the titles of the columns, and the rows: the bounds first, then a group for each experiment."""
        shown = [c for c in COLUMNS if any(self.mean(method, c.key) is not None for method in self.values)]
        rows = [("", BASELINE, BASELINE), ("", TRUTH, TRUTH)]
        for experiment in self.experiments:
            titled = [("", title, arm.label) for title, arm in experiment.arms.items()]
            rows += [(experiment.name, *titled[0][1:]), *titled[1:]]
        cells = [
            (name, title, *(column.show(self.mean(method, column.key)) for column in shown))
            for name, title, method in rows
        ]
        return ("experiment", "row", *(c.heading for c in shown)), cells

    def to_json(self) -> str:
        """Return everything as JSON; what has no value is null."""
        content = {
            "format": 1,
            **self.facts,
            "slack": self.slack,
            "bounds": {method: self._means(method) for method in (BASELINE, TRUTH)},
            "experiments": [self._plain(experiment) for experiment in self.experiments],
            "pictures": self.values,
            "notes": list(self.notes),
        }
        return json.dumps(json_value(content), indent=2) + "\n"

    def to_markdown(self) -> str:
        """Return a page: the table, a sentence for each experiment, and the notes."""
        titles, rows = self.table()
        lines = [f"# {self.title}", "", *markdown_table(titles, rows, texts=2)]
        lines += ["", "## What the papers report", ""]
        lines += [f"- **{experiment.name}**: {self.sentence(experiment)}" for experiment in self.experiments]
        return "\n".join([*lines, "", "## Notes", "", *(f"- {note}" for note in self.notes)]) + "\n"

    def _column(self, experiment: Experiment, title: str, column: str) -> BySubject:
        """Return the values of a row; nothing where they were not measured."""
        return self.values[experiment.arms[title].label].get(column, {})

    def _means(self, method: str) -> dict[str, float | None]:
        """Return the line of the table."""
        return {column.key: self.mean(method, column.key) for column in COLUMNS}

    def _plain(self, experiment: Experiment) -> dict[str, Any]:
        """Return an experiment as plain data."""
        return {
            "name": experiment.name,
            "title": experiment.title,
            "verdict": self.verdict(experiment),
            "rows": [
                {"title": title, **asdict(arm), "means": self._means(arm.label)}
                for title, arm in experiment.arms.items()
            ],
            "claims": [
                {
                    **asdict(judged.claim),
                    "verdict": judged.verdict,
                    "differences": [{**asdict(one), "verdict": one.verdict} for one in judged.differences],
                }
                for judged in self.judge(experiment)
            ],
        }


def gather(scored: Iterable[tuple[Sequence[Trial], Mapping[str, Rows]]]) -> Values:
    """Bring what was measured subject by subject into columns.

    Args:
        scored: The trials of each subject, and the values of their pictures by method.

    Returns:
        Columns without values are left out.
    """
    values: Values = {}
    for trials, rows in scored:
        for method, columns in rows.items():
            for column, found in columns.items():
                if found:
                    values.setdefault(method, {}).setdefault(column, {})[trials[0].case.name] = list(found)
        for trial in trials:
            for column, cost in cost_values(trial).items():
                values[trial.method].setdefault(column, {})[trial.case.name] = [cost]
    return values
