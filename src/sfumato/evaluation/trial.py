"""What a benchmark of personalisation asks and what it gets: subjects, prompts, and the pictures that a method drew."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
from jaxtyping import UInt8

from sfumato.data.captions import with_article
from sfumato.data.images import load_image

Picture = UInt8[np.ndarray, "_H _W 3"]
BASELINE = "base in words"
"""The untrained base, with the subject described."""
NOUN_BASELINE = "base with the class noun"
"""The untrained base, with the class noun alone where a method has its word: what needs no lesson."""
BASES = (BASELINE, NOUN_BASELINE)
_GAP = re.compile(r"(\ba )?\{\}")


class PictureFiles(Sequence[Picture]):
    """Pictures that are read when they are looked at: thousands of them need not fit into memory.

    Args:
        paths: Their files.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, place: int) -> Picture: ...

    @overload
    def __getitem__(self, place: slice) -> PictureFiles: ...

    def __getitem__(self, place: int | slice) -> Picture | PictureFiles:
        """Read one picture, or choose some."""
        if isinstance(place, slice):
            return PictureFiles(self.paths[place])
        return load_image(self.paths[place]).rgb


@dataclass(frozen=True)
class Asked:
    """One prompt.

    Attributes:
        name: Unique within the subject; names the files of its pictures.
        kind: What it asks for.
        text: The prompt; `{}` stands where the subject's word goes.
        words: The prompt for a base that knows no such word.
    """

    name: str
    kind: str
    text: str
    words: str

    def with_noun(self, class_noun: str) -> str:
        """Say the prompt with a class noun alone in the place of the subject's word, such as `an alien monster`."""
        return _GAP.sub(lambda gap: with_article(class_noun) if gap[1] else class_noun, self.text)


@dataclass(frozen=True)
class Case:
    """One subject of a benchmark.

    Attributes:
        name: Its name.
        folder: The pictures that it is learned from.
        class_noun: What it is.
        class_prompt: Asks for any one of its class.
        asked: The prompts.
        kind: Which group of subjects it belongs to.
    """

    name: str
    folder: Path
    class_noun: str
    class_prompt: str
    asked: tuple[Asked, ...]
    kind: str


T = TypeVar("T", Asked, Case)


@dataclass(frozen=True)
class Cost:
    """What a lesson took: wall time in seconds, peak memory of its process and size of its file in bytes.

    Of a lesson that was resumed time and memory are those of its last part.
    """

    seconds: float
    peak_bytes: int
    file_bytes: int
    is_resumed: bool = False


@dataclass(frozen=True)
class Trial:
    """What one method drew of one subject.

    Attributes:
        case: The subject.
        method: The method, or one of `BASES`.
        drawn: Pictures by name of the prompt, one a seed.
        class_pictures: Pictures of the class prompt; the same seeds for every method.
        cost: What the lesson took; `None` where nothing was learned.
    """

    case: Case
    method: str
    drawn: Mapping[str, Sequence[Picture]]
    class_pictures: Sequence[Picture]
    cost: Cost | None = None


def by_subject(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Group trials by subject, in order of appearance."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.case.name, []).append(trial)
    return list(groups.values())


def in_turns(items: Sequence[T], wanted: int | None) -> tuple[T, ...]:
    """Take prompts or subjects so that every kind comes once before any comes again; more hold those of fewer.

    Args:
        items: All.
        wanted: How many; `None` takes all.

    Returns:
        The chosen ones in their old order.
    """
    turn = [sum(other.kind == item.kind for other in items[:place]) for place, item in enumerate(items)]
    order = sorted(range(len(items)), key=lambda place: (turn[place], place))[:wanted]
    return tuple(items[place] for place in sorted(order))


def cost_values(trial: Trial) -> dict[str, float]:
    """Write what a lesson took in the units of the table; of a resumed one only the size of its file is known."""
    if trial.cost is None:
        return {}
    if trial.cost.is_resumed:
        return {"file_kib": trial.cost.file_bytes / 2**10}
    return {
        "seconds": trial.cost.seconds,
        "peak_mib": trial.cost.peak_bytes / 2**20,
        "file_kib": trial.cost.file_bytes / 2**10,
    }
