"""The scores of a saved step, beside what known pictures reach through the same encoders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from sfumato.evaluation.fidelity import share
from sfumato.evaluation.measures import Interval, mean_interval, unpaired_difference
from sfumato.evaluation.memorisation import Kin, Nearest, copy_alarm, leak_alarm, leaked, nothing_alarm
from sfumato.evaluation.verdict import Candidate

Values = tuple[float, ...]
_DIGITS = 6


@dataclass(frozen=True)
class StepScores:
    """What was measured at one saved step, picture by picture and in the raw units of the encoders.

    Attributes:
        step: The step; 0 is the base before learning, asked with the class noun in place of the word.
        fidelity: `subject_fidelity` of each picture of the prompts, seed by seed within prompt by prompt.
        prompt: `prompt_margin` of each; None where it cannot be measured.
        word: `subject_fidelity` of each picture of the plain sentence with the word; at step 0 as `preservation`.
        preservation: `class_preservation` of each picture of the plain class.
        shift: `class_shift` of each.
        diversity: `diversity` of each prompt.
        nearest: Nearest training picture of each picture of the prompts.
    """

    step: int
    fidelity: Values
    prompt: Values | None
    word: Values
    preservation: Values
    shift: Values
    diversity: Values
    nearest: tuple[Nearest, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> StepScores:
        """Read scores from plain data."""
        lists: dict[str, Any] = {
            key: value if value is None else tuple(value) for key, value in content.items() if key != "step"
        }
        lists["nearest"] = tuple(Nearest(**one) for one in content["nearest"])
        return cls(step=int(content["step"]), **lists)


@dataclass(frozen=True)
class Yardstick:
    """What the numbers of a step are compared with.

    Attributes:
        base: The base before learning: where every scale begins (fidelity, drift) or ends (prompt).
        own: `own_fidelity` of the subject's pictures: where the scale of fidelity and drift ends.
        kin: Distances among the subject's pictures.
        class_prompt: The sentence of the plain class.
        left_out: What cannot be measured here or is measured otherwise, and why.
        names: What the subject's pictures are called.
    """

    base: StepScores
    own: Values
    kin: Kin
    class_prompt: str
    left_out: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def candidate(self, scores: StepScores) -> Candidate:
        """Put the scores of a step on the scale from 0 to 1.

        Fidelity and drift go from what the base draws of the class to the subject's own pictures. Where these two
        cannot be told apart (the 95 % interval of their difference reaches 0), a step of chance would look like the
        whole way; both are left out of the scale then. So is prompt fidelity where the base's own pictures do not show
        their prompts by more than chance.
        """
        own = float(np.mean(self.own))
        fidelity = prompt = drift = None
        if _lies_above(self.own, self.base.fidelity):
            fidelity = _shares(scores.fidelity, float(np.mean(self.base.fidelity)), own)
        if scores.prompt is not None and self.base.prompt is not None and mean_interval(self.base.prompt)[0] > 0:
            prompt = _shares(scores.prompt, 0.0, float(np.mean(self.base.prompt)))
        before = self.base.preservation
        moved = [now - then for now, then in zip(scores.preservation, before, strict=True)]
        if _lies_above(self.own, before):
            drift = _shares(moved, 0.0, own - float(np.mean(before)))
        copies = [self.kin.is_copy(one) for one in scores.nearest]
        return Candidate(
            scores.step,
            scores.fidelity if fidelity is None else fidelity,
            prompt,
            drift,
            float(np.mean(copies)),
            fidelity is not None,
        )

    def leaks(self, scores: StepScores) -> list[bool] | None:
        """Say which pictures of the plain class show the subject."""
        now, before = torch.tensor(scores.preservation), torch.tensor(self.base.preservation)
        return leaked(now, before, self.gained(scores))

    def gained(self, scores: StepScores) -> list[float]:
        """Return how much nearer to the subject each picture with the word is than what the base drew in its place.

        Both are drawn for one sentence and from one seed, the prompts first and the plain sentence last.
        """
        now, before = (*scores.fidelity, *scores.word), (*self.base.fidelity, *self.base.word)
        return [one - other for one, other in zip(now, before, strict=True)]

    def alarms(self, scores: StepScores) -> tuple[str, ...]:
        """Return the alarms of a step."""
        found = (
            nothing_alarm(self.gained(scores)),
            copy_alarm(scores.nearest, self.kin, self.names),
            leak_alarm(self.leaks(scores), self.class_prompt),
        )
        return tuple(alarm for alarm in found if alarm is not None)


def columns(scores: StepScores, yardstick: Yardstick) -> dict[str, tuple[float, Interval | None]]:
    """Return every number of a step by name, with its 95 % interval where it has one.

    Names that end in `_share` are on the scale from 0 to 1, the others in the units of the encoders.
    """
    one = yardstick.candidate(scores)
    rows: dict[str, Sequence[float] | None] = {
        "subject_fidelity": scores.fidelity,
        "subject_share": one.fidelity if one.is_scaled else None,
        "prompt_margin": scores.prompt,
        "prompt_share": one.prompt,
        "word_fidelity": scores.word,
        "pres": scores.preservation,
        "drift_share": one.drift,
        "class_shift": scores.shift,
        "div": scores.diversity,
    }
    found: dict[str, tuple[float, Interval | None]] = {
        name: (round(float(np.mean(values)), _DIGITS), mean_interval(values))
        for name, values in rows.items()
        if values is not None
    }
    answers = yardstick.leaks(scores)
    found["copies"] = (round(one.copies, _DIGITS), None)
    if answers is not None:
        found["leaks"] = (round(float(np.mean(answers)), _DIGITS), None)
    return found


def _lies_above(own: Values, of_class: Values) -> bool:
    """Say whether the subject's own pictures lie above those of the class by more than chance."""
    return unpaired_difference(own, of_class)[0] > 0


def _shares(values: Sequence[float], low: float, high: float) -> Values | None:
    """Place values between two others; None where these cannot be told apart."""
    placed = share(torch.tensor(values), low, high)
    return None if placed is None else tuple(placed.tolist())
