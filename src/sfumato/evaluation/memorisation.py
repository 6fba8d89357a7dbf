"""Has a concept learned its subject, or its pictures? Copies of training pictures, and a subject that leaks.

A copy lies nearer to one training picture than two genuine pictures of the subject lie to each other. How near those
are is measured on the set itself (leave-one-out), so the rule needs no constant of an encoder and holds for sets whose
pictures differ much or little. Pictures that are nearly the same count once: bursts and twins lie at no distance from
each other, and nothing lies nearer than that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from sfumato.data.fingerprint import Fingerprint, are_near, fingerprint
from sfumato.evaluation.fidelity import PerPicture, cosines
from sfumato.evaluation.measures import mean_interval

Picture = UInt8[np.ndarray, "H W 3"]
Small = Float[np.ndarray, "S S 3"]

KIN = 0.5
"""A copy is nearer to a training picture than this share of the distance between two genuine ones."""

ALARM = 0.25
"""Share of pictures from which on an alarm is raised."""

_TOLD = 3
_NOTHING = 1e-6
"""Distances below this are rounding errors."""

SIDE = 32
SHIFT = 2
"""Pictures are compared at `SIDE` pixels, moved by up to `SHIFT` of them each way."""


@dataclass(frozen=True)
class Nearest:
    """The training picture that a drawn one is nearest to.

    Attributes:
        index: Number of the training picture, the nearest in features.
        features: Distance to the nearest in features, 1 - cosine.
        pixels: Distance to that one in pixels, in [0, 1].
    """

    index: int
    features: float
    pixels: float


@dataclass(frozen=True)
class Kin:
    """How far genuine pictures lie from each other.

    Attributes:
        features: Median over pictures of the distance to the nearest other one, in features.
        pixels: The same in pixels.
        source: `set`: the subject's pictures among themselves; `class`: a single picture against what the base draws
            of its class, since one picture has no kin, and several that are nearly the same have none either.
    """

    features: float
    pixels: float
    source: str = "set"

    @property
    def is_blind(self) -> bool:
        """Whether nothing can be told to be a copy, because genuine pictures lie at no distance from each other."""
        return min(self.features, self.pixels) < _NOTHING

    def is_copy(self, nearest: Nearest) -> bool:
        """Say whether a picture is a copy: nearer than `KIN` of the distance of genuine ones, in both views.

        Why both: a well-learned subject comes near in features without being a copy, and two plain grounds come near in
        pixels.
        """
        return nearest.features < KIN * self.features and nearest.pixels < KIN * self.pixels


def nearest_pictures(
    features: Float[Tensor, "n d"],
    pictures: Sequence[Picture],
    known_features: Float[Tensor, "m d"],
    known: Sequence[Picture],
) -> list[Nearest]:
    """Find for each picture the training picture nearest in features, and how near that one is in features and pixels.

    Args:
        features: Features of the pictures.
        pictures: The pictures.
        known_features: Features of the training pictures.
        known: The training pictures.
    """
    far = 1 - cosines(features, known_features)
    pixels = pixel_distances(pictures, known)
    rows = ((int(row.argmin()), row, line) for row, line in zip(far, pixels, strict=True))
    return [Nearest(index, float(row[index]), float(line[index])) for index, row, line in rows]


def different_pictures(known: Sequence[Picture]) -> list[int]:
    """Return the numbers of the pictures of which no earlier one is nearly the same, mirrored or not.

    Two pictures are nearly the same as the check of a folder has it (`data.fingerprint`).

    Args:
        known: The training pictures.

    Returns:
        Ascending; at least 0 where there is a picture.
    """
    seen: list[Fingerprint] = []
    different = []
    for index, picture in enumerate(known):
        plain, mirrored = fingerprint(picture), fingerprint(np.ascontiguousarray(picture[:, ::-1]))
        if not any(are_near(one, earlier) for earlier in seen for one in (plain, mirrored)):
            different.append(index)
        seen.append(plain)
    return different


def kin_of(
    known_features: Float[Tensor, "m d"],
    known: Sequence[Picture],
    class_features: Float[Tensor, "n d"],
    class_pictures: Sequence[Picture],
) -> Kin:
    """Measure how far genuine pictures of the subject lie from each other, those that are nearly the same taken once.

    Args:
        known_features: Features of the training pictures.
        known: The training pictures.
        class_features: Features of pictures of the class that the base draws; used where the training pictures are one,
            or nearly the same.
        class_pictures: These pictures.
    """
    kept = different_pictures(known)
    known_features, known = known_features[kept], [known[index] for index in kept]
    if len(known) == 1:
        found = nearest_pictures(class_features, class_pictures, known_features, known)
        return Kin(
            float(np.median([one.features for one in found])), float(np.median([one.pixels for one in found])), "class"
        )
    far = 1 - cosines(known_features, known_features)
    far.fill_diagonal_(torch.inf)
    pixels = pixel_distances(known, known)
    np.fill_diagonal(pixels, np.inf)
    return Kin(float(np.median(far.min(dim=1).values.numpy())), float(np.median(pixels.min(axis=1))))


def pixel_distances(pictures: Sequence[Picture], known: Sequence[Picture]) -> Float[np.ndarray, "n m"]:
    """Return the least root mean square difference over small moves and mirroring, in units of the full range.

    d(a, b) = min_{|dx|, |dy| ≤ SHIFT, mirrored or not} sqrt(mean((a - moved b)²)), over the pixels that both have.

    Args:
        pictures: Pictures.
        known: Pictures to compare each with.
    """
    small, other = [_small(picture) for picture in pictures], [_small(picture) for picture in known]
    return np.array([[_pixel_distance(a, b) for b in other] for a in small])


def leaked(class_now: PerPicture, class_before: PerPicture, gained: Sequence[float]) -> list[bool] | None:
    """Say which pictures of the plain class show the subject, although their prompt does not name it.

    A picture does when it has come at least half as much nearer to the subject as pictures with the learned word have:
    c_i - b_i ≥ mean(g) / 2.

    Why against the word and not against the subject: what a base can reach of a subject differs; a class that has gone
    as far as the word has leaked, however far that is.

    Args:
        class_now: Fidelity to the subject of pictures of the plain class, drawn with the concept on.
        class_before: Of what the base draws for them.
        gained: How much nearer to the subject each picture with the word is than what the base draws for the class in
            the same sentence and with the same seed.

    Returns:
        One answer a picture; None where nothing is shown to have been learned that could leak (`nothing_alarm`).
    """
    if nothing_alarm(gained) is not None:
        return None
    half = float(np.mean(gained)) / 2
    return [moved >= half for moved in (class_now - class_before).tolist()]


def nothing_alarm(gained: Sequence[float]) -> str | None:
    """Return the alarm of a word that changes nothing, or None.

    Rule "beyond chance": the 95 % interval of what pictures with the word have gained holds 0.

    Args:
        gained: See `leaked`.
    """
    low, high = mean_interval(gained)
    if low > 0:
        return None
    return (
        "Nothing learned (rule 'beyond chance'): pictures with the learned word are not shown to be nearer to the "
        f"subject than what the base draws for the class (difference of cosines {float(np.mean(gained)):.3f}, 95 % "
        f"interval {low:.3f} to {high:.3f}). Whether the subject leaks into its class cannot be told then."
    )


def copy_alarm(nearest: Sequence[Nearest], kin: Kin, names: Sequence[str] = ()) -> str | None:
    """Return the alarm of copied training pictures, or None.

    Rule "closer than kin": at least `ALARM` of the pictures, all asked for in new settings, are copies (`Kin.is_copy`).

    Args:
        nearest: The training picture nearest to each picture.
        kin: How far genuine pictures lie from each other.
        names: What the training pictures are called; the alarm then says which ones are copied, the most copied first.
    """
    copied = Counter(one.index for one in nearest if kin.is_copy(one))
    count = copied.total()
    if not nearest or count < ALARM * len(nearest):
        return None
    than = "two of your pictures to each other" if kin.source == "set" else "the base's own drawings of the class to it"
    return (
        f"Memorised (rule 'closer than kin'): {count} of {len(nearest)} pictures in new settings lie less than half as "
        f"far from a training picture as {than}, in features and in pixels.{_which(copied, names)}"
    )


def _which(copied: Counter[int], names: Sequence[str]) -> str:
    """Say which training pictures are copied, and how often."""
    if not names:
        return ""
    told = [f"{names[index]} ({times})" for index, times in copied.most_common(_TOLD)]
    more = f" and {len(copied) - _TOLD} more" if len(copied) > _TOLD else ""
    return f" Copied: {', '.join(told)}{more}."


def leak_alarm(answers: Sequence[bool] | None, class_prompt: str) -> str | None:
    """Return the alarm of a subject that leaks into its class, or None.

    Rule "half as far as the word": at least `ALARM` of the pictures of the plain class show the subject (`leaked`).
    """
    count = sum(answers or ())
    if not answers or count < ALARM * len(answers):
        return None
    return (
        f"Leaked (rule 'half as far as the word'): {count} of {len(answers)} pictures of '{class_prompt}', without the "
        "learned word, have come at least half as much nearer to the subject as those with it."
    )


def _small(picture: Picture) -> Small:
    """Scale a picture down, to numbers in [0, 1]."""
    scaled = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(scaled, dtype=np.float64) / 255


def _pixel_distance(a: Small, b: Small) -> float:
    """Return the least difference of two small pictures."""
    found = []
    for mirrored in (b, b[:, ::-1]):
        for dy in range(-SHIFT, SHIFT + 1):
            for dx in range(-SHIFT, SHIFT + 1):
                one = a[max(0, dy) : SIDE + min(0, dy), max(0, dx) : SIDE + min(0, dx)]
                two = mirrored[max(0, -dy) : SIDE + min(0, -dy), max(0, -dx) : SIDE + min(0, -dx)]
                found.append(float(np.square(one - two).mean()))
    return float(np.sqrt(min(found)))
