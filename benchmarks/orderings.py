"""Whether an ordering that a paper reports is found: paired differences, their intervals, and what these say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sfumato.evaluation.measures import Interval, nested_interval
from sfumato.evaluation.scoreboard import FEWEST

Verdict = Literal["found", "not found", "within chance"]
BySubject = Mapping[str, Sequence[float]]
"""Values of one column by subject, in an order that all rows of a table share."""


@dataclass(frozen=True)
class Difference:
    """How far one row lies above another.

    Attributes:
        mean: Mean over subjects, each counting the same.
        interval: 95 % bootstrap interval, subjects drawn first and then the pairs of each.
        subjects: How many.
        pairs: Pairs of pictures that share subject, prompt and seed (of prompts, where a prompt has one value).
        slack: How far below it may lie and still count as no lower.
    """

    mean: float
    interval: Interval
    subjects: int
    pairs: int
    slack: float = 0.0

    @property
    def verdict(self) -> Verdict:
        """Whether it lies above, surely does not, or chance alone might explain the difference."""
        low, high = self.interval
        if self.subjects < FEWEST:
            return "within chance"
        if low > -self.slack:
            return "found"
        return "not found" if high < -self.slack else "within chance"

    def __str__(self) -> str:
        low, high = self.interval
        allowed = f", down to {-self.slack:+.3f} allowed" if self.slack else ""
        return f"{self.mean:+.3f}, 95 % {low:+.3f} to {high:+.3f}{allowed}"


def difference(upper: BySubject, lower: BySubject, slack: float = 0.0, seed: int = 0) -> Difference:
    """Compare two rows in one column, pair by pair.

    Args:
        upper: Values of the row that should lie higher.
        lower: Values of the other one, of the same subjects, prompts and seeds.
        slack: How far it may lie below.
        seed: Decides the resampling.

    Raises:
        ValueError: A subject is missing in one of them, or has another number of values there.
    """
    if upper.keys() != lower.keys():
        raise ValueError(f"The subjects differ: {sorted(upper)} and {sorted(lower)}.")
    pairs = [[a - b for a, b in zip(upper[name], lower[name], strict=True)] for name in upper]
    mean = float(np.mean([np.mean(of_subject) for of_subject in pairs]))
    return Difference(mean, nested_interval(pairs, seed), len(pairs), sum(map(len, pairs)), slack)


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Judge several orderings as one: found where all are, not found where one surely is not."""
    given = set(verdicts)
    if "not found" in given:
        return "not found"
    return "found" if given == {"found"} else "within chance"
