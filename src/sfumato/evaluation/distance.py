"""Fréchet distance between generated and real scenes, with what an autoencoder alone costs beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sfumato.data.images import to_pixels, to_tensor
from sfumato.data.primer.library import Primer
from sfumato.evaluation.features import FeatureExtractor, Measuring
from sfumato.evaluation.frechet import frechet_distance
from sfumato.evaluation.grounds import Picture
from sfumato.evaluation.measures import Measure
from sfumato.evaluation.plan import EvaluationPlan
from sfumato.evaluation.questions import Answer, mixture
from sfumato.events import Progress
from sfumato.tensors import Images

Reconstruct = Callable[[Images], Images]
_BATCH = 8


def measure_distance(
    primer: Primer, eye: FeatureExtractor, answers: Sequence[Answer], reconstruct: Reconstruct, plan: EvaluationPlan
) -> Measuring[list[Measure]]:
    """Measure how far pictures drawn from scene captions lie from the scenes themselves.

    All three distances are between the same number of pictures, since the value depends on it.

    Args:
        primer: The training set.
        eye: Looks at the pictures.
        answers: Pictures drawn from captions of scenes, at least two.
        reconstruct: Encodes and decodes pictures.
        plan: Decides the scenes.

    Returns:
        The distance of generated pictures, with that of reconstructions as the floor; the floor by itself; and the
        distance to as many other real scenes, for scale.
    """
    count = len(answers)
    real = yield from eye.look_at_real((answer.scene.image for answer in answers), count, "real scenes")
    others = mixture(primer, plan, range(count, 2 * count))
    other = yield from eye.look_at_real((scene.image for scene in others), count, "other real scenes")
    decoded: list[Tensor] = []
    for first in range(0, count, _BATCH):
        scenes = [answer.scene.image for answer in answers[first : first + _BATCH]]
        decoded.append(eye.look(_reconstructed(reconstruct, scenes)))
        yield Progress("reconstructions", min(first + _BATCH, count), count)
    floor = frechet_distance(torch.cat(decoded), real)
    drawn = frechet_distance(eye.look(answer.picture for answer in answers), real)
    return [
        Measure("Fréchet distance to real scenes", drawn, count, ceiling=floor, is_distance=True),
        Measure("Fréchet distance of the autoencoder's reconstructions", floor, count, is_distance=True),
        Measure("Fréchet distance of other real scenes", frechet_distance(other, real), count, is_distance=True),
    ]


@torch.no_grad()
def _reconstructed(reconstruct: Reconstruct, pictures: Sequence[Picture]) -> list[Picture]:
    """Send pictures through an autoencoder."""
    images = reconstruct(torch.stack([to_tensor(picture) for picture in pictures]))
    return [to_pixels(image) for image in images]
