"""How an adapter is shaped, scaled, started and placed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from sfumato.errors import ConfigError

KindName = Literal["lora", "dora", "loha", "lokr", "full"]
InitName = Literal["kaiming", "gaussian", "pissa"]
PAIRED: tuple[KindName, ...] = ("lora", "dora")
"""Kinds that are a pair of factors, inner and outer: what PEFT calls LoRA."""
LINEAR: tuple[KindName, ...] = ("lora", "loha", "lokr")
"""Kinds whose change goes with their scale, so that a smaller scale lies straight between the base and what learned."""


@dataclass(frozen=True)
class LoRAConfig:
    """How low-rank factors, or one of their relatives, are shaped, scaled and placed.

    Args:
        rank: Inner width of the factors, at least 1; `full` has none.
        alpha: Numerator of the scale; None means equal to `rank`, so that the scale is 1.
        dropout: Rate on the input of the learned path while training, in [0, 1).
        targets: Presets or patterns, see `find_targets`.
        init: How factors that do not start at zero are drawn: `kaiming` (uniform, bound `1/sqrt(fan_in)`) or
            `gaussian` (see each kind); `pissa` takes them from the weight's largest singular values ([meng2024]).
        rank_stabilised: Divide alpha by `sqrt(rank)` instead of `rank` ([kalajdzievski2023]).
        kind: What learns, a row of `KINDS`.
        factor: Size of the small matrix of `lokr` on each side, where the layer's size can be divided by it; None takes
            the divisor next to the square root.

    Raises:
        ConfigError: A value is out of range, or two do not go together.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ("attention",)
    init: str = "kaiming"
    rank_stabilised: bool = False
    kind: str = "lora"
    factor: int | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank is {self.rank}; it must be at least 1.", field="rank", hint="Try 4 or 8.")
        if self.alpha is not None and not self.alpha > 0:
            raise ConfigError(
                f"alpha is {self.alpha}; it must be above 0.", field="alpha", hint="Leave it out for a scale of 1."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must lie in [0, 1).", field="dropout")
        if self.init not in get_args(InitName):
            raise ConfigError(
                f"init is '{self.init}'; it must be one of {', '.join(get_args(InitName))}.", field="init"
            )
        if self.kind not in get_args(KindName):
            raise ConfigError(
                f"The adapter is '{self.kind}'; it must be one of {', '.join(get_args(KindName))}.", field="adapter"
            )
        self._check_together()

    def _check_together(self) -> None:
        """Refuse values that a kind has no use for."""
        if self.init == "pissa" and self.kind not in PAIRED:
            raise ConfigError(
                f"init is 'pissa' but the adapter is '{self.kind}', which has no factors to fill with singular values.",
                field="init",
                hint="Use it with 'lora' or 'dora', or another init.",
            )
        if self.kind == "full" and (self.alpha is not None or self.rank_stabilised):
            raise ConfigError(
                f"alpha is {self.alpha} and rank_stabilised is {self.rank_stabilised}, but the adapter 'full' learns "
                "the difference itself and has no scale.",
                field="alpha",
                hint="Leave both out.",
            )
        if self.factor is not None and (self.kind != "lokr" or self.factor < 1):
            raise ConfigError(
                f"factor is {self.factor} and the adapter '{self.kind}'; needed a factor of at least 1, with 'lokr'.",
                field="factor",
            )

    @property
    def numerator(self) -> int | float:
        """Alpha, or the rank where none is given."""
        return self.rank if self.alpha is None else self.alpha

    @property
    def scale(self) -> float:
        """Factor on what is learned: `alpha / rank`, `alpha / sqrt(rank)` when rank-stabilised, 1 for `full`."""
        if self.kind == "full":
            return 1.0
        return self.numerator / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    @property
    def stored(self) -> LoRAConfig:
        """The configuration in a file: PiSSA's factors and their start become factors of twice the rank."""
        if self.init != "pissa":
            return self
        grown = math.sqrt(2) if self.rank_stabilised else 2
        return replace(self, rank=2 * self.rank, alpha=float(self.numerator * grown), init="kaiming")
