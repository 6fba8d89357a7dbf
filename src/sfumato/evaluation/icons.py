"""Icons: is the concept found again, and is it drawn in the style that was asked for?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sfumato.data.primer.library import Primer
from sfumato.evaluation.features import FeatureExtractor, Measuring
from sfumato.evaluation.grounds import on_white
from sfumato.evaluation.measures import Measure, Rows, balanced_accuracy, bootstrap, share
from sfumato.evaluation.probes import LinearProbe
from sfumato.evaluation.questions import Answer, gallery_scenes, real_answers, training_icons
from sfumato.evaluation.recall import Gallery, top_k
from sfumato.runtime.seeding import derive_seed

TARGETS = {"known icons": 0.70, "held-out icons": 0.40}
STYLE_TARGET = 0.85
_TITLES = {"known icons": "training pairs", "held-out icons": "held-out pairs"}


@dataclass(frozen=True)
class RealIcons:
    """Every training icon, looked at on white.

    Attributes:
        features: `(n, d)`.
        concepts: What each one shows.
        styles: Its style.
    """

    features: Tensor
    concepts: tuple[str, ...]
    styles: tuple[str, ...]


def look_at_icons(primer: Primer, eye: FeatureExtractor) -> Measuring[RealIcons]:
    """Look at all training icons."""
    icons = training_icons(primer)
    pictures = (on_white(scene.image) for scene in gallery_scenes(primer))
    features = yield from eye.look_at_real(pictures, len(icons), "real icons")
    return RealIcons(features, tuple(icon.concept for icon in icons), tuple(icon.style for icon in icons))


def measure_recall(
    eye: FeatureExtractor, icons: RealIcons, kind: str, answers: Sequence[Answer], drawn: Tensor, seed: int
) -> Measuring[list[Measure]]:
    """Measure how often the concept asked for is among the nearest in features.

    The ceiling asks with the real pictures of the same prompts. Of a held-out pair the training icons hold other
    styles only, so there it says how well a concept is found across styles.

    Args:
        eye: Looks at the pictures.
        icons: Where concepts are looked for.
        kind: `known icons` or `held-out icons`.
        answers: Pictures of icons whose concept is among the training icons, at least one.
        drawn: Their features, on white.
        seed: Decides the resampling.

    Returns:
        Shares for the first rank and the first five.
    """
    gallery = Gallery(icons.features, icons.concepts)
    asked = [answer.thing.name for answer in answers]
    real = real_answers(answer.scene for answer in answers)
    ceiling = gallery.ranks((yield from _look_at_real(eye, real, f"real {kind}")), asked)
    ranks = gallery.ranks(drawn, asked)
    concepts = len(set(icons.concepts))
    return [
        share(
            f"concept of {_TITLES[kind]}: top-{k}",
            [rank <= k for rank in ranks],
            target=TARGETS[kind] if k == 5 else None,
            ceiling=top_k(ceiling, k),
            chance=min(1.0, k / concepts),
            seed=seed,
        )
        for k in (1, 5)
    ]


def measure_style(
    eye: FeatureExtractor,
    icons: RealIcons,
    drawn: tuple[Sequence[str], Tensor],
    held_out: Sequence[Answer],
    size: int,
    seed: int,
) -> Measuring[list[Measure]]:
    """Measure how often the style asked for is read back by a linear classifier.

    Args:
        eye: Looks at the pictures.
        icons: Training icons; the classifier learns from some of them.
        drawn: The styles asked for, at least one, and features of the pictures drawn for them, on white.
        held_out: Real icons that the classifier has not seen.
        size: Number of icons that it learns from.
        seed: Decides which ones, and the resampling.

    Returns:
        Balanced accuracy, and its share of what is reached on real icons; nothing if there is only one style.
    """
    if len(set(icons.styles)) < 2:
        return []
    order = np.random.default_rng(derive_seed(seed, "style probe")).permutation(len(icons.styles))[:size]
    probe = LinearProbe(icons.features[torch.from_numpy(order)], [icons.styles[i] for i in order])
    real = yield from _look_at_real(eye, held_out, "real held-out icons")
    real_labels = np.array([answer.thing.style for answer in held_out])
    real_right = np.array(probe.predict(real)) == real_labels
    labels = np.array(drawn[0])
    right = np.array(probe.predict(drawn[1])) == labels

    def accuracy(rows: Rows) -> float:
        return balanced_accuracy(right[rows], labels[rows])

    reached, ceiling = balanced_accuracy(right, labels), balanced_accuracy(real_right, real_labels)
    low, high = bootstrap(accuracy, len(labels), seed)
    chance = 1 / len(set(icons.styles))
    scale = 1 / ceiling if ceiling > 0 else 0.0
    return [
        Measure("style: accuracy", reached, len(labels), (low, high), None, ceiling, chance),
        Measure(
            "style: share of what real icons reach",
            reached * scale,
            len(labels),
            (low * scale, high * scale),
            STYLE_TARGET,
            1.0,
            chance * scale,
        ),
    ]


def _look_at_real(eye: FeatureExtractor, answers: Sequence[Answer], phase: str) -> Measuring[Tensor]:
    """Look at real pictures on white."""
    pictures = (on_white(answer.picture) for answer in answers)
    features: Tensor = yield from eye.look_at_real(pictures, len(answers), phase)
    return features
