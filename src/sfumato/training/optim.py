"""Optimizers and learning-rate schedules, both free of hidden state.

The learning rate is a function of the step, so a resumed run needs no scheduler. Muon is for matrices and convolution
kernels; everything else (norms, biases, embeddings, first and last layers) goes to AdamW.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from sfumato.adapters.tokens import TokenRows
from sfumato.errors import ConfigError
from sfumato.runtime.precision import Precision
from sfumato.training.optim_library import Numbers, Optimizer, OptimizerName, make_optimizer
from sfumato.training.optim_own import Muon
from sfumato.training.optim_state import flat_state, put_state
from sfumato.training.section import Section


class OptimConfig(Section):
    """How weights are updated.

    Attributes:
        name: `adamw`; `muon` for matrices and kernels with AdamW for the rest; or one of other libraries, see
            `optim_library`.
        lr: Peak learning rate.
        betas: Decay rates of AdamW's two moments, each in [0, 1).
        eps: Added to AdamW's denominator.
        weight_decay: Decoupled weight decay.
        decay_all: Decay norms, biases and embeddings too (torch's default; off is the usual choice).
        muon_lr: Peak learning rate of the Muon group; `None` takes `lr` (updates are scaled to AdamW's size).
        muon_momentum: Momentum of Muon, Nesterov style.
        muon_precision: Numbers of Muon's matrix products; `bf16`, as its author uses, moves singular values by 1 % and
            is several times faster on processors with matrix units.
        muon_exclude: Modules whose last name is in this list stay with AdamW.
        schedule: `constant`, `cosine`, `linear`, or `trapezoid` (constant, then linear over the last `decay_steps`).
        warmup_steps: Steps of linear warm-up from 0.
        decay_steps: Length of the final decay of `trapezoid`.
        final_lr: What the learning rate falls to, as a fraction of the peak; the step after the last would have it.
        lr_factors: Factor on the learning rate of all weights whose dotted name fits a shell pattern, such as
            `{"*.up": 16}` for LoRA+ ([hayou2024]); the first that fits counts.
    """

    name: OptimizerName = "adamw"
    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    decay_all: bool = False
    muon_lr: float | None = Field(default=None, gt=0)
    muon_momentum: float = Field(default=0.95, ge=0, lt=1)
    muon_precision: Precision = "fp32"
    muon_exclude: tuple[str, ...] = ("conv_in", "conv_out", "token_embedding", "position_embedding")
    schedule: Literal["constant", "cosine", "linear", "trapezoid"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    decay_steps: int = Field(default=0, ge=0)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    lr_factors: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> OptimConfig:
        """Refuse decay rates out of range, and a falling learning rate where the optimizer averages in its place."""
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"betas is {self.betas}; both numbers must lie in [0, 1).",
                field="optim.betas",
                hint="Usual are (0.9, 0.999).",
            )
        if self.name == "schedule-free" and self.schedule != "constant":
            raise ConfigError(
                f"schedule is '{self.schedule}' but the optimizer 'schedule-free' needs 'constant'.",
                field="optim.schedule",
                hint="Leave the schedule out; warm-up is possible.",
            )
        if self.name == "schedule-free" and self.betas[0] <= 0:
            raise ConfigError(
                f"betas is {self.betas} but the optimizer 'schedule-free' needs a first number above 0.",
                field="optim.betas",
            )
        return self


def lr_factor(config: OptimConfig, step: int, steps: int) -> float:
    """Return the fraction of the peak learning rate at `step` of `steps`.

    Args:
        config: The schedule.
        step: Index of the step about to be taken, from 0.
        steps: Number of steps of the whole run.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    start = config.warmup_steps
    if config.schedule == "trapezoid":
        start = max(start, steps - config.decay_steps)
    done = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
    shape = (1 + math.cos(math.pi * done)) / 2 if config.schedule == "cosine" else 1 - done
    return config.final_lr + (1 - config.final_lr) * shape


@dataclass(frozen=True)
class Optimizers:
    """The optimizers of one phase as one thing whose state is a flat dict of named tensors."""

    config: OptimConfig
    parts: tuple[Optimizer, ...]
    names: dict[Tensor, str]

    def __post_init__(self) -> None:
        """Refuse several learning rates where the optimizer finds one for all weights."""
        rates = sorted({group["peak_lr"] for optimizer in self.parts for group in optimizer.param_groups})
        if self.config.name == "prodigy" and len(rates) > 1:
            raise ConfigError(
                f"The optimizer 'prodigy' finds one learning rate for all weights; {rates} were given.",
                field="optim.name",
                hint="Leave out learning rates per weight, or take another optimizer.",
            )

    def set_lr(self, step: int, steps: int) -> float:
        """Set the learning rate of this step and return that of the first group."""
        factor = lr_factor(self.config, step, steps)
        for optimizer in self.parts:
            for group in optimizer.param_groups:
                lr = group["peak_lr"] * factor
                group["lr"] = torch.full_like(group["lr"], lr) if isinstance(group["lr"], Tensor) else lr
        return float(self.parts[0].param_groups[0]["lr"])

    def step(self) -> None:
        """Apply the gradients."""
        for optimizer in self.parts:
            optimizer.step()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for optimizer in self.parts:
            optimizer.zero_grad()

    @property
    def averages(self) -> bool:
        """Whether the weights while learning are not those to be used."""
        return any(hasattr(optimizer, "eval") for optimizer in self.parts)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the weights that are meant for use inside the block; those of the learning come back bit for bit.

        Schedule-free learns at weights between its average and its last step. Its own way back from the average is
        rounded, so that a run with previews would differ from one without.
        """
        if not self.averages:
            yield
            return
        kept = [(weight, weight.detach().clone()) for weight in self.names]
        for optimizer in self.parts:
            if hasattr(optimizer, "eval"):
                optimizer.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in kept:
                    weight.copy_(value)
            for optimizer in self.parts:
                for group in optimizer.param_groups:
                    group["train_mode"] = True

    def state_dict(self) -> dict[str, Tensor]:
        """Return every moment under the name of its weight, `name/key`."""
        return flat_state(self.parts, self.names)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned, in the memory layout of each weight."""
        put_state(self.parts, self.names, state)


def build_optimizers(modules: Mapping[str, nn.Module], config: OptimConfig) -> Optimizers:
    """Build the optimizers for all trainable weights of some modules.

    Args:
        modules: The modules by name; weights that do not require a gradient are left out.
        config: Which optimizer and its numbers.

    Raises:
        ConfigError: No weight is trainable, or a pattern of `lr_factors` fits none.
    """
    names: dict[Tensor, str] = {}
    groups: dict[str, list[nn.Parameter]] = {"muon": [], "decay": [], "plain": []}
    for prefix, root in modules.items():
        for path, module in root.named_modules(prefix=prefix):
            for name, weight in module.named_parameters(recurse=False):
                if weight.requires_grad and weight not in names:
                    names[weight] = f"{path}.{name}"
                    groups[_group(config, module, path, name, weight)].append(weight)
    if not names:
        raise ConfigError(
            f"Nothing to train: no weight of {', '.join(modules) or 'no module'} requires a gradient.",
            hint="Name at least one part that learns.",
        )
    parts = _optimizers(groups, config)
    _apply_factors(parts, names, config.lr_factors)
    return Optimizers(config, parts, names)


def check_average(optimizers: Mapping[str, Optimizers], decay: float) -> None:
    """Refuse a moving average of weights that an optimizer averages itself.

    Args:
        optimizers: Those of a run by phase.
        decay: That of the moving average; 0 for none.

    Raises:
        ConfigError: Both are wanted.
    """
    averaging = [name for name, optimizer in optimizers.items() if optimizer.averages]
    if decay and averaging:
        raise ConfigError(
            f"ema.decay is {decay}, but the optimizer of '{averaging[0]}' averages the weights itself.",
            field="ema.decay",
            hint="Set ema.decay to 0, or take another optimizer.",
        )


def _apply_factors(parts: Sequence[Optimizer], names: Mapping[Tensor, str], factors: Mapping[str, float]) -> None:
    """Split the groups of new optimizers by the factor on their weights' learning rate, that of 1 first."""
    for pattern in factors:
        if not any(fnmatchcase(name, pattern) for name in names.values()):
            raise ConfigError(
                f"The pattern '{pattern}' of lr_factors fits none of {len(names)} weights that learn.",
                field="lr_factors",
                hint=f"Their names are like {', '.join(list(names.values())[:3])}.",
            )
    for optimizer in parts if factors else ():
        split = []
        for group in optimizer.param_groups:
            weights: dict[float, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                fitting = (factor for pattern, factor in factors.items() if fnmatchcase(names[weight], pattern))
                weights[next(fitting, 1.0)].append(weight)
            split += [
                {**group, "params": weights[factor], "peak_lr": group["peak_lr"] * factor}
                for factor in sorted(weights, key=lambda factor: (factor != 1.0, factor))
            ]
        optimizer.param_groups[:] = split


def _group(config: OptimConfig, module: nn.Module, path: str, name: str, weight: Tensor) -> str:
    """Return which group a weight belongs to."""
    matrix = weight.ndim >= 2 and not isinstance(module, nn.Embedding | TokenRows)
    excluded = path.rsplit(".", 1)[-1] in config.muon_exclude or name in config.muon_exclude
    if config.name == "muon" and matrix and not excluded:
        return "muon"
    return "decay" if matrix or config.decay_all else "plain"


def _optimizers(groups: Mapping[str, list[nn.Parameter]], config: OptimConfig) -> tuple[Optimizer, ...]:
    """Make one optimizer for the plain groups and one for Muon, leaving out the empty ones."""
    parts: list[Optimizer] = []
    adam = [
        {"params": groups[kind], "weight_decay": decay}
        for kind, decay in (("decay", config.weight_decay), ("plain", config.weight_decay * config.decay_all))
        if groups[kind]
    ]
    if adam:
        parts.append(make_optimizer(config.name, adam, Numbers(config.lr, config.betas, config.eps)))
    if groups["muon"]:
        lr = config.lr if config.muon_lr is None else config.muon_lr
        parts.append(Muon(groups["muon"], lr, config.muon_momentum, config.weight_decay, config.muon_precision))
    for optimizer in parts:
        for group in optimizer.param_groups:
            group["peak_lr"] = float(group["lr"])
    return tuple(parts)
