"""Low-rank adaptation ([hu2021]) and its relatives: a frozen weight `W` learns a change of few numbers beside it.

A wrapper takes the place of each chosen module and shares its parameter registry, so that the base keeps its own
state-dict keys; the factors belong to the adapter alone. Detaching puts the very same module back. What learns beside
one module is a row of `kinds.KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.kinds import KINDS
from sfumato.adapters.learned_path import LearnedPath, aside, held_weight, is_merged, mark_merged
from sfumato.adapters.targets import find_targets
from sfumato.errors import AdapterError
from sfumato.nn.stored import lies_as_stored


class Adapted(nn.Module):
    """A module with learned paths beside it; it shares the module's registries, hence its state-dict keys.

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
        plain: Tensor = self.base(x)
        out = plain
        for lora, path in self.branches:
            if lora.is_active:
                out = out + path(x, self.base, plain, lora.strength)
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
    """Low-rank factors, or one of their relatives, for the chosen modules of one model.

    `LoRA(unet, config)` chooses modules and draws factors; nothing changes until `attach()` or `merged()`. Its
    dropout acts only after `train()` on the adapter itself, whatever the mode of the model.

    Args:
        model: The model to change. The adapter does not own it and leaves its `requires_grad` flags alone.
        config: Kind, rank, scale, targets.
        generator: Source of the start values; torch's own by default.

    Raises:
        NoTargetMatched: A pattern fits no module.
        AdapterError: The model is compiled or a chosen layer is one that the kind cannot change.
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
        self.paths = nn.ModuleList(KINDS[config.kind](self._base(name), config, generator) for name in self._names)
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

        Raises:
            AdapterError: A weight is held in 16 bits, which would round the change.
        """
        self._check_exact()
        was_active, self.is_active = self.is_active, False
        try:
            with ExitStack() as undone:
                for name, path in zip(self._names, self.paths, strict=True):
                    assert isinstance(path, LearnedPath)
                    _merge(self._base(name), path, self.strength, undone)
                yield
        finally:
            self.is_active = was_active

    def state(self) -> dict[str, Tensor]:
        """Return what it holds as `<module>.<tensor>`, such as `….down`; they are the live tensors, not copies."""
        return self._named({name: path.state_dict() for name, path in zip(self._names, self.paths, strict=True)})

    def stored(self) -> dict[str, Tensor]:
        """Return what a file holds of it, as `state` names it, for an adapter made with `config.stored`."""
        tensors = {}
        for name, path in zip(self._names, self.paths, strict=True):
            assert isinstance(path, LearnedPath)
            tensors[name] = path.stored()
        return self._named(tensors)

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
                hint="Make it with the targets and the kind that the file was made with.",
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

    def _check_exact(self) -> None:
        """Refuse weights that cannot hold the change as it was learned."""
        for name in self._names:
            base = self._base(name)
            weight = held_weight(base)
            if weight.dtype.itemsize < 4 and not lies_as_stored(base):
                raise AdapterError(
                    f"The weight of '{name}' is held in {weight.dtype}, which would round the change that is merged.",
                    hint="Attach the adapter instead, or load the base in float32.",
                )

    def _base(self, name: str) -> nn.Module:
        """Return a chosen module itself, whether or not a wrapper stands in its place."""
        module = self.model.get_submodule(name)
        base = getattr(module, "base", module)
        assert isinstance(base, nn.Module)
        return base

    @staticmethod
    def _named(tensors: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Put the tensors of all modules into one dict."""
        return {f"{module}.{name}": tensor for module, own in tensors.items() for name, tensor in own.items()}

    def _put(self, name: str, module: nn.Module) -> None:
        """Set the child that a dotted name points to."""
        parent, _, leaf = name.rpartition(".")
        setattr(self.model.get_submodule(parent), leaf, module)


@torch.no_grad()
def _merge(base: nn.Module, path: LearnedPath, strength: float, undone: ExitStack) -> None:
    """Add a change to a module's weight, until the stack closes."""
    weight = held_weight(base)
    in_place, change = not lies_as_stored(base), path.delta(base, strength).to(weight.device)
    old = aside(weight) if in_place else weight
    undone.callback(_put_back, base, weight, old)
    if not is_merged(base):
        mark_merged(base, old)
        undone.callback(mark_merged, base, None)
    if in_place:
        weight.add_(change.to(weight.dtype))
    else:
        base.weight = nn.Parameter(weight.float().add_(change), requires_grad=False)


@torch.no_grad()
def _put_back(base: nn.Module, weight: Tensor, old: Tensor) -> None:
    """Give a module the weight that it had, bit for bit; `old` is that weight itself if it was not changed in place."""
    if old is weight:
        base.weight = old
    else:
        weight.copy_(old)
