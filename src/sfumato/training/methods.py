"""The methods of personalisation as one table: what learns, beside a base that stays as it is.

The field ships these as separate programs; they differ in a few columns. What is drawn (the subject alone or with its
class) and which losses are taken are settings that go with every row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MethodName = Literal["lora", "pivotal", "textual-inversion", "custom-diffusion", "dreambooth"]
Identifier = Literal["new", "rare"]
WIDE = 640
"""Channels from which a U-Net counts as wide: the embedded base has 256, Stable Diffusion 1,280."""


@dataclass(frozen=True)
class Usual:
    """What a lesson gets on bases of a size unless told otherwise.

    Attributes:
        lr: Peak learning rate.
        steps: Steps, of 4 pictures each.
        targets: Layers of the U-Net that get factors. In a small base, where factors in the attention alone learned the
            colours of a subject and not its outlines, these are all layers of its blocks.
        shift: See `DenoisingConfig`: below 1 for cleaner times.
        strength: How much of what factors have learned the file holds: between the base and what fits the pictures
            best lies what fits other pictures best ([wortsman2022]).
    """

    lr: float
    steps: int
    targets: tuple[str, ...] = ("attention",)
    shift: float = 1.0
    strength: float = 1.0


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        factors: Low-rank factors in U-Net and, if wanted, text encoder learn ([hu2021]).
        rows: Whether vectors of the placeholder learn ([gal2022]): `always`, `never`, or `wanted` where the identifier
            is `new`.
        says_class: The placeholder is followed by the class noun in every text, as in DreamBooth ([ruiz2023] 3.1).
        small: What is usual on U-Nets below `WIDE`, tried on the embedded base.
        wide: The same on those of the size of Stable Diffusion's: what the field uses for them.
        schedule: Course of the learning rate unless another is given; vectors of a word have far to go and little to
            unlearn, so theirs stays ([gal2022] 4.1).
        rank: Rank of the factors in its file unless another is given; the change of all weights needs more than what
            learns as factors.
        weights: All weights of the U-Net and, if wanted, of the text encoder learn ([ruiz2023] 3.1).
        full: Layers of the U-Net that learn every number of their change in place of factors; the text encoder stays as
            it is.
    """

    factors: bool
    rows: Literal["always", "wanted", "never"]
    says_class: bool
    small: Usual
    wide: Usual
    schedule: Literal["constant", "cosine"] = "cosine"
    rank: int = 8
    weights: bool = False
    full: tuple[str, ...] = ()

    @property
    def has_factors(self) -> bool:
        """Whether what learns beside the weights is of a kind and rank that can be chosen."""
        return self.factors and not self.full

    @property
    def has_rank(self) -> bool:
        """Whether its file holds factors of a chosen rank: what learned, or what is nearest to the change of all."""
        return self.weights or self.has_factors

    def usual(self, width: int) -> Usual:
        """Return what is usual on a base.

        Args:
            width: Channels of its U-Net where they are most.
        """
        return self.wide if width >= WIDE else self.small

    @property
    def identifier(self) -> Identifier:
        """What the placeholder becomes unless told: a word of its own where vectors can learn."""
        return "rare" if self.rows == "never" else "new"


_SMALL_FACTORS = Usual(2e-3, 100, ("blocks",), shift=0.4, strength=0.8)
_WIDE_FACTORS = Usual(1e-4, 500)
METHODS: Mapping[MethodName, Method] = {
    "lora": Method(factors=True, rows="wanted", says_class=True, small=_SMALL_FACTORS, wide=_WIDE_FACTORS),
    "pivotal": Method(factors=True, rows="always", says_class=True, small=_SMALL_FACTORS, wide=_WIDE_FACTORS),
    "textual-inversion": Method(
        factors=False,
        rows="always",
        says_class=False,
        small=Usual(5e-3, 150),
        wide=Usual(5e-3, 3000),
        schedule="constant",
    ),
    "custom-diffusion": Method(
        factors=True,
        rows="always",
        says_class=True,
        small=Usual(3e-4, 150),
        wide=Usual(1e-5, 250),
        full=("cross-attention-kv",),
    ),
    "dreambooth": Method(
        factors=False,
        rows="never",
        says_class=True,
        small=Usual(1e-4, 150),
        wide=Usual(5e-6, 400),
        rank=16,
        weights=True,
    ),
}
"""Every method by name."""
