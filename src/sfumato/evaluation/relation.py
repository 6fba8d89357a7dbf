"""Two things in a relation: which of four arrangements does a picture show?

The picture is cut in two, once from left to right and once from top to bottom, where there is least to cut. Each part
is enlarged and compared with real pictures of the two things, cut and enlarged in the same way. The arrangement whose
two parts are most like the two things is what the picture shows; guessing finds it once in four times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfumato.data.compose import Scene, compose
from sfumato.data.facts import Relation
from sfumato.data.primer.library import Primer
from sfumato.evaluation.features import FeatureExtractor, Measuring
from sfumato.evaluation.grounds import Mask, Picture, cut_out, foreground
from sfumato.evaluation.measures import Measure, share
from sfumato.evaluation.questions import Answer, real_answers
from sfumato.events import Progress

NAME = "two things in the relation asked for"
STRICT_NAME = f"{NAME}, both recognised"
TARGET = 0.60
CHANCE = 0.25
CANDIDATES = 10

_SEEN_AS: dict[Relation, Relation] = {"on top of": "above"}
_OPPOSITE: dict[Relation, Relation] = {"left of": "right of", "above": "below"}
_AXES: dict[Relation, int] = {"left of": 1, "above": 0}
_LEAST_SHARE = 0.01
_BATCH = 16
_MIDDLE = (0.2, 0.8)


@dataclass(frozen=True)
class Seen:
    """What a picture of two things shows.

    Attributes:
        relation: How the first thing lies to the second; `None` where there are no two parts.
        recognised: Whether each part is more like its own thing than like any of the other candidates.
    """

    relation: Relation | None
    recognised: bool = False

    def answers(self, scene: Scene) -> bool:
        """Say whether this is the relation that was asked for."""
        asked = scene.facts.relation
        return asked is not None and self.relation == _SEEN_AS.get(asked, asked)


def measure_relations(
    primer: Primer, eye: FeatureExtractor, answers: Sequence[Answer], seed: int
) -> Measuring[list[Measure]]:
    """Measure how often two things lie as the prompt says.

    Args:
        primer: The training set.
        eye: Looks at the parts.
        answers: Pictures of pairs, at least one.
        seed: Decides the resampling.

    Returns:
        The share of right relations, and of right relations between things that are both recognised.
    """
    scenes = [answer.scene for answer in answers]
    references = yield from real_things(primer, eye, scenes)
    right: dict[str, list[bool]] = {}
    strict: dict[str, list[bool]] = {}
    for kind, given in (("real", real_answers(scenes)), ("generated", answers)):
        seen: list[Seen] = []
        for first in range(0, len(given), _BATCH):
            pictures = [answer.picture for answer in given[first : first + _BATCH]]
            seen += arrangements(eye, pictures, references, first)
            yield Progress(f"relations, {kind}", len(seen), len(given))
        right[kind] = [one.answers(scene) for one, scene in zip(seen, scenes, strict=True)]
        strict[kind] = [found and one.recognised for found, one in zip(right[kind], seen, strict=True)]
    ceilings = [float(np.mean(found["real"])) for found in (right, strict)]
    chance = CHANCE / references.candidates**2
    return [
        share(NAME, right["generated"], target=TARGET, ceiling=ceilings[0], chance=CHANCE, seed=seed),
        share(STRICT_NAME, strict["generated"], ceiling=ceilings[1], chance=chance, seed=seed),
    ]


@dataclass(frozen=True)
class References:
    """Features of the real things, `(number of scenes, 2, d)`: one row a scene, first and second thing.

    Attributes:
        features: Unit vectors.
        others: For each scene, the rows of the flattened features that serve as other candidates.
    """

    features: Tensor
    others: tuple[tuple[int, ...], ...]

    def candidates_of(self, number: int) -> Tensor:
        """Return the first thing of a scene, the second, and the others that a part is compared with."""
        return torch.cat([self.features[number], self.features.flatten(0, 1)[list(self.others[number])]])

    @property
    def candidates(self) -> int:
        """Least number of things that a part is compared with."""
        return 2 + min((len(rows) for rows in self.others), default=0)


def real_things(primer: Primer, eye: FeatureExtractor, scenes: Sequence[Scene]) -> Measuring[References]:
    """Look at real pictures of the things of some scenes, drawn as small as they are there and enlarged."""
    things = [thing for scene in scenes for thing in scene.facts.things]

    def pictures() -> Iterator[Picture]:
        for thing in things:
            picture = compose(primer, thing.name, thing.style, size="small").image
            yield _enlarged(picture, foreground(picture))

    features = yield from eye.look_at_real(pictures(), len(things), "real things")
    others = []
    for number, scene in enumerate(scenes):
        own = {thing.name for thing in scene.facts.things}
        rows: dict[str, int] = {}
        for step in range(2 * len(scenes)):
            row = (2 * number + 2 + step) % len(things)
            name = things[row].name
            if things[row].style == scene.facts.things[0].style and name not in own and len(rows) < CANDIDATES - 2:
                rows.setdefault(name, row)
        others.append(tuple(rows.values()))
    unit = torch.nn.functional.normalize(features, dim=1)
    return References(unit.view(len(scenes), 2, -1), tuple(others))


def arrangements(eye: FeatureExtractor, pictures: Sequence[Picture], references: References, first: int) -> list[Seen]:
    """Find out how the two things of scenes lie to each other in pictures.

    Args:
        eye: Looks at the parts.
        pictures: One picture a scene, of consecutive scenes.
        references: What the things look like.
        first: Number of the first scene.
    """
    halves = [_halves(picture) for picture in pictures]
    crops = [
        _enlarged(picture, part)
        for picture, found in zip(pictures, halves, strict=True)
        for pair in found.values()
        for part in pair
    ]
    features = torch.nn.functional.normalize(eye.look(crops), dim=1).split([2 * len(found) for found in halves])
    return [
        _best(list(found), parts @ references.candidates_of(number).T)
        for number, (found, parts) in enumerate(zip(halves, features, strict=True), first)
    ]


def _best(relations: Sequence[Relation], likeness: Tensor) -> Seen:
    """Choose the arrangement whose two parts are most like the two things, which are the first two candidates."""
    best, seen = -float("inf"), Seen(None)
    for place, relation in enumerate(relations):
        pair = likeness[2 * place : 2 * place + 2]
        for one, other, name in ((pair[0], pair[1], relation), (pair[1], pair[0], _OPPOSITE[relation])):
            if float(one[0] + other[1]) > best:
                best = float(one[0] + other[1])
                seen = Seen(name, int(one.argmax()) == 0 and int(other.argmax()) == 1)
    return seen


def _halves(picture: Picture) -> dict[Relation, tuple[Mask, Mask]]:
    """Cut what is seen from left to right and from top to bottom; a cut that leaves a part empty is left out."""
    mask = foreground(picture)
    cuts = {relation: _parts(mask, axis) for relation, axis in _AXES.items()}
    return {relation: cut for relation, cut in cuts.items() if cut is not None}


def _parts(mask: Mask, axis: int) -> tuple[Mask, Mask] | None:
    """Cut what is seen in two where there is least to cut, near the middle; `None` if one part is next to nothing."""
    profile = mask.sum(axis=1 - axis)
    filled = np.flatnonzero(profile)
    if len(filled) < 2:
        return None
    low, high = filled[0], filled[-1] + 1
    first, last = (round(low + edge * (high - low)) for edge in _MIDDLE)
    places = np.arange(max(first, low + 1), max(last, low + 2))
    cost = profile[places] + 0.05 * np.abs(places - (low + high) / 2)
    cut = int(places[np.argmin(cost)])
    before = np.arange(mask.shape[axis]) < cut
    inside = before[None, :] if axis == 1 else before[:, None]
    one, other = mask & inside, mask & ~inside
    return None if min(one.mean(), other.mean()) < _LEAST_SHARE else (one, other)


def _enlarged(picture: Picture, mask: Mask) -> Picture:
    """Cut out the part of a picture that a mask marks; a picture without anything is left as it is."""
    return cut_out(picture, mask) if mask.any() else picture
