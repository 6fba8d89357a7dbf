"""A table of methods and columns, for people as Markdown and for programs as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from sfumato.evaluation.markdown_table import markdown_table
from sfumato.evaluation.measures import Interval, mean_interval
from sfumato.evaluation.trial import BASES, NOUN_BASELINE
from sfumato.runtime.json_values import json_value

Learned = Literal["learned", "learned in part", "not shown"]
FEWEST = 5
"""Subjects below which an interval says nothing of others."""
_ARROWS = {"less": " ↓", "more": " ↑", None: ""}


@dataclass(frozen=True)
class Column:
    """One thing that is measured.

    Attributes:
        key: Name in JSON.
        title: Name in the table.
        better: Which way is better; `None` for neither.
        form: How a value is written, for example `.3f`; `%` writes a share.
        of_subject: Whether it says how well the subject itself is drawn.
    """

    key: str
    title: str
    better: Literal["less", "more"] | None = None
    form: str = ".3f"
    of_subject: bool = False

    @property
    def heading(self) -> str:
        """The title, with an arrow that says which way is better."""
        return self.title + _ARROWS[self.better]

    def show(self, value: float | None) -> str:
        """Write a value."""
        if value is None or math.isnan(value):
            return "–"
        if self.form == "%":
            return f"{100 * value:.0f} %"
        return format(round(value, 6) + 0.0, self.form)  # no minus before a zero


COST_COLUMNS = (
    Column("seconds", "seconds", "less", ".1f"),
    Column("peak_mib", "peak memory, MiB", "less", ".0f"),
    Column("file_kib", "file, KiB", "less", ".0f"),
)


@dataclass(frozen=True)
class Entry:
    """What one method reaches with one subject; a column that cannot be measured is left out."""

    case: str
    kind: str
    method: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """A method beside a row of the base in one column.

    Attributes:
        gain: Mean over subjects of how much better the method is; above 0 is better.
        interval: 95 % bootstrap interval over subjects.
        count: Subjects.
    """

    method: str
    column: str
    gain: float
    interval: Interval
    count: int

    @property
    def is_sure(self) -> bool:
        """Whether more than chance explains the difference."""
        return self.count >= FEWEST and (self.interval[0] > 0 or self.interval[1] < 0)

    @property
    def is_better(self) -> bool:
        """Whether the method is better beyond chance."""
        return self.is_sure and self.gain > 0


@dataclass(frozen=True)
class Scoreboard:
    """Everything that a benchmark measured.

    Attributes:
        title: What stands above.
        columns: What is measured.
        entries: One for each subject and method.
        facts: What decides the numbers, as plain data.
        notes: How to read them, and what could not be measured.
        ceiling: The line that no method drew: what is right, through the same instruments.
        details: Columns of a table of their own, by kind of prompt.
    """

    title: str
    columns: Sequence[Column]
    entries: Sequence[Entry]
    facts: Mapping[str, Any]
    notes: Sequence[str] = field(default_factory=tuple)
    ceiling: str = ""
    details: Sequence[Column] = field(default_factory=tuple)

    @property
    def methods(self) -> list[str]:
        """Every method, in order of appearance."""
        return list(dict.fromkeys(entry.method for entry in self.entries))

    def mean(self, method: str, column: str, kind: str | None = None) -> float | None:
        """Average a column over subjects, each counting the same; `None` where no subject has it."""
        values = [
            entry.values[column]
            for entry in self.entries
            if entry.method == method and column in entry.values and kind in (None, entry.kind)
        ]
        return float(np.mean(values)) if values else None

    def compare(self, baseline: str, seed: int = 0) -> list[Comparison]:
        """Compare every method with a row of the base in the columns that concern the subject, subject by subject."""
        found = []
        for method in (method for method in self.methods if method not in (baseline, *BASES, self.ceiling)):
            for column in (column for column in self.columns if column.of_subject):
                sign = -1.0 if column.better == "less" else 1.0
                pairs = self._paired(method, baseline, column.key)
                gains = [sign * (mine - base) for mine, base in pairs]
                if gains:
                    interval = mean_interval(gains, seed)
                    found.append(Comparison(method, column.key, float(np.mean(gains)), interval, len(gains)))
        return found

    def learned(self) -> dict[str, Learned]:
        """Say which methods have learned: better than the base with the class noun, in every column beyond chance.

        Returns:
            By method; nothing where that base was not asked.
        """
        return {method: _learned(own)[0] for method, own in _by_method(self.compare(NOUN_BASELINE)).items()}

    def told(self) -> dict[str, str]:
        """Say the same in words, with the columns that it is read off."""
        compared = _by_method(self.compare(NOUN_BASELINE))
        return {method: f"{_learned(own)[1]}: {self._columns_of(own)}" for method, own in compared.items()}

    def to_json(self, baseline: str) -> str:
        """Return everything as JSON; what has no value is null."""
        content = {
            "format": 1,
            **self.facts,
            "columns": [asdict(column) for column in self.columns],
            "means": {m: {c.key: self.mean(m, c.key) for c in (*self.columns, *self.details)} for m in self.methods},
            "against_base": [asdict(item) for item in self.compare(baseline)],
            "against_noun": [asdict(item) for item in self.compare(NOUN_BASELINE)],
            "learned": self.learned(),
            "subjects": [asdict(entry) for entry in self.entries],
            "notes": list(self.notes),
        }
        return json.dumps(json_value(content), indent=2) + "\n"

    def to_markdown(self, baseline: str) -> str:
        """Return a page: one table over all subjects, one for each kind of subject, who learned, who beats the base."""
        lines = [f"# {self.title}", "", *self._table(self.columns)]
        kinds = list(dict.fromkeys(entry.kind for entry in self.entries))
        for kind in kinds if len(kinds) > 1 else ():
            lines += ["", f"## {kind}", "", *self._table(self.columns, kind)]
        if self.details:
            lines += ["", "## By kind of prompt", "", *self._table(self.details)]
        told = self.told()
        if told:
            lines += ["", f"## Learned, against the {NOUN_BASELINE}", ""]
            lines += [f"- **{method}** {said}." for method, said in told.items()]
        compared = _by_method(self.compare(baseline))
        if compared:
            lines += ["", f"## Against the {baseline}", ""]
            lines += [self._sentence(method, own) for method, own in compared.items()]
        lines += ["", "## Notes", "", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def _table(self, wanted: Sequence[Column], kind: str | None = None) -> list[str]:
        """Write one table; a column that no method has is left out."""
        columns = [c for c in wanted if any(self.mean(m, c.key, kind) is not None for m in self.methods)]
        rows = [
            [method, *(column.show(self.mean(method, column.key, kind)) for column in columns)]
            for method in self.methods
            if any(self.mean(method, column.key, kind) is not None for column in columns)
        ]
        return markdown_table(("method", *(column.heading for column in columns)), rows)

    def _sentence(self, method: str, own: Sequence[Comparison]) -> str:
        """Say whether a method is better in every column."""
        beats = all(item.gain > 0 for item in own)
        return f"- **{method}** {'beats' if beats else 'does not beat'} it in every column: {self._columns_of(own)}."

    def _columns_of(self, own: Sequence[Comparison]) -> str:
        """Say in which columns a method is better, and where chance alone might explain it."""
        titles = {column.key: column.title for column in self.columns}
        parts = []
        for item in own:
            word = "better" if item.gain > 0 else "not better"
            sure = "" if item.is_sure else ", may be chance"
            parts.append(f"{titles[item.column]} {word} ({item.gain:+.3f}{sure})")
        return "; ".join(parts)

    def _paired(self, method: str, baseline: str, column: str) -> list[tuple[float, float]]:
        """Return the values of a method and the base for the subjects that have both."""
        base = {e.case: e.values[column] for e in self.entries if e.method == baseline and column in e.values}
        return [
            (entry.values[column], base[entry.case])
            for entry in self.entries
            if entry.method == method and column in entry.values and entry.case in base
        ]


def _learned(own: Sequence[Comparison]) -> tuple[Learned, str]:
    """Judge whether a method has learned, by all columns; also in words."""
    better = sum(item.is_better for item in own)
    if better == len(own):
        return "learned", "learned"
    if better:
        return "learned in part", f"learned in part ({better} of {len(own)} columns)"
    return "not shown", "is not shown to have learned"


def _by_method(compared: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """Group comparisons by method, in order of appearance."""
    groups: dict[str, list[Comparison]] = {}
    for item in compared:
        groups.setdefault(item.method, []).append(item)
    return groups
