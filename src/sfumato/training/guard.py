"""Keep non-finite numbers away from the weights, and say where they came from.

Loss and gradient norm are checked before the optimizer moves anything. A bad step is dropped; if the next one is bad
too, the weights themselves are suspect and the last good state comes back; after several the run ends with the cause.

The last good state is the newest checkpoint from which a good step was taken, or the beginning. It is read from the
disk, so that a run that was interrupted goes back to the same state as one that was not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from sfumato.errors import Diverged
from sfumato.training.section import Section
from sfumato.training.state import Saved
from sfumato.training.task import LossReport

_BLAMED = "blamed/"
"""What counters of samples begin with."""


class Cause(str):
    """Why a step was bad, for the user.

    Attributes:
        samples: Names of those that alone were not finite; empty where all of the step were, or where it is not known.
    """

    samples: tuple[str, ...]

    def __new__(cls, text: str, samples: Sequence[str] = ()) -> Cause:
        """Make one of a text and the samples."""
        made = super().__new__(cls, text)
        made.samples = tuple(samples)
        return made


class GuardConfig(Section):
    """When to give up.

    Attributes:
        max_bad: Bad steps after which the run ends, unless `calm_steps` good ones in a row lie between.
        calm_steps: Good steps in a row after which earlier bad ones are forgotten.
    """

    max_bad: int = Field(default=8, ge=1)
    calm_steps: int = Field(default=20, ge=1)


class Guard:
    """Counts bad steps and brings the last good state back.

    Args:
        config: When to give up.
        parts: What has tensors: modules, averages, moments; at the beginning of the run.
        load: Puts the checkpoint of a step into the parts.
    """

    def __init__(self, config: GuardConfig, parts: Mapping[str, Saved], load: Callable[[int], None]) -> None:
        self.config = config
        self.counters = {"bad": 0.0, "bad_in_a_row": 0.0, "good_in_a_row": 0.0, "dropped": 0.0, "good_step": 0.0}
        self._parts, self._load = parts, load
        self._beginning = {name: _copies(part.state_dict()) for name, part in parts.items()}

    @property
    def good_step(self) -> int:
        """The step whose checkpoint is the last good state; 0 is the beginning."""
        return int(self.counters["good_step"])

    def resume(self, step: int, counters: Mapping[str, float]) -> None:
        """Take over the counters of a checkpoint; one from before good steps were counted is taken as good itself."""
        self.counters |= {"good_step": float(step), **counters}
        self._forget_beginning()

    def trust(self, step: int) -> None:
        """Take the checkpoint of a step as the last good state; call it when the next step is known to be good."""
        self.counters["good_step"] = float(step)
        self._forget_beginning()

    def good(self) -> None:
        """Note a good step."""
        self.counters["bad_in_a_row"] = 0.0
        self.counters["good_in_a_row"] += 1
        if self.counters["good_in_a_row"] >= self.config.calm_steps:
            self.counters["bad"] = 0.0
            self.counters = {name: count for name, count in self.counters.items() if not name.startswith(_BLAMED)}

    def bad(self, step: int, cause: str, moved: Sequence[str] = ()) -> str:
        """Note a bad step; from the second in a row on bring the last good state back.

        Args:
            step: The step that was dropped.
            cause: What was not finite, where, in which samples; see `Cause`.
            moved: Phases of the step that were taken before.

        Returns:
            What happened and what was done, for the user.

        Raises:
            Diverged: Too many bad steps; where it was the same sample each time, the hint names it.
        """
        for counter in ("bad", "bad_in_a_row", "dropped"):
            self.counters[counter] += 1
        for name in cause.samples if isinstance(cause, Cause) else ():
            self.counters[_BLAMED + name] = self.counters.get(_BLAMED + name, 0.0) + 1
        self.counters["good_in_a_row"] = 0.0
        restored = self.counters["bad_in_a_row"] > 1
        if restored:
            self._bring_back()
        if self.counters["bad"] >= self.config.max_bad:
            raise Diverged(
                f"{self.counters['bad']:.0f} steps up to step {step} were not finite: {cause}.",
                hint=self._hint(),
            )
        if restored:
            return f"Step {step} was dropped and the state of step {self.good_step} brought back: {cause}."
        if moved:
            return f"Step {step} was dropped but for the part of {', '.join(moved)}: {cause}."
        return f"Step {step} was dropped and no weight moved: {cause}."

    def _hint(self) -> str:
        """Say what to do when a run ends: a sample that spoils every bad step, and no other, is to go."""
        spoils = [name for name, count in self.counters.items() if name.startswith(_BLAMED)]
        always = [name.removeprefix(_BLAMED) for name in spoils if self.counters[name] == self.counters["bad"]]
        if not always:
            return "Lower the learning rate, lengthen the warm-up or look at the samples named."
        return f"Take {', '.join(always)} out: it was in every one of them, and the other samples were finite."

    def _bring_back(self) -> None:
        """Put the last good state into the parts."""
        if self.good_step:
            self._load(self.good_step)
            return
        for name, state in self._beginning.items():
            self._parts[name].load_state_dict(state)

    def _forget_beginning(self) -> None:
        """Let go of the copy of the first state as soon as the run never returns to it."""
        if self.good_step:
            self._beginning = {}


def finite(*numbers: float) -> bool:
    """Return whether all numbers are finite."""
    return all(math.isfinite(number) for number in numbers)


def copies_of_buffers(modules: Mapping[str, nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Copy all buffers, such as running statistics, which a forward pass may change."""
    return [(buffer, buffer.clone()) for module in modules.values() for buffer in module.buffers()]


