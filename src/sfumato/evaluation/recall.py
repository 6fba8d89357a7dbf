"""Concept recall: is the nearest real picture one of the concept that was asked for?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.errors import DataError


@dataclass(frozen=True)
class Gallery:
    """Features of real pictures with the concept that each one shows.

    Attributes:
        features: `(n, d)`; only directions matter.
        concepts: One concept a row.
    """

    features: Float[Tensor, "n d"]
    concepts: tuple[str, ...]

    def ranks(self, queries: Float[Tensor, "m d"], concepts: Sequence[str]) -> list[int]:
        """Rank the asked concept among all concepts by the similarity of their nearest picture.

        Args:
            queries: Features of generated pictures.
            concepts: The concept that each one should show.

        Returns:
            1 where the asked concept is the nearest one, 2 where one other concept is nearer, and so on.

        Raises:
            DataError: A concept has no picture in the gallery.
        """
        names = sorted(set(self.concepts))
        row_of = {name: i for i, name in enumerate(names)}
        absent = sorted({c for c in concepts if c not in row_of})
        if absent:
            raise DataError(
                f"The gallery of {len(names)} concepts has no picture of {', '.join(absent[:5])}.",
                hint="Ask only for concepts that the gallery shows.",
            )
        similarity = _normalised(queries) @ _normalised(self.features).T
        owner = torch.tensor([row_of[c] for c in self.concepts])
        best = torch.full((len(queries), len(names)), -2.0)
        best.scatter_reduce_(1, owner.expand(len(queries), -1), similarity, "amax")
        asked = best.gather(1, torch.tensor([[row_of[c]] for c in concepts]))
        return [int(rank) for rank in (best > asked).sum(1) + 1]


def top_k(ranks: Sequence[int], k: int) -> float:
    """Return the share of ranks that are at most `k`."""
    return sum(rank <= k for rank in ranks) / len(ranks) if ranks else 0.0


def _normalised(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.float(), dim=1)
