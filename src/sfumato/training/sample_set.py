"""Pictures as latents, and which of them a step sees: a function of seed and draw, the same after a resume."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.runtime.seeding import generator
from sfumato.tensors import Latents, LatentWeights

_MIRRORED = " (mirrored)"
"""What follows the name of the file where a picture is its mirrored copy."""


@dataclass(frozen=True)
class Samples:
    """Pictures of one size as latents, with their captions.

    Attributes:
        mean: Mean of the scaled latents of every picture; with variants, those of a picture follow one another.
        std: Their standard deviation; None for latents without spread.
        captions: One per picture, placeholders not written out.
        names: One per picture, for messages.
        data_hash: SHA-256 of the files and captions.
        repeats: How often each is shown in a round; empty: once.
        words: The placeholder of each; empty for pictures that have none.
        weights: How much each latent counts in the loss; None where all count alike.
        variants: Variants of each picture.
    """

    mean: Float[Tensor, "n c h w"]
    std: Float[Tensor, "n c h w"] | None
    captions: tuple[str, ...]
    names: tuple[str, ...]
    data_hash: str = ""
    repeats: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    weights: Float[Tensor, "n 1 h w"] | None = None
    variants: int = 1

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def round(self) -> list[int]:
        """The rows of one round, each as often as it is repeated."""
        return [row for row, times in enumerate(self.repeats or (1,) * len(self)) for _ in range(times)]

    def rows(self, count: int, seed: int, purpose: str, draw: int) -> list[int]:
        """Choose the rows of a draw; see `pick`."""
        shown = self.round
        return [shown[place] for place in pick(len(shown), count, seed, purpose, draw)]

    def drawn(self, rows: Sequence[int], draw: torch.Generator) -> tuple[Latents, LatentWeights | None]:
        """Draw a variant of some pictures, and latents of it from their distribution, with their weights."""
        picked = list(rows)
        if self.variants > 1:
            chosen = torch.randint(self.variants, (len(picked),), generator=draw).tolist()
            picked = [row * self.variants + variant for row, variant in zip(picked, chosen, strict=True)]
        mean = self.mean[picked]
        weights = None if self.weights is None else self.weights[picked]
        if self.std is None:
            return mean, weights
        return mean + self.std[picked] * torch.randn(mean.shape, generator=draw), weights


@dataclass(frozen=True)
class BucketedSamples:
    """Pictures of several sizes: rows are counted through, and a batch holds one size only.

    Attributes:
        buckets: The pictures of each size.
        data_hash: SHA-256 of the files and captions.
    """

    buckets: tuple[Samples, ...]
    data_hash: str = ""

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    @property
    def captions(self) -> tuple[str, ...]:
        """One per picture."""
        return tuple(caption for bucket in self.buckets for caption in bucket.captions)

    @property
    def names(self) -> tuple[str, ...]:
        """One per picture."""
        return tuple(name for bucket in self.buckets for name in bucket.names)

    @property
    def repeats(self) -> tuple[int, ...]:
        """How often each is shown in a round."""
        return tuple(times for bucket in self.buckets for times in bucket.repeats or (1,) * len(bucket))

    @property
    def words(self) -> tuple[str, ...]:
        """The placeholder of each."""
        return tuple(word for bucket in self.buckets for word in bucket.words)

    @cached_property
    def _turns(self) -> list[int]:
        """The bucket of each batch of a round before shuffling: as many batches as it shows pictures.

        Every picture is then shown the same number of times (times its repeats), whatever the sizes of the buckets, and
        no batch is short.
        """
        return [number for number, bucket in enumerate(self.buckets) for _ in bucket.round]

    def rows(self, count: int, seed: int, purpose: str, draw: int) -> list[int]:
        """Choose the rows of a draw, all from one bucket."""
        turn, place = divmod(draw, len(self._turns))
        order = torch.randperm(len(self._turns), generator=generator(seed, f"{purpose}/buckets", turn)).tolist()
        buckets = [self._turns[number] for number in order]
        number = buckets[place]
        bucket = self.buckets[number]
        index = turn * len(bucket.round) + buckets[:place].count(number)
        first = sum(len(other) for other in self.buckets[:number])
        return [first + row for row in bucket.rows(count, seed, f"{purpose}/bucket {number}", index)]

    def drawn(self, rows: Sequence[int], draw: torch.Generator) -> tuple[Latents, LatentWeights | None]:
        """Draw latents of some pictures of one bucket, with their weights."""
        first = 0
        for bucket in self.buckets:
            if first <= rows[0] < first + len(bucket):
                return bucket.drawn([row - first for row in rows], draw)
            first += len(bucket)
        raise IndexError(rows[0])


DrawnLatents = tuple[Tensor, Tensor | None]
"""Latents of some pictures, `(b, c, h, w)`, and how much each counts, `(b, 1, h, w)`; None where all count alike."""
AnySamples = Samples | BucketedSamples
"""Pictures of one size or of several."""


def joined(several: Sequence[AnySamples]) -> AnySamples:
    """Put the pictures of several subjects together, those of one size in one bucket.

    Args:
        several: At least one; all with spread, variants and weights, or all without.

    Returns:
        Their pictures in order, sizes in the order in which they first come.
    """
    if len(several) == 1:
        return several[0]
    data_hash = hashlib.sha256("/".join(samples.data_hash for samples in several).encode()).hexdigest()
    sizes: dict[tuple[int, ...], list[Samples]] = {}
    for samples in several:
        for bucket in (samples,) if isinstance(samples, Samples) else samples.buckets:
            sizes.setdefault(tuple(bucket.mean.shape[2:]), []).append(bucket)
    buckets = tuple(_joined(alike, data_hash) for alike in sizes.values())
    return buckets[0] if len(buckets) == 1 else BucketedSamples(buckets, data_hash)


def _joined(several: Sequence[Samples], data_hash: str) -> Samples:
    """Put pictures of one size together."""
    spreads = [samples.std for samples in several if samples.std is not None]
    weights = [samples.weights for samples in several if samples.weights is not None]
    return Samples(
        torch.cat([samples.mean for samples in several]),
        torch.cat(spreads) if spreads else None,
        tuple(chain.from_iterable(samples.captions for samples in several)),
        tuple(chain.from_iterable(samples.names for samples in several)),
        data_hash,
        tuple(chain.from_iterable(samples.repeats or (1,) * len(samples) for samples in several)),
        tuple(chain.from_iterable(samples.words for samples in several)),
        torch.cat(weights) if weights else None,
        several[0].variants,
    )


def in_batches(drawn: Sequence[DrawnLatents]) -> list[DrawnLatents]:
    """Join what was drawn to one batch where all latents have one size; else each stays a batch of its own.

    Args:
        drawn: Latents with their weights, at least one; where some have weights and some none, all latents of the
            latter count alike.
    """
    if len({tuple(x_0.shape[1:]) for x_0, _ in drawn}) > 1:
        return list(drawn)
    weights = None
    if any(given is not None for _, given in drawn):
        weights = torch.cat([torch.ones_like(x_0[:, :1]) if given is None else given for x_0, given in drawn])
    return [(torch.cat([x_0 for x_0, _ in drawn]), weights)]


def file_numbers(samples: AnySamples) -> list[int]:
    """Number the files of pictures that have words, from 0 in their order; a mirrored copy has the number of its file.

    Args:
        samples: The pictures.

    Returns:
        One number a picture.
    """
    names = (name.removesuffix(_MIRRORED) for name in samples.names)
    files = list(zip(samples.words, names, strict=True))  # two subjects may have files of one name
    numbers = {file: number for number, file in enumerate(dict.fromkeys(files))}
    return [numbers[file] for file in files]


def pick(count: int, rows: int, seed: int, purpose: str, draw: int) -> list[int]:
    """Choose the rows of a draw: every one once per round, each round in a new order.

    Args:
        count: Rows to choose from.
        rows: Rows of the batch.
        seed: Seed of the run.
        purpose: Name of the stream.
        draw: Number of the draw.

    Returns:
        Row numbers; a batch may span two rounds.
    """
    chosen: list[int] = []
    for number in range(draw * rows, (draw + 1) * rows):
        turn, place = divmod(number, count)
        chosen.append(int(torch.randperm(count, generator=generator(seed, purpose, turn))[place]))
    return chosen
