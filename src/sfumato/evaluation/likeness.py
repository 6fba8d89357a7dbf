"""How like pictures are: to a subject, to a prompt, to one another. Encoders are given, formulas are here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from sfumato.data.images import to_tensor
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.trial import Picture
from sfumato.models.perceptual import PerceptualLoss

_BATCH = 16
_SIDE = 128


@runtime_checkable
class PictureEncoder(Protocol):
    """Turns pictures into features."""

    def embed_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Return one row a picture."""
        ...


@runtime_checkable
class TextPictureEncoder(Protocol):
    """Turns pictures and texts into features that can be compared."""

    def embed_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Return one row a picture."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Return one row a text."""
        ...


class EyeEncoder:
    """The features of EfficientNet-Lite0, which ships with the package.

    Args:
        eye: Looks at pictures.
    """

    def __init__(self, eye: FeatureExtractor | None = None) -> None:
        self._eye = eye or FeatureExtractor()

    def embed_pictures(self, pictures: Sequence[Picture]) -> Tensor:
        """Return one row a picture."""
        return self._eye.look(pictures)


def cosines(one: Float[Tensor, "n d"], other: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return the cosine of every row of one with every row of the other."""
    return F.normalize(one.double(), dim=1) @ F.normalize(other.double(), dim=1).T


def subject_fidelity(drawn: Float[Tensor, "n d"], real: Float[Tensor, "m d"]) -> float:
    """Return the mean pairwise cosine of drawn and real pictures of a subject ([ruiz2023] 4.1; DINO, CLIP-I).

    Of class pictures drawn after learning instead of the subject's, the same number is PRES ([ruiz2023] 4.4): less is
    better there.
    """
    return float(cosines(drawn, real).mean())


def prompt_fidelity(drawn: Float[Tensor, "n d"], texts: Float[Tensor, "n d"]) -> float:
    """Return the mean cosine of pictures and their texts ([ruiz2023] 4.1; CLIP-T)."""
    return float((F.normalize(drawn.double(), dim=1) * F.normalize(texts.double(), dim=1)).sum(1).mean())


def real_fidelity(real: Float[Tensor, "m d"]) -> float | None:
    """Return the mean cosine of different real pictures of a subject: what a perfect method reaches.

    Returns:
        `None` for a single picture.
    """
    if len(real) < 2:
        return None
    table = cosines(real, real)
    return float((table.sum() - table.diagonal().sum()) / (len(real) * (len(real) - 1)))


def drift(before: Float[Tensor, "n d"], after: Float[Tensor, "n d"]) -> float:
    """Return how far pictures of the class have moved: 1 - cosine, seed by seed."""
    return 1.0 - prompt_fidelity(before, after)


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
        pairs = [pair for group in groups for pair in combinations(group, 2)]
        if not pairs:
            return None
        distances = self.between([one for one, _ in pairs], [other for _, other in pairs])
        return sum(distances) / len(distances)


def _stacked(pictures: Sequence[Picture]) -> Tensor:
    """Stack pictures as images of one size."""
    images = [to_tensor(picture)[None] for picture in pictures]
    scaled = [
        image if image.shape[-2:] == (_SIDE, _SIDE) else F.interpolate(image, (_SIDE, _SIDE), mode="area")
        for image in images
    ]
    return torch.cat(scaled)
