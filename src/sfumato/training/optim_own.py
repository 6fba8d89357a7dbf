"""AdamW and Muon without torch's class of optimizers, whose first use imports torch's compiler: a second and 76 MB.

They have the two things of it that states are read from, `param_groups` and `state`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from sfumato.runtime.precision import Precision


class Grouped(ABC):
    """An optimizer of groups of weights.

    Args:
        groups: Each with `params`; what else it has stands before the defaults.
        defaults: Numbers of every group.

    Attributes:
        param_groups: The groups.
        state: Moments by weight.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], defaults: Mapping[str, Any]) -> None:
        self.param_groups: list[dict[str, Any]] = [{**defaults, **group} for group in groups]
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)

    @abstractmethod
    def step(self) -> None:
        """Update every weight that has a gradient."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for group in self.param_groups:
            for weight in group["params"]:
                weight.grad = None


class AdamW(Grouped):
    """AdamW ([loshchilov2019]) by torch's fused kernel, in the same numbers as `torch.optim.AdamW`.

    Args:
        groups: The weights.
        lr: Learning rate.
        betas: Decay rates of the two moments.
        eps: Added to the denominator.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            moments = [self._moments(weight) for weight in weights]
            adamw(
                weights,
                [weight.grad for weight in weights],
                [moment["exp_avg"] for moment in moments],
                [moment["exp_avg_sq"] for moment in moments],
                [],
                [moment["step"] for moment in moments],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )

    def _moments(self, weight: Tensor) -> dict[str, Any]:
        """Return the moments of a weight, from zero at its first step."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        return state


def orthogonalized(matrices: Tensor, iterations: int = 5, precision: Precision = "fp32") -> Tensor:
    """Bring all singular values of matrices near 1 by Newton–Schulz iteration.

    `X ← aX + (bA + cA²)X` with `A = XXᵀ`; the quintic's coefficients raise small singular values fast and hold large
    ones in about [0.7, 1.2] ([jordan2024] Muon).

    Args:
        matrices: `(n, rows, columns)`; several of one shape together are up to four times faster than one by one.
        iterations: Number of iterations.
        precision: Numbers of the matrix products.

    Returns:
        Matrices of the same shape and type.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT if is_tall else matrices
    norms = torch.linalg.vector_norm(wide, dim=(1, 2), keepdim=True) + 1e-7
    x: Tensor = (wide / norms).to(torch.bfloat16 if precision == "bf16" else matrices.dtype)
    for _ in range(iterations):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(Grouped):
    """Momentum whose update is orthogonalised, for matrices and convolution kernels.

    A kernel `(out, in, kh, kw)` counts as the matrix `(out, in·kh·kw)`. The update is scaled by
    `0.2·√max(rows, columns)`: its root mean square is then that of AdamW ([liu2025]) and one learning rate serves both.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        precision: Precision = "fp32",
    ) -> None:
        super().__init__([{"params": list(params)}], {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._precision = precision

    @torch.no_grad()
    def step(self) -> None:
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[tuple(weight.flatten(1).shape)].append(weight)
            for weights in by_shape.values():
                self._update(weights, group)

    def _update(self, weights: Sequence[nn.Parameter], group: dict[str, Any]) -> None:
        """Move weights of one shape."""
        ahead = torch.stack([self._momentum(weight, group["momentum"]).flatten(1) for weight in weights])
        scale = 0.2 * math.sqrt(max(ahead.shape[1:]))
        for weight, update in zip(weights, orthogonalized(ahead, precision=self._precision), strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(update.view(weight.shape), alpha=-group["lr"] * scale)

    def _momentum(self, weight: nn.Parameter, decay: float) -> Tensor:
        """Bring the momentum of a weight up to date and look one step ahead."""
        assert weight.grad is not None
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].mul_(decay).add_(weight.grad)
        return weight.grad.add(momentum, alpha=decay)
