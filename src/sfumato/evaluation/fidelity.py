"""How near drawn pictures come to a subject and to their prompts, and what else they cost; one formula a function.

Every function works on features of any encoder, so that values of two encoders are never mixed: what a raw cosine means
depends on the encoder, and `share` puts it between two values that the same encoder gives to known pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.models.perceptual import PerceptualLoss
from sfumato.tensors import Images

PerPicture = Float[Tensor, "n"]
PerKnown = Float[Tensor, "m"]
Own = Int[Tensor, "n"]
Distances = Float[Tensor, "k k"]

_SMALL = 1e-6


def cosines(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Return the cosine of every row of `a` with every row of `b`."""
    return F.normalize(a, dim=1) @ F.normalize(b, dim=1).T


def subject_fidelity(drawn: Float[Tensor, "n d"], subject: Float[Tensor, "m d"]) -> PerPicture:
    """Say how near each drawn picture is to the pictures of the subject.

    F_i = 1/m sum_j cos(f(x_i), f(s_j)); its mean over i is the average pairwise cosine of [ruiz2023] 4.2, called DINO
    or CLIP-I after the encoder f.

    Args:
        drawn: Features of drawn pictures.
        subject: Features of the subject's pictures.
    """
    return cosines(drawn, subject).mean(dim=1)


def own_fidelity(subject: Float[Tensor, "m d"]) -> PerKnown:
    """Say how near each picture of the subject is to its other ones: what "Real images" reach in [ruiz2023] table 1.

    O_j = 1/(m-1) sum_{k≠j} cos(f(s_j), f(s_k))

    Args:
        subject: Features of the subject's pictures.

    Returns:
        One value a picture; 1 for a single picture, which has no other to be compared with.
    """
    count = len(subject)
    if count == 1:
        return torch.ones(1)
    similar = cosines(subject, subject)
    return (similar.sum(dim=1) - similar.diagonal()) / (count - 1)


def prompt_fidelity(drawn: Float[Tensor, "n d"], texts: Float[Tensor, "n d"]) -> PerPicture:
    """Say how well each picture shows its own text: CLIP-T of [ruiz2023] 4.2.

    T_i = cos(f(x_i), g(t_i))

    Args:
        drawn: Features of pictures.
        texts: Features of the text of each picture, with the class noun in place of the learned word, which no encoder
            knows.
    """
    return F.cosine_similarity(drawn, texts, dim=1)


def prompt_margin(drawn: Float[Tensor, "n d"], texts: Float[Tensor, "p d"], own: Own) -> PerPicture:
    """Say how much better each picture shows its own text than the texts of the other prompts.

    M_i = cos(f(x_i), g(t_own)) - 1/(p-1) sum_{q≠own} cos(f(x_i), g(t_q))

    Why: learning a subject moves all cosines of its pictures together, because they all show it now. What the prompt
    adds is the difference; 0 is what a picture reaches that ignores its prompt.

    Args:
        drawn: Features of pictures.
        texts: Features of the texts of all prompts, at least two.
        own: Which text each picture was drawn from.

    Raises:
        ConfigError: There is one prompt only.
    """
    count = len(texts)
    if count < 2:
        raise ConfigError(
            f"{count} prompt was given; a margin needs at least 2, the others being what it is compared with.",
            field="prompts",
            hint="Add prompts that differ in what surrounds the subject.",
        )
    similar = cosines(drawn, texts)
    right = similar.gather(1, own[:, None])[:, 0]
    return right - (similar.sum(dim=1) - right) / (count - 1)


