"""What a benchmark says of many pictures in one number: means, in double precision, of the formulas of `fidelity`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfumato.data.images import to_tensor
from sfumato.evaluation import fidelity
from sfumato.evaluation.encoders import Seeing
from sfumato.evaluation.trial import BASELINE, Picture, Trial, cost_values
from sfumato.models.perceptual import PerceptualLoss

_BATCH = 16
_SIDE = 128


def cosines(one: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return the cosine of every row of one with every row of the other."""
    return fidelity.cosines(one.double(), other.double())


def subject_fidelity(drawn: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> float:
    """Return the mean of `fidelity.subject_fidelity`.

    Of class pictures drawn after learning instead of the subject's, the same number is PRES ([ruiz2023] 4.4): less is
    better there.
    """
    return float(fidelity.subject_fidelity(drawn.double(), real.double()).mean())


def prompt_fidelity(drawn: Float[Tensor, "n d"], texts: Float[Tensor, "n d"]) -> float:
    """Return the mean of `fidelity.prompt_fidelity`."""
    return float(fidelity.prompt_fidelity(drawn.double(), texts.double()).mean())


def real_fidelity(real: Float[Tensor, "m d"]) -> float | None:
    """Return the mean of `fidelity.own_fidelity`: what a perfect method reaches.

    Returns:
        `None` for a single picture.
    """
    return None if len(real) < 2 else float(fidelity.own_fidelity(real.double()).mean())


def drift(before: Float[Tensor, "n d"], after: Float[Tensor, "n d"]) -> float:
    """Return the mean of `fidelity.class_shift`."""
    return float(fidelity.class_shift(after.double(), before.double()).mean())


def class_before(trials: Sequence[Trial], encoder: Seeing) -> Tensor | None:
    """Return the features of what the untrained base draws of the class; `None` where it was not asked."""
    return next((encoder.embed_pictures(trial.class_pictures) for trial in trials if trial.method == BASELINE), None)


def side_effects(
    trial: Trial, encoder: Seeing, learned: Float[Tensor, "m d"], before: Tensor | None, distance: PictureDistance
) -> dict[str, float]:
    """Measure what a method did beside drawing its subject: PRES, drift, DIV, and what the lesson took.

    Args:
        trial: The method.
        encoder: Encodes pictures.
        learned: Features of the pictures that were learned from.
        before: Those of `class_before`; `None` leaves drift out.
        distance: Perceptual distance.
    """
    after = encoder.embed_pictures(trial.class_pictures)
    values = {"pres": subject_fidelity(after, learned), **cost_values(trial)}
    if before is not None:
        values["drift"] = drift(before, after)
    diversity = distance.diversity(trial.drawn.values())
    return values if diversity is None else {**values, "div": diversity}


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

    def diversity(self, groups: Iterable[Sequence[Picture]]) -> float | None:
        """Return DIV: the mean distance of pictures of one subject and one prompt ([ruiz2023] 4.4, there with LPIPS).

        Args:
            groups: The pictures of each prompt.

        Returns:
            More is better; `None` where no prompt has two pictures.
        """
        total, pairs = 0.0, 0
        for group in groups:
            count = len(group) * (len(group) - 1) // 2
            if count:
                distances = fidelity.perceptual_distances(_stacked(group), self._network)
                total, pairs = total + count * fidelity.diversity(distances), pairs + count
        return total / pairs if pairs else None


def _stacked(pictures: Sequence[Picture]) -> Tensor:
    """Stack pictures as images of one size."""
    images = [to_tensor(picture)[None] for picture in pictures]
    scaled = [
        image if image.shape[-2:] == (_SIDE, _SIDE) else F.interpolate(image, (_SIDE, _SIDE), mode="area")
        for image in images
    ]
    return torch.cat(scaled)
