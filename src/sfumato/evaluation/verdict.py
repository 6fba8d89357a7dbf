"""Which of the saved steps to use, and why: the best subject fidelity within bounds on everything that it may cost.

All numbers are shares on the scale of `scores.py`: 0 and 1 are what known pictures reach through the same encoders, so
one set of bounds serves every encoder and every base. Where several subjects are learned together, a step is judged on
all of them: it must keep the bounds for each, and its fidelity is the mean over them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from pydantic import Field

from sfumato.evaluation.measures import mean_interval, paired_difference
from sfumato.evaluation.memorisation import ALARM
from sfumato.evaluation.plan import Table

_NEXT_TO_NOTHING = 1e-9
"""What a step is out by that just reaches a bound which it must stay below."""


class Rule(Table):
    """The bounds within which the best subject fidelity is looked for.

    Attributes:
        min_prompt: Least share of the base's own prompt fidelity that must be left.
        max_drift: Largest share of the way to the subject that pictures of the plain class may have gone.
        max_copies: Share of copied training pictures from which on a step is out.
        patience: Saved steps in a row that must be lost before the run ends early; 0 never ends it.
    """

    min_prompt: float = Field(default=0.6, ge=0, le=1)
    max_drift: float = Field(default=0.5, ge=0, le=1)
    max_copies: float = Field(default=ALARM, gt=0, le=1)
    patience: int = Field(default=2, ge=0)


@dataclass(frozen=True)
class Candidate:
    """The scores of one saved step; the rows of two candidates belong to the same prompts and seeds.

    Attributes:
        step: The step.
        fidelity: Subject fidelity of each picture; 0 as the base draws the class, 1 as the subject's own pictures.
        prompt: Prompt fidelity of each picture; 0 ignores the prompt, 1 as the base does. None where it is left out.
        drift: How far each picture of the class has come to the subject. None where it is left out.
        copies: Share of pictures that are copies of training pictures.
        is_scaled: False where fidelity stays in the units of the encoder, because it finds what the base draws of the
            class as near to the subject as the subject's own pictures are to each other.
    """

    step: int
    fidelity: Sequence[float]
    prompt: Sequence[float] | None
    drift: Sequence[float] | None
    copies: float = 0.0
    is_scaled: bool = True


@dataclass(frozen=True)
class Joint:
    """The scores of one saved step on several subjects.

    Attributes:
        parts: The scores on each subject, by its word; at least one, all of the same step.
    """

    parts: Mapping[str, Candidate]

    @property
    def step(self) -> int:
        """The step."""
        return next(iter(self.parts.values())).step

    @property
    def is_scaled(self) -> bool:
        """Whether fidelity is on the scale from 0 to 1, on any subject."""
        return any(one.is_scaled for one in self.parts.values())

    @property
    def counted(self) -> list[Candidate]:
        """The scores on the subjects whose fidelity counts: those on the scale, or all where none is."""
        return [one for one in self.parts.values() if one.is_scaled or not self.is_scaled]

    @property
    def fidelity(self) -> list[float]:
        """Subject fidelity of every picture that counts, weighted so that its mean is the mean over subjects."""
        counted = self.counted
        mean = sum(len(one.fidelity) for one in counted) / len(counted)
        return [value * (mean / len(one.fidelity)) for one in counted for value in one.fidelity]


Judged = Candidate | Joint
One = TypeVar("One", bound=Judged)


def excess(one: Judged, rule: Rule) -> dict[str, float]:
    """Return by how much a step is out of each bound; empty when it keeps all of them, on every subject."""
    if isinstance(one, Joint):
        rows = {word: excess(part, rule) for word, part in one.parts.items()}
        return {f"{name} of {word}": value for word, row in rows.items() for name, value in row.items()}
    over = {
        "prompt fidelity": 0.0 if one.prompt is None else rule.min_prompt - float(np.mean(one.prompt)),
        "drift": 0.0 if one.drift is None else float(np.mean(one.drift)) - rule.max_drift,
    }
    found = {name: value for name, value in over.items() if value > 0}
    if one.copies >= rule.max_copies:
        found["copies"] = one.copies - rule.max_copies + _NEXT_TO_NOTHING
    return found


def best(candidates: Sequence[One], rule: Rule) -> One:
    """Choose a step.

    Of the steps that keep all bounds, the one with the highest mean subject fidelity; if none does, the one that is
    least out of them in sum. Between equals the earlier. The order is total, so the best of many is the better of the
    best so far and the next: nothing else need be kept.

    Args:
        candidates: At least one.
        rule: The bounds.
    """
    return min(candidates, key=lambda one: (sum(excess(one, rule).values()), -float(np.mean(one.fidelity)), one.step))


def settled(candidates: Sequence[Judged], rule: Rule) -> str | None:
    """Say why no later step can win, or return None.

    Rule: an earlier step keeps all bounds, and each of the last `patience` steps is out of one with its whole 95 %
    interval while its subject fidelity is not above the leader's, paired and with its whole interval. From there on,
    more steps have only been seen to cost. Of several subjects, one that is out is enough, and none may be nearer.

    Args:
        candidates: All steps so far, by step.
        rule: The bounds.
    """
    last = candidates[-rule.patience :] if rule.patience else []
    if not rule.patience or len(candidates) <= rule.patience:
        return None
    leader = best(candidates, rule)
    if excess(leader, rule) or leader in last:
        return None
    if all(_is_far_out(one, rule) and not _is_nearer(one, leader) for one in last):
        steps = ", ".join(str(one.step) for one in last)
        whom = "any subject" if isinstance(leader, Joint) else "the subject"
        return (
            f"No later step can win: steps {steps} lie outside the bounds with their whole intervals, and none of them "
            f"is provably nearer to {whom} than step {leader.step}."
        )
    return None


def pareto_front(candidates: Sequence[Judged]) -> list[int]:
    """Return the steps that no other step beats: at least as good in fidelity, prompt and drift, and better in one.

    Of several subjects the means over them are compared.
    """
    points = {
        one.step: (
            float(np.mean(one.fidelity)),
            float(np.mean([0.0 if part.prompt is None else np.mean(part.prompt) for part in _parts(one)])),
            float(np.mean([0.0 if part.drift is None else -np.mean(part.drift) for part in _parts(one)])),
        )
        for one in candidates
    }

    def beaten(step: int) -> bool:
        mine = points[step]
        return any(all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine for other in points.values())

    return [step for step in points if not beaten(step)]


def reason(candidates: Sequence[Judged], rule: Rule) -> str:
    """Say in one to three sentences why the best step is the best.

    Args:
        candidates: All steps.
        rule: The bounds.
    """
    chosen = best(candidates, rule)
    inside = [one for one in candidates if not excess(one, rule)]
    reached = _at(chosen.fidelity) + (" of the way from the class to the subject" if chosen.is_scaled else " (cosine)")
    if isinstance(chosen, Joint):
        reached += _over(chosen)
    if not inside:
        out = ", ".join(excess(chosen, rule))
        return (
            f"No saved step keeps the bounds ({_bounds(chosen, rule)}). Step {chosen.step} comes nearest to them; it "
            f"is out by {out}, with subject fidelity {reached}."
        )
    if len(candidates) == 1:
        return f"It is the only saved step; it keeps the bounds ({_bounds(chosen, rule)}), subject fidelity {reached}."
    among = f"all {len(candidates)}" if len(inside) == len(candidates) else f"the {len(inside)} of {len(candidates)}"
    text = (
        f"It has the highest subject fidelity ({reached}) of {among} saved steps that keep the bounds "
        f"({_bounds(chosen, rule)})."
    )
    return " ".join([text, *_rival(chosen, candidates, rule)])


def _over(one: Joint) -> str:
    """Say over which subjects fidelity is a mean."""
    counted = one.counted
    if len(counted) == len(one.parts):
        return f", the mean of {len(counted)} subjects"
    left = ", ".join(word for word, part in one.parts.items() if not part.is_scaled)
    return f", without {left}, which cannot be told from what the base draws"


def _rival(chosen: Judged, candidates: Sequence[Judged], rule: Rule) -> list[str]:
    """Say what speaks for the next best step, or against the one that is nearer to the subject but out."""
    others = [one for one in candidates if one.step != chosen.step]
    nearer = max(others, key=lambda one: float(np.mean(one.fidelity)))
    out = excess(nearer, rule)
    if out and np.mean(nearer.fidelity) > np.mean(chosen.fidelity):
        whom = "the subjects in the mean" if isinstance(nearer, Joint) else "the subject"
        return [f"Step {nearer.step} is nearer to {whom}, but out by {', '.join(out)}."]
    inside = [one for one in others if not excess(one, rule)]
    if not inside:
        return []
    rival = max(inside, key=lambda one: float(np.mean(one.fidelity)))
    low, high = paired_difference(chosen.fidelity, rival.fidelity)
    if low <= 0 <= high:
        return [
            f"Step {rival.step} cannot be told from it in fidelity with this few pictures (difference "
            f"{_two(float(np.mean(chosen.fidelity) - np.mean(rival.fidelity)))}, 95 % interval {_two(low)} to "
            f"{_two(high)})."
        ]
    return []


def _bounds(one: Judged, rule: Rule) -> str:
    """Write the bounds with the values of a step, and say what is left out."""
    if isinstance(one, Joint):
        return "; ".join(f"{word}: {_bounds(part, rule)}" for word, part in one.parts.items())
    prompt, drift = "prompt fidelity is left out", "drift is left out"
    if one.prompt is not None:
        prompt = f"prompt {_at(one.prompt)} of at least {rule.min_prompt:g}"
    if one.drift is not None:
        drift = f"drift {_at(one.drift)} of at most {rule.max_drift:g}"
    return f"{prompt}, {drift}, copies {one.copies:.0%} of less than {rule.max_copies:.0%}"


def _at(values: Sequence[float]) -> str:
    """Write a mean."""
    return _two(float(np.mean(values)))


def _two(value: float) -> str:
    """Write a number with two digits, and no sign before zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _parts(one: Judged) -> list[Candidate]:
    """Return the scores on each subject."""
    return list(one.parts.values()) if isinstance(one, Joint) else [one]


def _is_far_out(one: Judged, rule: Rule) -> bool:
    """Say whether a step lies outside a bound with its whole interval, on any subject."""
    for part in _parts(one):
        if part.prompt is not None and mean_interval(part.prompt)[1] < rule.min_prompt:
            return True
        if part.drift is not None and mean_interval(part.drift)[0] > rule.max_drift:
            return True
    return False


def _is_nearer(one: Judged, leader: Judged) -> bool:
    """Say whether a step is nearer to a subject than the leader, paired and with the whole interval."""
    pairs = zip(_parts(one), _parts(leader), strict=True)
    return any(paired_difference(part.fidelity, other.fidelity)[0] > 0 for part, other in pairs)
