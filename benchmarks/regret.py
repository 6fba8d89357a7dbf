"""How far the step that a rule chooses is from the truth, beside the step that is nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sfumato.evaluation.measures import mean_interval, paired_difference
from sfumato.evaluation.verdict import Candidate, Rule, best, excess

DISTANCES = ("truth_features", "truth_perceptual")
"""Columns of `evaluate characters` that a step is compared by; less is better."""

PROMPT_BOUNDS, DRIFT_BOUNDS = (0.0, 0.4, 0.6, 0.8, 0.9), (0.1, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Lesson:
    """A lesson whose saved steps were all judged and all compared with the truth.

    Attributes:
        subject: Its name.
        method: How it was learned, as `--methods` has it.
        in_words: Mean distance from the truth of what the base draws, the subject described in words, by column.
        steps: The same of what each saved step draws: by step and column.
        candidates: The scores that the rule sees.
        chosen: The step that the verdict named.
    """

    subject: str
    method: str
    in_words: Mapping[str, float]
    steps: Mapping[int, Mapping[str, float]]
    candidates: Sequence[Candidate]
    chosen: int

    def regret(self, step: int, column: str) -> float:
        """Return how much further from the truth a step is than the nearest one."""
        return self.steps[step][column] - min(values[column] for values in self.steps.values())

    def by_rule(self, rule: Rule) -> int:
        """Return the step that a rule chooses."""
        return best(self.candidates, rule).step

    @property
    def last(self) -> int:
        """Return the last saved step."""
        return max(self.steps)


def latest_alike(candidates: Sequence[Candidate], rule: Rule) -> Candidate:
    """Return the latest step that keeps all bounds and cannot be told from the best one in subject fidelity.

    Args:
        candidates: At least one.
        rule: The bounds. Where the best step is out of one, it is returned itself.
    """
    leader = best(candidates, rule)
    if excess(leader, rule):
        return leader
    alike = [
        one for one in candidates if not excess(one, rule) and paired_difference(leader.fidelity, one.fidelity)[0] <= 0
    ]
    return max(alike, key=lambda one: one.step)


@dataclass(frozen=True)
class Choice:
    """A way to choose a step, and its regret in every lesson."""

    name: str
    regrets: Mapping[str, Sequence[float]]

    def show(self, column: str) -> str:
        """Write the mean with its 95 % bootstrap interval over lessons; too few have none."""
        values = self.regrets[column]
        low, high = mean_interval(values)
        return f"{fmean(values):.4f} ({low:.4f} to {high:.4f})" if len(values) > 1 else f"{fmean(values):.4f}"


def choices(lessons: Sequence[Lesson]) -> list[Choice]:
    """Compare the verdict with one that prefers later steps, and with ways to choose that look at nothing.

    Args:
        lessons: At least one.
    """
    ways = {
        "the verdict": lambda lesson, column: lesson.regret(lesson.chosen, column),
        "the latest step that cannot be told from the verdict's": lambda lesson, column: lesson.regret(
            latest_alike(lesson.candidates, Rule()).step, column
        ),
        "the last step": lambda lesson, column: lesson.regret(lesson.last, column),
        "the first saved step": lambda lesson, column: lesson.regret(min(lesson.steps), column),
        "any step": lambda lesson, column: fmean(lesson.regret(step, column) for step in lesson.steps),
    }
    return [
        Choice(name, {column: [way(lesson, column) for lesson in lessons] for column in DISTANCES})
        for name, way in ways.items()
    ]


def by_bounds(lessons: Sequence[Lesson], column: str) -> list[tuple[float, list[float]]]:
    """Return the mean regret of the rule for pairs of bounds.

    Args:
        lessons: At least one.
        column: One of `DISTANCES`.

    Returns:
        For each least prompt fidelity of `PROMPT_BOUNDS` the regret at each of `DRIFT_BOUNDS`.
    """
    return [
        (
            prompt,
            [
                fmean(one.regret(one.by_rule(Rule(min_prompt=prompt, max_drift=drift)), column) for one in lessons)
                for drift in DRIFT_BOUNDS
            ],
        )
        for prompt in PROMPT_BOUNDS
    ]
