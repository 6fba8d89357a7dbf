"""Two factors of low rank beside a weight ([hu2021]), their start in its singular values ([meng2024]), and a learned
length of each row ([liu2024])."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.learned_path import (
    LearnedPath,
    apply_weight,
    as_matrix,
    drawn,
    held_weight,
    is_merged,
    plain_weight,
    shaped,
)
from sfumato.errors import AdapterError
from sfumato.runtime.precision import computing_in


class LowRank(LearnedPath):
    """`W + scale · up @ down` ([hu2021] eq. 3).

    With `init="pissa"` the factors start as the weight's largest singular values, and what they started from is taken
    away: `W + scale · (up @ down − up_0 @ down_0)`. The paper puts the remainder `W − scale · up_0 @ down_0` in the
    place of the weight ([meng2024] eq. 5); this is the same function, but the base keeps its weight and a file works on
    it. Dropout acts on the difference here, so that the start is the base whatever is dropped. In a file both pairs are
    one of twice the rank, `[up, −up_0] @ [down; down_0]`, which is plain LoRA.

    Args:
        base: The Linear, Conv2d or Embedding they change.
        config: Rank, dropout and start values. `gaussian` has a standard deviation of `1/rank`. `up` starts at zero;
            for embeddings `down` does, and `up` is drawn from the normal distribution.
        generator: Source of the start values.

    Raises:
        AdapterError: The module has a kind of convolution that no adapter can change, or, with `pissa`, fewer singular
            values than the rank.
    """

    FILE_NAMES: ClassVar[Mapping[str, str]] = {"down": "lora_A.weight", "up": "lora_B.weight"}
    down: Tensor
    up: Tensor
    down_start: Tensor
    up_start: Tensor

    def __init__(self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(base, config, generator)
        down, up = _start(base, config, generator)
        self.learn(base, down=down, up=up)
        if config.init == "pissa":
            self.register_buffer("down_start", self.down.detach().clone())
            self.register_buffer("up_start", self.up.detach().clone())

    def matrix(self) -> Float[Tensor, "out in"]:
        """Return `up @ down`, less what it started from."""
        product = self.up.flatten(1) @ self.down.flatten(1)
        if self.config.init == "pissa":
            product = product - self.up_start.flatten(1) @ self.down_start.flatten(1)
        return product

    def forward(self, x: Tensor, base: nn.Module, out: Tensor, strength: float) -> Tensor:
        """Return what the factors add, through the narrow middle."""
        return self.through(self.dropped(x), base, self.base_scale * strength)

    def through(self, x: Tensor, base: nn.Module, scale: float) -> Tensor:
        """Send an input through the factors."""
        out = _through(x, base, self.down, self.up, scale)
        if self.config.init == "pissa":
            out = out - _through(x, base, self.down_start, self.up_start, scale)
        return out

    def stored(self) -> dict[str, Tensor]:
        """Return the factors as plain LoRA has them."""
        tensors = super().stored()
        if self.config.init == "pissa":
            tensors["down"] = torch.cat([tensors["down"], self.down_start])
            tensors["up"] = torch.cat([tensors["up"], -self.up_start], 1)
        return tensors


class DoRA(LowRank):
    """`magnitude · (W + scale · up @ down) / ‖W + scale · up @ down‖` ([liu2024] eq. 5), row by row.

    What the paper calls the columns of a weight are rows here: all that leads to one output. The norm counts as a
    constant in the gradient ([liu2024] 4.3). Strength acts on the whole change: at 0 the module is as it was. Where a
    row is all zeros there is no direction to keep, and the magnitude has no effect. The name in a file is the one that
    transformers reads for the text encoder; PEFT takes it too, with and without `.weight`.

    Args:
        base: The module.
        config: As for `LowRank`.
        generator: Source of the start values.

    Raises:
        AdapterError: See `LowRank`.
    """

    FILE_NAMES: ClassVar[Mapping[str, str]] = {**LowRank.FILE_NAMES, "magnitude": "lora_magnitude_vector.weight"}

    def __init__(self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None) -> None:
        super().__init__(base, config, generator)
        with torch.no_grad():
            self.magnitude = nn.Parameter(self._norm(base))

    def delta(self, base: nn.Module, strength: float) -> Tensor:
        """Return what is added to the module's weight."""
        plain = as_matrix(plain_weight(base), base)
        turned = plain + self.matrix() * self.base_scale
        return shaped((self._gain(base)[:, None] * turned - plain) * strength, base)

    def forward(self, x: Tensor, base: nn.Module, out: Tensor, strength: float) -> Tensor:
        """Return what is added, from the module's own output where that is `W x`."""
        kept = self.dropped(x)
        if kept is not x or is_merged(base):
            plain = apply_weight(base, kept, plain_weight(base))
        else:
            bias = getattr(base, "bias", None)
            plain = out if bias is None else out - _over_outputs(bias, base)
        gain = _over_outputs(self._gain(base), base)
        change: Tensor = (gain - 1) * plain + gain * self.through(kept, base, self.base_scale)
        return (change * strength).to(out.dtype)  # lengths are in float32 where products are not

    def _norm(self, base: nn.Module) -> Float[Tensor, " out"]:
        """Return the length of every row of the weight with the factors' change."""
        plain = plain_weight(base)
        with torch.no_grad(), computing_in("fp32", plain.device):  # in bf16 a length would have 8 bits
            turned = as_matrix(plain, base) + self.matrix() * self.base_scale
            norm: Tensor = torch.linalg.vector_norm(turned, dim=1)
            return norm

    def _gain(self, base: nn.Module) -> Float[Tensor, " out"]:
        """Return magnitude over length; 1 for rows of zeros."""
        norm = self._norm(base)
        has_length = norm > 0
        return torch.where(has_length, self.magnitude / torch.where(has_length, norm, 1.0), 1.0)


