"""Arithmetic of batches: how many a round takes, and how pictures would fall into buckets of equal area.

No batch is short: where a round ends within one, the next round fills it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.data.findings import finding
from sfumato.events import Finding

MAX_ASPECT = 2.0
"""Longest side of a bucket divided by the side of the square."""

_SHOWN = 3


@dataclass(frozen=True)
class Bucket:
    """Pictures that would be trained in one size.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        pictures: Number of different pictures.
        draws: The same, each counted as often as it is repeated; only the proportions of repeats count.
        batches: Batches of this size in a round. Where there are several buckets each gives as many as it has draws, so
            that every picture is shown as often whatever its size; one alone gives what its draws fill.
    """

    width: int
    height: int
    pictures: int
    draws: int
    batches: int | float


def side_step(size: int) -> int:
    """Return the number that sides of buckets are multiples of: an eighth of the size, between 16 and 64."""
    return min(64, max(16, size // 8 // 16 * 16))


def bucket_sizes(size: int, multiple: int = 1) -> list[tuple[int, int]]:
    """List sizes of about the same area for every proportion.

    Args:
        size: Side of the square in pixels; no bucket has more pixels than this square, except the square itself where
            its side has to be rounded.
        multiple: What a network needs every side to be a multiple of, in pixels.

    Returns:
        Width and height of each, from the tallest to the widest.
    """
    step = -(-side_step(size) // multiple) * multiple
    square = max(step, round(size / step) * step)
    sizes = {(square, square)}
    for width in range(step, square, step):
        height = square * square // width // step * step
        if height <= MAX_ASPECT * square:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


def nearest_bucket(width: int, height: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Choose the bucket whose proportions are nearest, by the logarithm of width over height."""
    aspect = math.log(width / height)
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1]) - aspect), size))


def fill_buckets(
    pictures: Sequence[tuple[int, int, int]], size: int, batch_size: int, multiple: int = 1
) -> list[Bucket]:
    """Sort pictures into buckets and count their batches.

    Args:
        pictures: Width, height and repeats of each.
        size: Side of the square bucket in pixels.
        batch_size: Pictures in a batch.
        multiple: See `bucket_sizes`.

    Returns:
        The buckets that hold pictures, the fullest first.
    """
    sizes = bucket_sizes(size, multiple)
    unit = math.gcd(*(repeats for _, _, repeats in pictures))
    held: dict[tuple[int, int], list[int]] = {}
    for width, height, repeats in pictures:
        held.setdefault(nearest_bucket(width, height, sizes), []).append(repeats // unit)
    buckets = [
        Bucket(*place, len(repeats), sum(repeats), sum(repeats) if len(held) > 1 else sum(repeats) / batch_size)
        for place, repeats in held.items()
    ]
    return sorted(buckets, key=lambda bucket: (-bucket.draws, bucket.width, bucket.height))


def check_buckets(folder: Path, buckets: Sequence[Bucket], batch_size: int) -> list[Finding]:
    """Say that some of several buckets hold fewer pictures than a batch.

    Args:
        folder: Where the pictures are.
        buckets: What `fill_buckets` gave.
        batch_size: Pictures in a batch.
    """
    small = [bucket for bucket in buckets if bucket.pictures < batch_size]
    if len(buckets) < 2 or not small:
        return []
    held = [f"{bucket.width} × {bucket.height} has {bucket.pictures}" for bucket in small[:_SHOWN]]
    more = f"; too few in {len(small) - _SHOWN} more" if len(small) > _SHOWN else ""
    return [finding("bucket-small", folder, f"a batch has {batch_size} pictures, {', '.join(held)}{more}")]
