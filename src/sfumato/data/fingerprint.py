"""Numbers that tell whether two pictures are alike and whether one is sharp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

HASH_BITS = 128
NEAR_BITS = 8
"""Pictures whose hashes differ in at most this many bits are nearly the same, if their colours are too."""

NEAR_COLOUR = 12.0
"""Highest mean difference of small copies, in steps of 255."""

_CELLS = 8
_STEP = 2.0
_ONES = np.array([number.bit_count() for number in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class Fingerprint:
    """What is compared to find pictures that are nearly the same.

    Attributes:
        edges: The difference hash, 128 bits.
        colours: A copy of 8 × 8 pixels.
    """

    edges: UInt8[np.ndarray, " n_bytes"]
    colours: UInt8[np.ndarray, "8 8 3"]


def fingerprint(pixels: UInt8[np.ndarray, "H W 3"]) -> Fingerprint:
    """Measure a picture."""
    small = Image.fromarray(pixels).resize((_CELLS, _CELLS), Image.Resampling.BOX)
    return Fingerprint(difference_hash(pixels), np.asarray(small))


def difference_hash(pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, " n_bytes"]:
    """Hash a picture by where it becomes brighter, so that size and encoding hardly matter.

    The grey picture is averaged to 9 × 8 cells; a bit says whether a cell is brighter than its left neighbour. The
    same is done for 8 × 9 cells downwards. Differences of less than two steps of 255 count as none, which keeps the
    noise of an encoder in even areas out.

    Args:
        pixels: The picture.

    Returns:
        128 bits in 16 bytes.
    """
    grey = Image.fromarray(pixels).convert("L").convert("F")
    across = np.asarray(grey.resize((_CELLS + 1, _CELLS), Image.Resampling.BOX))
    down = np.asarray(grey.resize((_CELLS, _CELLS + 1), Image.Resampling.BOX))
    brighter = np.concatenate([(np.diff(across, axis=1) > _STEP).ravel(), (np.diff(down, axis=0) > _STEP).ravel()])
    return np.packbits(brighter)


def hash_distances(
    one: UInt8[np.ndarray, " n_bytes"], others: UInt8[np.ndarray, "n n_bytes"]
) -> Int64[np.ndarray, " n"]:
    """Count the bits in which a hash differs from each of the others.

    Args:
        one: A hash.
        others: The hashes to compare with.

    Returns:
        As many numbers from 0 to 128.
    """
    return np.asarray(_ONES[others ^ one].sum(axis=1, dtype=np.int64))


def colour_distance(one: Fingerprint, other: Fingerprint) -> float:
    """Return the mean difference of the small copies, 0 to 255."""
    return float(np.abs(one.colours.astype(np.float32) - other.colours.astype(np.float32)).mean())


def are_near(one: Fingerprint, other: Fingerprint) -> bool:
    """Say whether two pictures are nearly the same."""
    bits = int(hash_distances(one.edges, other.edges[None])[0])
    return bits <= NEAR_BITS and colour_distance(one, other) <= NEAR_COLOUR


def near_pairs(prints: list[Fingerprint]) -> list[tuple[int, int, int, float]]:
    """Find pictures that are nearly the same as an earlier one.

    Every picture is compared with all before it, so the time grows with the square of their number.

    Args:
        prints: The fingerprints.

    Returns:
        For each such picture its index, the index of the nearest earlier one, the bits and the colours that differ.
    """
    if not prints:
        return []
    hashes = np.stack([item.edges for item in prints])
    found: list[tuple[int, int, int, float]] = []
    for index in range(1, len(prints)):
        bits = hash_distances(prints[index].edges, hashes[:index])
        near = np.flatnonzero(bits <= NEAR_BITS).tolist()
        alike = [(int(bits[earlier]), colour_distance(prints[index], prints[earlier]), earlier) for earlier in near]
        alike = [item for item in alike if item[1] <= NEAR_COLOUR]
        if alike:
            count, colours, earlier = min(alike)
            found.append((index, earlier, count, colours))
    return found


def sharpness(pixels: UInt8[np.ndarray, "H W 3"]) -> float:
    """Return the variance of the Laplacian of the colour in which it is highest: low where there are no edges.

    The Laplacian is the sum of the four neighbours minus four times the pixel, in steps of 255. Colours are looked at
    one by one because an edge between two colours of the same brightness cannot be seen in grey.

    Args:
        pixels: The picture, at the size at which it is looked at.

    Returns:
        0 for even pictures and for those smaller than 3 × 3.
    """
    colours: Float32[np.ndarray, "H W 3"] = pixels.astype(np.float32)
    middle = colours[1:-1, 1:-1]
    if not middle.size:
        return 0.0
    laplacian = colours[:-2, 1:-1] + colours[2:, 1:-1] + colours[1:-1, :-2] + colours[1:-1, 2:] - 4 * middle
    return float(laplacian.var(axis=(0, 1)).max())