def _through(x: Tensor, base: nn.Module, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Send an input through two factors."""
    if isinstance(base, nn.Embedding):
        return F.linear(F.embedding(x, down.t()) * scale, up)
    if isinstance(base, nn.Conv2d):
        return F.conv2d(apply_weight(base, x, down) * scale, up)
    return F.linear(F.linear(x, down) * scale, up)


def _over_outputs(values: Tensor, base: nn.Module) -> Tensor:
    """Shape one value per output so that it meets the module's output."""
    return values.view(-1, 1, 1) if isinstance(base, nn.Conv2d) else values


def _start(base: nn.Module, config: LoRAConfig, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the start values of `down` and `up`."""
    rank, (out, fan_in) = config.rank, as_matrix(held_weight(base), base).shape
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    if isinstance(base, nn.Conv2d):
        shapes = (rank, base.in_channels, *base.kernel_size), (out, rank, 1, 1)
    else:
        shapes = (rank, fan_in), (out, rank)
    if config.init == "pissa":
        down, up = _principal(base, config)
        return down.reshape(shapes[0]), up.reshape(shapes[1])
    if isinstance(base, nn.Embedding):
        return torch.zeros(shapes[0]), torch.empty(shapes[1]).normal_(0.0, 1.0 / rank, generator=generator)
    return drawn(shapes[0], config, generator), torch.zeros(shapes[1])


def _principal(base: nn.Module, config: LoRAConfig) -> tuple[Tensor, Tensor]:
    """Return the `down` and `up` whose scaled product is nearest to the weight ([meng2024] eq. 2, 3)."""
    weight = as_matrix(plain_weight(base), base).detach().float()
    if config.rank > min(weight.shape):
        raise AdapterError(
            f"init 'pissa' needs {config.rank} singular values; a layer of shape {tuple(weight.shape)} has "
            f"{min(weight.shape)}.",
            field="rank",
            hint="Use a smaller rank, or leave the layer out with a pattern that starts with '!'.",
        )
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = (values[: config.rank] / config.scale).sqrt()
    return root[:, None] * right[: config.rank], left[:, : config.rank] * root
