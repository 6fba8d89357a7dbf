"""What a benchmark says of many pictures, one by one or as a mean: the formulas of `fidelity` in double precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfumato.data.images import to_tensor
from sfumato.evaluation import fidelity
from sfumato.evaluation.encoders import Seeing
from sfumato.evaluation.trial import BASELINE, Picture, Trial, cost_values
from sfumato.models.perceptual import PerceptualLoss

Rows = dict[str, list[float]]
"""By column the values of pictures, or of prompts, one by one."""
_BATCH = 16
_SIDE = 128


def cosines(one: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return the cosine of every row of one with every row of the other."""
    return fidelity.cosines(one.double(), other.double())


def mean_subject_fidelity(drawn: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> float:
    """Return the mean of `fidelity.subject_fidelity`.

    Of class pictures drawn after learning instead of the subject's, the same number is PRES ([ruiz2023] 4.4): less is
    better there.
    """
    return float(fidelity.subject_fidelity(drawn.double(), real.double()).mean())


def mean_prompt_fidelity(drawn: Float[Tensor, "n d"], texts: Float[Tensor, "n d"]) -> float:
    """Return the mean of `fidelity.prompt_fidelity`."""
    return float(fidelity.prompt_fidelity(drawn.double(), texts.double()).mean())


def real_fidelity(real: Float[Tensor, "m d"]) -> float | None:
    """Return the mean of `fidelity.own_fidelity`: what a perfect method reaches.

    Returns:
        `None` for a single picture.
    """
    return None if len(real) < 2 else float(fidelity.own_fidelity(real.double()).mean())


def means(rows: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean of every column that has values."""
    return {name: float(np.mean(values)) for name, values in rows.items() if len(values)}


def class_before(trials: Sequence[Trial], encoder: Seeing) -> Tensor | None:
    """Return the features of what the untrained base draws of the class; `None` where it was not asked."""
    return next((encoder.embed_pictures(trial.class_pictures) for trial in trials if trial.method == BASELINE), None)


def side_rows(
    trial: Trial, encoder: Seeing, learned: Float[Tensor, "m d"], before: Tensor | None, distance: PictureDistance
) -> Rows:
    """Measure what a method did beside drawing its subject: PRES and drift of each class picture, DIV of each prompt.

    Args:
        trial: The method.
        encoder: Encodes pictures.
        learned: Features of the pictures that were learned from.
        before: Those of `class_before`; `None` leaves drift out.
        distance: Perceptual distance.
    """
    after = encoder.embed_pictures(trial.class_pictures).double()
    rows = {"pres": fidelity.class_preservation(after, learned.double()).tolist()}
    if before is not None:
        rows["drift"] = fidelity.class_shift(after, before.double()).tolist()
    return {**rows, "div": distance.diversities(trial.drawn.values())}


def side_effects(
    trial: Trial, encoder: Seeing, learned: Float[Tensor, "m d"], before: Tensor | None, distance: PictureDistance
) -> dict[str, float]:
    """Return the means of `side_rows`, and what the lesson took."""
    return means(side_rows(trial, encoder, learned, before, distance)) | cost_values(trial)


class PictureDistance:
    """Perceptual distance of pictures; see `models.perceptual`.

    Args:
        network: The loss whose value is the distance.
    """

    def __init__(self, network: PerceptualLoss | None = None) -> None:
        self._network = network or PerceptualLoss()

    @torch.no_grad()
    def between(self, one: Sequence[Picture], other: Sequence[Picture]) -> list[float]:
        """Return the distance of each picture from the one at the same place, all scaled to 128 pixels."""
        found: list[float] = []
        for first in range(0, len(one), _BATCH):
            pair = [_stacked(pictures[first : first + _BATCH]) for pictures in (one, other)]
            found += self._network(*pair).tolist()
        return found

    def diversities(self, groups: Iterable[Sequence[Picture]]) -> list[float]:
        """Return DIV: the mean distance of pictures of one subject and one prompt ([ruiz2023] 4.4, there with LPIPS).

        Args:
            groups: The pictures of each prompt.

        Returns:
            One value for each prompt that has two pictures; more is better.
        """
        return [
            fidelity.diversity(fidelity.perceptual_distances(_stacked(group), self._network))
            for group in groups
            if len(group) > 1
        ]


def _stacked(pictures: Sequence[Picture]) -> Tensor:
    """Stack pictures as images of one size."""
    images = [to_tensor(picture)[None] for picture in pictures]
    scaled = [
        image if image.shape[-2:] == (_SIDE, _SIDE) else F.interpolate(image, (_SIDE, _SIDE), mode="area")
        for image in images
    ]
    return torch.cat(scaled)
