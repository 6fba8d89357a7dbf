"""All weights of a part that learn, with a way back: the base is given back bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from sfumato.adapters.extract import extract_lora
from sfumato.adapters.lora import LoRA


class WholeWeights:
    """Parts of a base whose weights all learn ([ruiz2023] 3.1).

    Args:
        modules: The base's parts by name; nothing of theirs learns yet.
        parts: Those that shall learn.
    """

    def __init__(self, modules: Mapping[str, nn.Module], parts: Collection[str]) -> None:
        self.modules = {part: modules[part] for part in parts}
        self._before = {
            part: {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
            for part, module in self.modules.items()
        }
        for module in self.modules.values():
            module.requires_grad_(True)

    def extract(self, rank: int) -> tuple[dict[str, LoRA], float]:
        """Return what has been learned as low-rank factors of the base as it was.

        Args:
            rank: Rank of the factors.

        Returns:
            One adapter a part, and the smallest share of the squared change that one of them holds.
        """
        found = {part: extract_lora(module, self._before[part], rank) for part, module in self.modules.items()}
        return {part: lora for part, (lora, _) in found.items()}, min(share for _, share in found.values())

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Give the parts back as they were for the length of a `with` block; what was learned comes back bit for bit.

        Both are there anyway: they change places, and no memory is taken.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def restore(self) -> None:
        """Give the parts back as they were, no longer learning."""
        for part, module in self.modules.items():
            for key, tensor in module.state_dict().items():
                tensor.copy_(self._before[part][key])
            module.requires_grad_(False)

    def _exchange(self) -> None:
        """Exchange the storage of all weights with that of what they were before."""
        for part, module in self.modules.items():
            before = self._before[part]
            for name, weight in module.named_parameters():
                weight.data, before[name] = before[name], weight.data
                weight.requires_grad_(not weight.requires_grad)
