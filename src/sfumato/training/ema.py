"""Moving averages of weights: what is previewed, validated and shipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn

from sfumato.training.section import Section


class EmaConfig(Section):
    """How the moving average is formed.

    Attributes:
        decay: Weight of the past per step; 0 switches the average off.
        warmup: Use `min(decay, (1 + n) / (10 + n))` at update n, so that early weights are soon forgotten.
    """

    decay: float = Field(default=0.9999, ge=0, lt=1)
    warmup: bool = True


class Ema:
    """The exponential moving average of the trainable weights of some modules.

    `shadow ← shadow + (1 - decay)·(weight - shadow)`. Every named module is covered, a jointly trained text encoder as
    well as the U-Net ([rombach2022]'s code covers the U-Net only).

    Args:
        modules: The modules by name.
        config: Decay and warm-up.
    """

    def __init__(self, modules: Mapping[str, nn.Module], config: EmaConfig) -> None:
        self.config = config
        self.updates = 0
        self._weights = {
            f"{prefix}.{name}": weight
            for prefix, module in modules.items()
            for name, weight in module.named_parameters()
            if weight.requires_grad
        }
        self._shadow = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @property
    def decay(self) -> float:
        """The decay that the next update uses."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the present weights."""
        weights = [weight.detach() for weight in self._weights.values()]
        torch._foreach_lerp_(list(self._shadow.values()), weights, 1 - self.decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the averaged weights inside the block; the trained ones come back bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """Exchange the storage of weights and averages."""
        for name, weight in self._weights.items():
            weight.data, self._shadow[name] = self._shadow[name], weight.data

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averages and the number of updates."""
        return {**self._shadow, "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        for name, average in self._shadow.items():
            average.copy_(state[name])
        self.updates = int(state["updates"])
