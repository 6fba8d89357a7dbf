"""Look at several concepts that are learned together: one judgement over all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from sfumato.evaluation.probe import SubjectProbe
from sfumato.evaluation.verdict import Joint, best, pareto_front, reason, settled
from sfumato.events import Event, Metric, Notice, Progress, Verdict
from sfumato.pipeline import Pipeline
from sfumato.runtime.memory import hand_back_memory


class JointProbe:
    """Scores every saved step of a lesson of several subjects and says which one to use.

    Each subject is measured alone, against its own pictures and its own class. A step must keep the bounds for every
    subject; among those that do, the highest mean subject fidelity over subjects wins.

    Args:
        subjects: What measures each subject, with the same rule, words and prompts of their own; at least two.
    """

    def __init__(self, subjects: Sequence[SubjectProbe]) -> None:
        self.subjects = tuple(subjects)
        self.rule = self.subjects[0].plan.rule

    def texts(self) -> list[str]:
        """Return everything that is asked for of every subject."""
        return [text for one in self.subjects for text in one.texts()]

    def begin(self, pipeline: Pipeline) -> Iterator[Event]:
        """Look at the pictures of every subject and at what the base draws of its class."""
        for one in self.subjects:
            for event in one.begin(pipeline):
                yield _named(event, one.placeholder)
        for one in self.subjects:
            one.know([other for other in self.subjects if other is not one])

    def look(self, step: int, drawing: AbstractContextManager[Pipeline], folder: Path) -> Iterator[Event]:
        """Score a saved step on every subject; each has a folder within the folder."""
        hand_back_memory()
        drawn = []
        with drawing as pipeline:
            for one in self.subjects:
                pictures = yield from one.draw(pipeline, f"step {step}, {one.placeholder}, for the verdict")
                drawn.append(pictures)
        values: dict[str, float] = {}
        for one, pictures, place in zip(self.subjects, drawn, self._folders(folder), strict=True):
            place.mkdir()
            found = one.score(step, pictures, place)
            values |= {f"verdict/{one.placeholder}/{name}": value for name, value in found.items()}
        yield Metric(step, values)

    def recall(self, step: int, folder: Path) -> None:
        """Read the scores and pictures of a step from its folder.

        Raises:
            CannotResume: They were made with another plan, other encoders or of other subjects.
            CheckpointError: They cannot be read.
        """
        for one, place in zip(self.subjects, self._folders(folder), strict=True):
            one.recall(step, place)

    def forget(self, step: int) -> None:
        """Forget a step whose look could not be finished."""
        for one in self.subjects:
            one.forget(step)

    def leader(self) -> int:
        """Return the best step so far."""
        return best(self.candidates(), self.rule).step

    def settled(self) -> str | None:
        """Say why no later step can win, or return None."""
        return settled(self.candidates(), self.rule)

    def verdict(self) -> Verdict:
        """Return the step to use, why, its scores and its alarms, both with the words of the subjects before them."""
        candidates, step = self.candidates(), self.leader()
        scores = {f"{one.placeholder}/{name}": value for one in self.subjects for name, value in one.told(step).items()}
        alarms = tuple(f"{one.placeholder}: {alarm}" for one in self.subjects for alarm in one.alarms(step))
        return Verdict(step, reason(candidates, self.rule), scores, alarms, tuple(pareto_front(candidates)))

    def candidates(self) -> list[Joint]:
        """Return the steps on the scale from 0 to 1, in order, each with its scores on every subject."""
        rows = zip(*(one.candidates() for one in self.subjects), strict=True)
        words = [one.placeholder for one in self.subjects]
        return [Joint(dict(zip(words, row, strict=True))) for row in rows]

    def _folders(self, folder: Path) -> list[Path]:
        """Name the folder of each subject within that of a look; words hold letters that no file name may."""
        return [folder / f"subject-{number}" for number in range(1, len(self.subjects) + 1)]


def _named(event: Event, word: str) -> Event:
    """Put the word of a subject into what is told about it."""
    match event:
        case Progress():
            return replace(event, phase=f"{event.phase}, {word}")
        case Notice():
            return replace(event, message=f"{word}: {event.message}")
        case _:
            return event
