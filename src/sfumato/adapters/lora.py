"""Low-rank adaptation ([hu2021]): a frozen weight `W` learns `scale * up @ down` beside it.

A wrapper takes the place of each chosen module and shares its parameter registry, so that the base keeps its own
state-dict keys; the factors belong to the adapter alone. Detaching puts the very same module back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.adapters.targets import find_targets
from sfumato.errors import AdapterError, ConfigError


@dataclass(frozen=True)
class LoRAConfig:
    """How low-rank factors are shaped, scaled and placed.

    Args:
        rank: Inner width of the factors, at least 1.
        alpha: Numerator of the scale; None means equal to `rank`, so that the scale is 1.
        dropout: Rate on the input of the low-rank path while training, in [0, 1).
        targets: Presets or patterns, see `find_targets`.
        init: How `down` starts: `kaiming` (uniform, bound `1/sqrt(fan_in)`) or `gaussian` (standard deviation
            `1/rank`). `up` starts at zero; for embeddings `down` is zero and `up` is drawn.
        rank_stabilised: Divide alpha by `sqrt(rank)` instead of `rank` ([kalajdzievski2023]).

    Raises:
        ConfigError: A value is out of range.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ("attention",)
    init: str = "kaiming"
    rank_stabilised: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank is {self.rank}; it must be at least 1.", field="rank", hint="Try 4 or 8.")
        if self.alpha is not None and not self.alpha > 0:
            raise ConfigError(
                f"alpha is {self.alpha}; it must be above 0.", field="alpha", hint="Leave it out for a scale of 1."
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; it must lie in [0, 1).", field="dropout")
        if self.init not in ("kaiming", "gaussian"):
            raise ConfigError(f"init is '{self.init}'; it must be 'kaiming' or 'gaussian'.", field="init")

    @property
    def scale(self) -> float:
        """Factor on `up @ down`: `alpha / rank`, or `alpha / sqrt(rank)` when rank-stabilised."""
        alpha = self.rank if self.alpha is None else self.alpha
        return alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)


class LowRank(nn.Module):
    """The two factors for one module.

    Args:
        base: The Linear, Conv2d or Embedding they change.
        config: Rank, dropout and start values.
        generator: Source of the start values.

    Raises:
        AdapterError: The module is a grouped convolution or pads other than with zeros.
    """

    def __init__(self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.base_scale = config.scale
        rank = config.rank
        shapes: tuple[tuple[int, ...], tuple[int, ...]]
        if isinstance(base, nn.Linear):
            shapes = (rank, base.in_features), (base.out_features, rank)
        elif isinstance(base, nn.Embedding):
            shapes = (rank, base.num_embeddings), (base.embedding_dim, rank)
        else:
            assert isinstance(base, nn.Conv2d)
            if base.groups != 1 or base.padding_mode != "zeros":
                raise AdapterError(
                    f"LoRA cannot change a convolution with {base.groups} groups and '{base.padding_mode}' padding; "
                    "it needs 1 group and 'zeros'.",
                    field="targets",
                    hint="Leave this layer out with a pattern that starts with '!'.",
                )
            shapes = (rank, base.in_channels, *base.kernel_size), (base.out_channels, rank, 1, 1)
        self.kind = type(base)
        self.conv: dict[str, Any] = (
            {"stride": base.stride, "padding": base.padding, "dilation": base.dilation}
            if isinstance(base, nn.Conv2d)
            else {}
        )
        weight = base.weight
        assert isinstance(weight, Tensor)
        self.down = nn.Parameter(torch.zeros(shapes[0], device=weight.device))
        self.up = nn.Parameter(torch.zeros(shapes[1], device=weight.device))
        self._draw(config, generator)

    def _draw(self, config: LoRAConfig, generator: torch.Generator | None) -> None:
        """Draw the factor that does not start at zero."""
        drawn = self.up if self.kind is nn.Embedding else self.down
        values = torch.empty(drawn.shape)
        if config.init == "gaussian" or self.kind is nn.Embedding:
            values.normal_(0.0, 1.0 / config.rank, generator=generator)
        else:
            bound = 1.0 / math.sqrt(values[0].numel())
            values.uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            drawn.copy_(values)

    def forward(self, x: Tensor, scale: float) -> Tensor:
        """Return what the low-rank path adds to the module's output."""
        if self.kind is nn.Embedding:
            return F.linear(F.embedding(x, self.down.t()) * scale, self.up)
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout)
        if self.kind is nn.Linear:
            return F.linear(F.linear(x, self.down) * scale, self.up)
        return F.conv2d(F.conv2d(x, self.down, **self.conv) * scale, self.up)

    def delta(self, scale: float) -> Tensor:
        """Return what the factors add to the module's weight, in its shape."""
        if self.kind is nn.Embedding:
            return (self.up @ self.down).t() * scale
        if self.kind is nn.Linear:
            return (self.up @ self.down) * scale
        return torch.einsum("or,rikl->oikl", self.up[:, :, 0, 0], self.down) * scale

    def extra_repr(self) -> str:
        """Show the rank when the model is printed."""
        return f"rank={self.down.shape[0]}, scale={self.base_scale:g}"


