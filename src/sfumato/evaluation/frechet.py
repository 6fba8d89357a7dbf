"""Fréchet distance between two sets of features (Heusel et al. 2017, arXiv 1706.08500, eq. 6)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.errors import ShapeError

Features = Float[Tensor, "n d"]


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Measure how far two sets of features lie apart, as Gaussians.

    `d² = |mean_a - mean_b|² + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^½)` with sample covariances `C`. The last trace is the
    nuclear norm of `A Bᵀ / sqrt((n - 1)(m - 1))` for the centred feature matrices `A` and `B`, which is exact also when
    there are fewer pictures than feature dimensions and needs no matrix square root.

    The value falls with the number of pictures (bias of the sample covariance): compare only equal `n` and `m`.

    Args:
        a: Features of the first set, one row a picture, at least two rows.
        b: Features of the second set.

    Returns:
        The squared Fréchet distance, >= 0.

    Raises:
        ShapeError: A set has fewer than two rows.
    """
    if min(len(a), len(b)) < 2:
        raise ShapeError(
            f"A Fréchet distance needs at least 2 pictures in each set; given {len(a)} and {len(b)}.",
            hint="Generate or collect more pictures.",
        )
    a, b = a.double(), b.double()
    mean_a, mean_b = a.mean(0), b.mean(0)
    centred_a = (a - mean_a) / (len(a) - 1) ** 0.5
    centred_b = (b - mean_b) / (len(b) - 1) ** 0.5
    cross = torch.linalg.svdvals(centred_a @ centred_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + centred_a.square().sum() + centred_b.square().sum() - 2 * cross
    return max(float(distance), 0.0)
