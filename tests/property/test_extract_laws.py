"""Factors taken from a difference of weights: exact where the rank suffices, the best of their rank otherwise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfumato.adapters.extract import extract_lora
from sfumato.errors import AdapterError


class Small(nn.Module):
    """One layer of every kind, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.linear = nn.Linear(6, 9)
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.LayerNorm(6)


def changed(rank: int, seed: int) -> tuple[Small, dict[str, torch.Tensor]]:
    """A model whose weights have moved by matrices of some rank."""
    torch.manual_seed(seed)
    model = Small().double()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with torch.no_grad():
        for layer in (model.table, model.linear, model.conv):
            matrix = layer.weight.flatten(1)
            matrix += torch.randn(len(matrix), rank, dtype=torch.double) @ torch.randn(rank, matrix.shape[1]).double()
    return model, before


@settings(max_examples=20, deadline=None)
@given(rank=st.integers(1, 3), more=st.integers(0, 20), seed=st.integers(0, 99))
def test_enough_rank_holds_everything(rank: int, more: int, seed: int) -> None:
    model, before = changed(rank, seed)
    lora, held = extract_lora(model, before, rank + more)
    now = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    assert abs(held - 1) < 1e-9
    model.load_state_dict(before)
    with lora.merged():
        for key, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, now[key], atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99))
def test_less_rank_holds_the_largest_singular_values(seed: int) -> None:
    model, before = changed(3, seed)
    with torch.no_grad():
        model.norm.weight += 2.0  # has no factors, so it counts as lost
    _, held = extract_lora(model, before, 1)
    now, kept, lost = model.state_dict(), 0.0, 0.0
    for name in ("table.weight", "linear.weight", "conv.weight"):
        values = torch.linalg.svdvals((now[name] - before[name]).flatten(1)).square()
        kept, lost = kept + float(values[0]), lost + float(values[1:].sum())
    assert abs(held - kept / (kept + lost + 6 * 2.0**2)) < 1e-6
    lora, _ = extract_lora(model, before, 2)
    factors = lora.state()
    for name in ("table", "linear", "conv"):
        change = (now[f"{name}.weight"] - before[f"{name}.weight"]).flatten(1)
        left, values, right = torch.linalg.svd(change.t() if name == "table" else change, full_matrices=False)
        nearest = left[:, :2] * values[:2] @ right[:2]
        up, down = (factors[f"{name}.{side}"].detach().flatten(1).double() for side in ("up", "down"))
        torch.testing.assert_close(up @ down, nearest, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1), atol=1e-5, rtol=1e-5)  # shared evenly
    assert extract_lora(model, now, 1)[1] == 1.0


def test_a_change_that_is_not_finite_is_refused() -> None:
    model, before = changed(1, 0)
    with torch.no_grad():
        model.conv.weight[0, 0, 0, :2] = torch.inf
    with pytest.raises(AdapterError, match="The change of 'conv' holds 2 numbers out of 135 that are not finite"):
        extract_lora(model, before, 1)