class Adapted(nn.Module):
    """A module with low-rank paths beside it; it shares the module's registries, hence its state-dict keys.

    Args:
        base: The module that it stands for.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.__dict__["base"] = base
        self.__dict__["branches"] = []
        self.__dict__["_parameters"] = base._parameters
        self.__dict__["_buffers"] = base._buffers
        self.train(base.training)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the base's output and add every active path."""
        out: Tensor = self.base(x)
        for lora, path in self.branches:
            if lora.is_active:
                out = out + path(x, path.base_scale * lora.strength)
        return out

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Adapted:
        """Move the paths along when the model is moved or changes its memory layout."""
        super()._apply(fn, recurse)
        for _, path in self.branches:
            path._apply(fn, recurse)
        return self

    def __getattr__(self, name: str) -> Any:
        """Answer for the base (`in_features`, `weight`, …)."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["base"], name)

    def extra_repr(self) -> str:
        """Show base and paths when the model is printed."""
        return ", ".join([repr(self.base), *(repr(path) for _, path in self.branches)])


class LoRA(nn.Module):
    """Low-rank factors for the chosen modules of one model.

    `LoRA(unet, config)` chooses modules and draws factors; nothing changes until `attach()` or `merged()`. Its
    dropout acts only after `train()` on the adapter itself, whatever the mode of the model.

    Args:
        model: The model to change. The adapter does not own it and leaves its `requires_grad` flags alone.
        config: Rank, scale, targets.
        generator: Source of the start values; torch's own by default.

    Raises:
        NoTargetMatched: A pattern fits no module.
        AdapterError: The model is compiled or a chosen layer is of a kind that LoRA cannot change.
    """

    model: nn.Module
    """The model that it changes."""

    def __init__(self, model: nn.Module, config: LoRAConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.__dict__["model"] = model
        self.config = config
        self.strength = 1.0
        self.is_active = True
        self._names = find_targets(model, config.targets)
        bases = (model.get_submodule(name) for name in self._names)
        self.paths = nn.ModuleList(LowRank(getattr(m, "base", m), config, generator) for m in bases)
        self._attached = False
        self.eval()

    @property
    def names(self) -> tuple[str, ...]:
        """Dotted names of the modules it changes, in the model's order."""
        return self._names

    @property
    def is_attached(self) -> bool:
        """Whether the model computes with it now."""
        return self._attached

    def attach(self) -> None:
        """Put a wrapper in the place of each chosen module, or join the one that another adapter put there.

        Raises:
            AdapterError: It is attached already.
        """
        if self._attached:
            raise AdapterError(
                f"This adapter (rank {self.config.rank}, {len(self._names)} modules) is already attached.",
                hint="Call detach() first; for a stronger effect set its strength.",
            )
        children = [self.model.get_submodule(name) for name in self._names]
        for name, child, path in zip(self._names, children, self.paths, strict=True):
            if not isinstance(child, Adapted):
                child = Adapted(child)
                self._put(name, child)
            child.branches.append((self, path))
        self._attached = True

    def detach(self) -> None:
        """Take the paths away and put the very same modules back where no other adapter remains.

        Raises:
            AdapterError: It is not attached.
        """
        if not self._attached:
            raise AdapterError("This adapter is not attached, so it cannot be detached.", hint="Call attach() first.")
        for name in self._names:
            wrapper = self.model.get_submodule(name)
            assert isinstance(wrapper, Adapted)
            wrapper.branches[:] = [branch for branch in wrapper.branches if branch[0] is not self]
            if not wrapper.branches:
                wrapper.base.train(wrapper.training)
                self._put(name, wrapper.base)
        self._attached = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Attach for the length of a `with` block."""
        self.attach()
        try:
            yield
        finally:
            self.detach()

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Fold the change into the weights for the length of a `with` block: no cost per step.

        The old weights are copied aside and copied back, never subtracted, so they return bit for bit. Several
        adapters merge in nested blocks. The current strength counts; changes to it inside have no effect.
        """
        saved: list[tuple[Tensor, Tensor]] = []
        was_active, self.is_active = self.is_active, False
        try:
            with torch.no_grad():
                for name, path in zip(self._names, self.paths, strict=True):
                    weight = self.model.get_submodule(name).weight
                    assert isinstance(weight, Tensor)
                    assert isinstance(path, LowRank)
                    saved.append((weight, weight.clone()))
                    weight.add_(path.delta(path.base_scale * self.strength).to(weight))
            yield
        finally:
            with torch.no_grad():
                for weight, old in reversed(saved):
                    weight.copy_(old)
            self.is_active = was_active

    def state(self) -> dict[str, Tensor]:
        """Return the factors as `<module>.down` and `<module>.up`; they are the live tensors, not copies."""
        return {
            f"{name}.{side}": getattr(path, side).detach()
            for name, path in zip(self._names, self.paths, strict=True)
            for side in ("down", "up")
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy factors in.

        Args:
            state: What `state()` of an adapter with the same targets and rank gave.

        Raises:
            AdapterError: A tensor is absent, unknown or has another shape.
        """
        own = self.state()
        absent, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if absent or unknown:
            raise AdapterError(
                f"The adapter needs {len(own)} tensors; {len(absent)} are absent ({', '.join(absent[:2]) or 'none'}), "
                f"{len(unknown)} are unknown ({', '.join(unknown[:2]) or 'none'}).",
                hint="Make it with the targets that the file was made with.",
            )
        with torch.no_grad():
            for name, tensor in own.items():
                if tensor.shape != state[name].shape:
                    raise AdapterError(
                        f"'{name}' has shape {tuple(state[name].shape)}, the adapter needs {tuple(tensor.shape)}.",
                        field="rank",
                        hint="Make it with the rank that the file was made with.",
                    )
                tensor.copy_(state[name])

    def _put(self, name: str, module: nn.Module) -> None:
        """Set the child that a dotted name points to."""
        parent, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, module)