@torch.no_grad()
def put_back(copies: list[tuple[Tensor, Tensor]]) -> None:
    """Put buffers back to what they were when they were copied."""
    for buffer, copy in copies:
        buffer.copy_(copy)


@dataclass
class _Trace:
    """What the hooks of `locate` have seen: the first non-finite output, and gradients in order of computation."""

    output: str | None = None
    gradient: str | None = None
    rows: list[int] = field(default_factory=list)

    def see_output(self, name: str, batch: int) -> Callable[[nn.Module, Any, Any], None]:
        """Return a hook that looks at the outputs of one layer and has their gradients looked at."""

        def hook(_: nn.Module, __: Any, outputs: Any) -> None:
            for value in outputs if isinstance(outputs, tuple) else (outputs,):
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    continue
                if self.output is None and not bool(torch.isfinite(value).all()):
                    self.output, self.rows = name, _bad_rows(value, batch)
                if value.requires_grad:
                    value.register_hook(self.see_gradient(name, batch))

        return hook

    def see_gradient(self, name: str, batch: int) -> Callable[[Tensor], None]:
        """Return a hook that looks at the gradient of one layer's output."""

        def hook(gradient: Tensor) -> None:
            if self.gradient is None and not bool(torch.isfinite(gradient).all()):
                self.gradient = name
                self.rows = self.rows or _bad_rows(gradient, batch)

        return hook


def locate(modules: Mapping[str, nn.Module], loss: Callable[[], LossReport], known: LossReport, found: str) -> Cause:
    """Repeat a bad step with every layer watched and say where the trouble starts.

    Args:
        modules: The modules to watch, by name.
        loss: Repeats the forward pass of the bad step, with the same random numbers.
        known: The report of the bad step, for its sample names.
        found: What was non-finite, such as `the loss was nan`.

    Returns:
        One clause with the first layer and the samples, which also says which samples alone are not finite.
    """
    trace, batch = _Trace(), len(known.sample_ids)
    hooks = [
        layer.register_forward_hook(trace.see_output(name, batch))
        for prefix, module in modules.items()
        for name, layer in module.named_modules(prefix=prefix)
        if not any(True for _ in layer.children())
    ]
    weights = [(f"{k}.{n}", w) for k, m in modules.items() for n, w in m.named_parameters()]
    try:
        with _as_layers(modules.values()):
            report = loss()
        if trace.output is None and report.loss.requires_grad:
            report.loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    rows = trace.rows or ([] if report.per_sample is None else _bad_rows(report.per_sample, batch))
    named = _named(known, rows)
    alone = named if set(named) < set(known.sample_ids) else []
    return Cause(f"{found}; {_place(trace, weights)}; {_samples(known, rows)}", alone)


def _as_layers(modules: Iterable[nn.Module]) -> AbstractContextManager[object]:
    """Let compiled modules run layer by layer meanwhile: a compiled one does not know hooks that came later."""
    compiled = (getattr(layer, "_compiled_call_impl", None) for module in modules for layer in module.modules())
    if all(call is None for call in compiled):
        return nullcontext()
    eagerly: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return eagerly


def _place(trace: _Trace, weights: list[tuple[str, nn.Parameter]]) -> str:
    """Say which layer is the first that is not finite."""
    if broken := [name for name, weight in weights if not bool(torch.isfinite(weight).all())]:
        return f"weight '{broken[0]}' is itself not finite"
    if trace.output is not None:
        return f"the first non-finite output is that of layer '{trace.output}'"
    if trace.gradient is not None:
        return f"the first non-finite gradient is that at the output of layer '{trace.gradient}'"
    overflown = [name for name, w in weights if w.grad is not None and not bool(torch.isfinite(w.grad).all())]
    if overflown:
        return f"the first non-finite gradient is that of weight '{overflown[-1]}'"
    return "every layer's output and gradient is finite, only their sum is too large"


def _samples(report: LossReport, rows: list[int]) -> str:
    """Name the samples of some rows, at most eight."""
    if not report.sample_ids:
        return "the samples have no names"
    named = _named(report, rows)
    if not named or len(rows) == len(report.sample_ids) > 1:
        return f"all {len(report.sample_ids)} samples of the step, from {report.sample_ids[0]}"
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return f"in sample{'s' if len(named) > 1 else ''} {', '.join(named[:8])}{more}"


def _named(report: LossReport, rows: list[int]) -> list[str]:
    """Return the names of the samples of some rows, each once."""
    return list(dict.fromkeys(report.sample_ids[row] for row in rows if row < len(report.sample_ids)))


def _bad_rows(value: Tensor, batch: int) -> list[int]:
    """Return the rows of a batch that hold a non-finite number."""
    if batch == 0 or value.ndim == 0 or value.shape[0] != batch:
        return []
    finite_rows = torch.isfinite(value.detach()).reshape(batch, -1).all(1)
    return [row for row, good in enumerate(finite_rows.tolist()) if not good]


def _copies(state: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the tensors of a state."""
    return {key: value.detach().clone() if isinstance(value, Tensor) else value for key, value in state.items()}
