"""Read off a picture whether the change that a prompt asked for is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sfumato.data.backgrounds import SIZE
from sfumato.data.facts import PLACES
from sfumato.data.layout import MARGIN
from sfumato.data.primer.library import Primer
from sfumato.evaluation.features import FeatureExtractor, Measuring
from sfumato.evaluation.grounds import foreground, ground_name, on_white
from sfumato.evaluation.people import fit_attribute
from sfumato.evaluation.probes import LinearProbe, check_available
from sfumato.evaluation.questions import training_people
from sfumato.evaluation.trial import Picture
from sfumato.events import Progress

PEOPLE = 3500
"""Real pictures that the classifiers learn from; as in the report on a base, whose stored features serve again."""

_NEAR = 0.3


class Reader:
    """Reads grounds and places, and attributes of drawn people where classifiers were fitted.

    Args:
        eye: Looks at pictures.
        probes: By style and attribute, a classifier and the labels that it knows.
    """

    def __init__(
        self, eye: FeatureExtractor | None = None, probes: Mapping[tuple[str, str], tuple[LinearProbe, set[str]]] = {}
    ) -> None:
        self._eye, self._probes = eye, dict(probes)

    def right(self, style: str, expects: Mapping[str, str], pictures: Sequence[Picture]) -> list[bool | None]:
        """Say of each picture whether it shows what it should.

        Args:
            style: Style of the subject.
            expects: What can be read off a right picture; see `data.benchmark.schema.Prompt`.
            pictures: The pictures.

        Returns:
            `None` for all where nothing can be read.
        """
        verdicts = [self._right(style, name, value, pictures) for name, value in expects.items()]
        known = [verdict for verdict in verdicts if verdict is not None]
        if not known:
            return [None] * len(pictures)
        return [all(answers) for answers in zip(*known, strict=True)]

    def _right(self, style: str, name: str, value: str, pictures: Sequence[Picture]) -> list[bool] | None:
        """Check one thing that can be read; `None` if it cannot."""
        if name == "ground":
            return [ground_name(picture) == value for picture in pictures]
        if name == "place":
            return [place_of(picture) == value for picture in pictures]
        probe, labels = self._probes.get((style, name), (None, set()))
        if probe is None or self._eye is None or value not in labels:
            return None
        return [read == value for read in probe.predict(self._eye.look(on_white(picture) for picture in pictures))]


def fit_reader(
    primer: Primer, eye: FeatureExtractor, wanted: Iterable[tuple[str, str]], size: int = PEOPLE
) -> Measuring[Reader]:
    """Fit the classifiers that some prompts need.

    Args:
        primer: The training set.
        eye: Looks at pictures.
        wanted: Styles and attributes.
        size: Real pictures of training people to learn from.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    check_available()
    pairs = sorted(set(wanted))
    scenes = training_people(primer, size, 0)
    features = yield from eye.look_at_real((on_white(scene.image) for scene in scenes), len(scenes), "real people")
    probes = {}
    for number, (style, attribute) in enumerate(pairs, start=1):
        probe, labels = fit_attribute(primer, attribute, style, scenes, features)
        if probe is not None:
            probes[style, attribute] = (probe, labels)
        yield Progress("classifiers", number, len(pairs))
    return Reader(eye, probes)


def place_of(picture: Picture) -> str | None:
    """Name the place where the one thing of a picture stands, or `None` where it is in between or nothing is there.

    Where things stand is said in shares of the free room beside and above them, as `data.layout` places them.
    """
    mask = foreground(picture)
    if not mask.any():
        return None
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    margin = MARGIN * width / SIZE
    shares = []
    for line, length in ((columns, width), (rows, height)):
        room = length - 2 * margin - (line[-1] - line[0] + 1)
        shares.append(0.5 if room < 1 else float(np.clip((line[0] - margin) / room, 0, 1)))
    name = min(PLACES, key=lambda place: _apart(PLACES[place], shares))
    return name if _apart(PLACES[name], shares) <= _NEAR else None


def _apart(anchor: Sequence[float], shares: Sequence[float]) -> float:
    """Return the distance of two places, as the larger of the two shares."""
    return max(abs(one - other) for one, other in zip(anchor, shares, strict=True))