def reference_margin(drawn: Float[Tensor, "n d"], known: Float[Tensor, "n d"], own: Own) -> PerPicture:
    """Return `prompt_margin` of pictures against known ones, where no encoder of texts is at hand.

    In place of the text of a prompt stands the mean of the unit features of its known pictures, without the one that
    the drawn picture is the counterpart of. Why: the known pictures are measured against themselves in the same way,
    so that what is drawn as well as they are reaches what they reach, neither less nor more.

    Args:
        drawn: Features of pictures.
        known: Features of the known picture of the same prompt and seed for each, at least two of every prompt.
        own: Which prompt each picture was drawn from, numbered from 0.

    Raises:
        ConfigError: A prompt has one picture only.
    """
    counts = torch.bincount(own)
    if int(counts.min()) < 2:
        raise ConfigError(
            f"A prompt has {int(counts.min())} picture; needed: at least 2, so that one can stand for the prompt while "
            "the other is measured.",
            field="seeds",
            hint="Use 2 seeds or more.",
        )
    margins = []
    for row in range(len(drawn)):
        kept = torch.arange(len(drawn)) != row
        margins.append(prompt_margin(drawn[row : row + 1], prompt_means(known[kept], own[kept]), own[row : row + 1]))
    return torch.cat(margins)


def prompt_means(drawn: Float[Tensor, "n d"], own: Own) -> Float[Tensor, "p d"]:
    """Return the mean of the unit features of every prompt's pictures."""
    unit = F.normalize(drawn, dim=1)
    return torch.stack([unit[own == prompt].mean(dim=0) for prompt in range(int(own.max()) + 1)])


def class_preservation(class_drawn: Float[Tensor, "n d"], subject: Float[Tensor, "m d"]) -> PerPicture:
    """Say how near pictures of the class have come to the subject: PRES of [ruiz2023] 4.4; less is better.

    PRES_i = 1/m sum_j cos(f(c_i), f(s_j)), c drawn from "a <class noun>" after learning.

    Args:
        class_drawn: Features of pictures of the class, drawn with the concept on.
        subject: Features of the subject's pictures.
    """
    return subject_fidelity(class_drawn, subject)


def class_shift(class_drawn: Float[Tensor, "n d"], class_before: Float[Tensor, "n d"]) -> PerPicture:
    """Say how far each picture of the class has moved from what the base draws with the same seed.

    S_i = 1 - cos(f(c_i), f(b_i)); 0 where nothing has changed.
    """
    return 1.0 - F.cosine_similarity(class_drawn, class_before, dim=1)


def diversity(distances: Distances) -> float:
    """Return the mean distance between two different pictures of one prompt: DIV of [ruiz2023] 4.4; more is better.

    DIV = 2/(k(k-1)) sum_{i<j} d(x_i, x_j), where d is LPIPS in the paper and `perceptual_distances` here.

    Args:
        distances: Distance of every picture of a prompt from every other, symmetric; at least two pictures.

    Raises:
        ConfigError: There is one picture only.
    """
    count = len(distances)
    if count < 2:
        raise ConfigError(
            f"{count} picture of a prompt was given; diversity needs at least 2.",
            field="seeds",
            hint="Use 2 seeds or more.",
        )
    return float(distances.triu(diagonal=1).sum() * 2 / (count * (count - 1)))


@torch.no_grad()
def perceptual_distances(images: Images, loss: PerceptualLoss) -> Float[Tensor, "b b"]:
    """Return the perceptual distance of every picture from every other.

    Args:
        images: Pictures in [-1, 1].
        loss: The distance; its network sees every picture once.
    """
    maps = loss.maps(images)
    distances = torch.zeros(len(images), len(images))
    for weight, features in zip(loss.weights, maps, strict=True):
        for row in range(len(images)):
            distances[row] += weight * (features - features[row : row + 1]).square().sum(dim=1).mean(dim=(1, 2))
    return distances


def share(values: PerPicture, low: float, high: float) -> PerPicture | None:
    """Place values on the way from `low` (0) to `high` (1).

    (v - low) / (high - low)

    Args:
        values: Values of one encoder.
        low: What known pictures reach that have nothing of what is measured.
        high: What known pictures reach that have all of it.

    Returns:
        Shares, below 0 and above 1 where values lie outside; None where `high` is not above `low`, because then the
        encoder cannot tell the two apart and the share would mean nothing.
    """
    if high - low < _SMALL:
        return None
    return (values - low) / (high - low)
