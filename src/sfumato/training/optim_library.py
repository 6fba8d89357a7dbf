"""Optimizers by name: ours, torch's, and those of other libraries where they are installed.

A library is imported when its optimizer is asked for, so that none of them is needed for the rest.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from sfumato.errors import ConfigError
from sfumato.training.optim_own import AdamW, Grouped

OptimizerName = Literal["adamw", "muon", "adafactor", "adamw-8bit", "lion", "prodigy", "schedule-free"]
Optimizer = torch.optim.Optimizer | Grouped
Groups = Sequence[Mapping[str, Any]]
"""Groups of weights as torch takes them: `params` and `weight_decay`."""


@dataclass(frozen=True)
class Numbers:
    """What is told to every optimizer; one that has no use for a number leaves it.

    Attributes:
        lr: Peak learning rate.
        betas: Decay rates of the two moments.
        eps: Added to the denominator.
    """

    lr: float
    betas: tuple[float, float]
    eps: float


def make_optimizer(name: OptimizerName, groups: Groups, numbers: Numbers) -> Optimizer:
    """Make an optimizer by name, `muon` apart.

    Args:
        name: Which.
        groups: The weights.
        numbers: Learning rate and so on.

    Raises:
        ConfigError: Its library is not installed.
    """
    return _MAKERS[name](groups, numbers)


def unquantised(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Take a moment of few bits apart into plain tensors, `name.part`; any other moment stays as it is."""
    if type(value) is Tensor or not hasattr(value, "__tensor_flatten__"):
        yield name, value
        return
    for part in value.__tensor_flatten__()[0]:
        yield f"{name}.{part}", getattr(value, part)


def quantised(key: str, parts: Mapping[str, Tensor]) -> Tensor:
    """Put a moment of 8 bits together from what `unquantised` gave.

    Args:
        key: Name of the moment; only the first one is signed.
        parts: Its tensors by name.
    """
    kind = _library("torchao.optim.subclass_8bit", "torchao", "adamw-8bit").OptimState8bit
    whole: Tensor = kind.__tensor_unflatten__(dict(parts), [key == "exp_avg", torch.float32])
    return whole


def _library(module: str, package: str, name: str) -> Any:
    """Import a library, or say how to get it."""
    logging.getLogger(module.partition(".")[0]).setLevel(logging.ERROR)  # kernels for accelerators that are not there
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"optimizer is '{name}', which needs the package '{package}'; it cannot be imported: {error}.",
            field="optim.name",
            hint=f"Run: pip install {package} (for all of them, in the repository: pip install --editable '.[optim]').",
        ) from error


def _adamw(groups: Groups, numbers: Numbers) -> AdamW:
    """AdamW ([loshchilov2019]) of ours, by torch's kernel."""
    return AdamW(groups, numbers.lr, numbers.betas, numbers.eps)


def _adafactor(groups: Groups, numbers: Numbers) -> torch.optim.Optimizer:
    """Adafactor of torch ([shazeer2018]): a row and a column stand for the second moment of a matrix."""
    return torch.optim.Adafactor(_lists(groups), lr=numbers.lr)


def _adamw_8bit(groups: Groups, numbers: Numbers) -> torch.optim.Optimizer:
    """AdamW with moments of 8 bits ([dettmers2022]), from torchao."""
    library = _library("torchao.optim", "torchao", "adamw-8bit")

    class AdamW8bit(library.AdamW8bit):  # type: ignore[misc,name-defined]
        """The same without its compiler, which takes longer than a run on few weights and needs one of C++."""

        def step(self, closure: Callable[[], float] | None = None) -> Any:
            with torch.compiler.set_stance("force_eager"):
                return super().step(closure)

    made: torch.optim.Optimizer = AdamW8bit(_lists(groups), lr=numbers.lr, betas=numbers.betas, eps=numbers.eps)
    return made


def _lion(groups: Groups, numbers: Numbers) -> torch.optim.Optimizer:
    """Lion ([chen2023]): the sign of the momentum, one moment."""
    library = _library("lion_pytorch", "lion-pytorch", "lion")
    made: torch.optim.Optimizer = library.Lion(_lists(groups), lr=numbers.lr, betas=numbers.betas)
    return made


def _prodigy(groups: Groups, numbers: Numbers) -> torch.optim.Optimizer:
    """Prodigy ([mishchenko2023]): AdamW that finds its own learning rate; `lr` is a factor on it, 1 as a rule.

    From the library's first guess of 1e-6, factors that start at zero stay there for 60 steps, and with its corrections
    switched on the rate then shot up and ruined a run of 150; from 1e-5 it came to about 2e-3 with every seed tried.
    """
    library = _library("prodigyopt", "prodigyopt", "prodigy")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints about weight decay
        made: torch.optim.Optimizer = library.Prodigy(
            _lists(groups),
            lr=numbers.lr,
            betas=numbers.betas,
            eps=numbers.eps,
            use_bias_correction=True,
            safeguard_warmup=True,
            d0=1e-5,
        )
    return made


def _schedule_free(groups: Groups, numbers: Numbers) -> torch.optim.Optimizer:
    """Schedule-free AdamW ([defazio2024]): an average of the weights in place of a falling learning rate."""
    library = _library("schedulefree", "schedulefree", "schedule-free")
    made: Any = library.AdamWScheduleFree(_lists(groups), lr=numbers.lr, betas=numbers.betas, eps=numbers.eps)
    made.train()
    assert isinstance(made, torch.optim.Optimizer)
    return made


def _lists(groups: Groups) -> list[dict[str, Any]]:
    """Copy the groups, which an optimizer writes into."""
    return [dict(group) for group in groups]


_MAKERS: Mapping[str, Callable[[Groups, Numbers], Optimizer]] = {
    "adamw": _adamw,
    "muon": _adamw,
    "adafactor": _adafactor,
    "adamw-8bit": _adamw_8bit,
    "lion": _lion,
    "prodigy": _prodigy,
    "schedule-free": _schedule_free,
}

SUITED: Mapping[OptimizerName, Mapping[str, Any]] = {
    "adamw": {},
    "muon": {"lr_factor": 3.0},
    "adafactor": {"lr_factor": 100.0},
    "adamw-8bit": {},
    "lion": {"lr_factor": 0.5, "betas": (0.9, 0.99)},
    "prodigy": {"lr": 1.0, "betas": (0.9, 0.99)},
    "schedule-free": {"schedule": "constant"},
}
"""What suits an optimizer where AdamW's numbers do not: values of `OptimConfig`, `lr_factor` on a method's rate.

The factors were tried with LoRA on the embedded base. Adafactor's is large because it moves weights in proportion to
their size, and factors start at zero."""

LONGER: Mapping[OptimizerName, int] = {"prodigy": 2}
"""Factor on a method's steps: Prodigy finds its rate in the first hundred, and learns little until then."""

_ADAFACTOR_ON_WEIGHTS = 10.0


def suited_factor(name: OptimizerName, *, from_zero: bool) -> float:
    """Return the factor on a method's learning rate that suits an optimizer.

    Args:
        name: The optimizer.
        from_zero: What learns is added to weights and starts at zero, as factors do. Adafactor would carry off weights
            themselves, or the vectors of a word, at the rate that suits those.
    """
    if name == "adafactor" and not from_zero:
        return _ADAFACTOR_ON_WEIGHTS
    return float(SUITED[name].get("lr_factor", 1.0))
