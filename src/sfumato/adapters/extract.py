"""A difference of weights as low-rank factors: the small file that a fully tuned model can be shipped as."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.lora import LoRA
from sfumato.errors import AdapterError


def extract_lora(
    model: nn.Module, before: Mapping[str, Tensor], rank: int, targets: tuple[str, ...] = ("all",)
) -> tuple[LoRA, float]:
    """Find the factors nearest to what training has changed.

    `W - W_before = U S Vᵀ`; the first `rank` terms are the best approximation of that rank (Eckart–Young), shared
    evenly as `up = U √S`, `down = √S Vᵀ`. Neither `model` nor `before` is changed.

    Args:
        model: The model as it is now.
        before: Its weights before, by state-dict key.
        rank: Inner width of the factors; where a matrix has fewer singular values the rest is zero.
        targets: Layers to look at, see `find_targets`.

    Returns:
        An adapter for the model as it was before, and the share of the squared change that it holds, from 0 to 1. What
        norms and biases have changed counts as lost.

    Raises:
        NoTargetMatched: `targets` fits no layer.
        AdapterError: A change is not finite.
    """
    now = model.state_dict()
    lora = LoRA(model, LoRAConfig(rank, targets=targets))
    total = sum(float((now[key].double() - before[key].double()).square().sum()) for key in now)
    held = 0.0
    factors: dict[str, Tensor] = {}
    for name in lora.names:
        change = (now[f"{name}.weight"] - before[f"{name}.weight"]).detach()
        if not bool(change.isfinite().all()):
            raise AdapterError(
                f"The change of '{name}' holds {int((~change.isfinite()).sum())} numbers out of {change.numel()} that "
                "are not finite, so that no factors come near it.",
                hint="Lower the learning rate.",
            )
        is_table = isinstance(model.get_submodule(name), nn.Embedding)
        up, down, energy = _nearest(change.t() if is_table else change.flatten(1), rank)
        held += energy
        if change.dim() == 4:
            up, down = up[:, :, None, None], down.reshape(rank, *change.shape[1:])
        factors |= {f"{name}.up": up, f"{name}.down": down}
    lora.load_state(factors)
    return lora, held / total if total else 1.0


def _nearest(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Return the two factors of a matrix's best approximation and the sum of squares that it holds.

    The singular vectors `U` of the shorter side are the eigenvectors of `A Aᵀ`, and `√S Vᵀ = Uᵀ A / √S`: three times as
    fast as a whole decomposition. The product `U Uᵀ A` is a projection, so that it rounds no more than that does.
    """
    whole = matrix.double()
    is_wide = whole.shape[0] <= whole.shape[1]
    short = whole if is_wide else whole.t()
    kept = min(rank, len(short))
    main = torch.linalg.eigh(short @ short.t()).eigenvectors[:, -kept:].flip(1)
    shares = main.t() @ short
    values = torch.linalg.vector_norm(shares, dim=1)
    root = values.sqrt()
    outer = torch.zeros(short.shape[0], rank, dtype=torch.float64)
    inner = torch.zeros(rank, short.shape[1], dtype=torch.float64)
    outer[:, :kept] = main * root
    inner[:kept] = torch.where(values > 0, 1 / root, 0.0)[:, None] * shares
    up, down = (outer, inner) if is_wide else (inner.t(), outer.t())
    return up.to(matrix.dtype), down.to(matrix.dtype), float(values.square().sum())
