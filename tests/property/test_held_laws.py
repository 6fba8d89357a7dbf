"""Law of weights held in bf16: output and gradient are what autocast makes of the float32 weight."""

from __future__ import annotations

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sfumato.runtime.precision import computing_in, hold


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
    st.sampled_from([0, 1, 3]),
    st.integers(0, 2**16),
    st.booleans(),
)
def test_a_held_layer_equals_autocast(inner: int, outer: int, bias: bool, kernel: int, seed: int, last: bool) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(inner, outer, kernel, bias=bias) if kernel else nn.Linear(inner, outer, bias=bias)
    layer.requires_grad_(False)
    if last and kernel:
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    held = copy.deepcopy(layer)
    hold(held)
    start = torch.randn(2, inner, 5, 5) if kernel else torch.randn(3, inner)
    found = []
    for network in (layer, held):
        x = start.clone().requires_grad_()
        with computing_in("bf16", x.device):
            out = network(x)
        out.float().square().sum().backward()
        found.append((out.detach(), x.grad))
    for plain, rounded in zip(*found, strict=True):
        assert plain is not None and rounded is not None and torch.equal(plain, rounded)
