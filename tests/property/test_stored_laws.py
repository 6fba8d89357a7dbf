"""Law of weights that lie in 16 bits: output and gradients are those of a float32 copy, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sfumato.nn.convolution import Conv3x3, best_tile
from sfumato.nn.stored import Conv2d, Linear, hold_as_stored, lies_as_stored

DTYPES = (torch.float16, torch.bfloat16)


def found(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Return output and gradients by input and bias."""
    x = x.detach().requires_grad_()
    out = layer(x)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).square().sum().backward()
    assert x.grad is not None
    bias = layer.bias
    grads = [bias.grad] if isinstance(bias, Tensor) and bias.grad is not None else []
    return [out.detach(), x.grad, *grads]


def both(layer: nn.Module, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Return a layer over float32 numbers that 16 bits hold, and the same over these 16 bits."""
    network = nn.Sequential(layer)
    with torch.no_grad():
        layer.weight.copy_(layer.weight.to(dtype))  # type: ignore[operator, union-attr, arg-type]
    layer.weight.requires_grad_(False)  # type: ignore[operator, union-attr]
    held = copy.deepcopy(network)
    hold_as_stored(held, {"0.weight": dtype})
    assert lies_as_stored(held[0]) and not lies_as_stored(layer)
    return layer, held[0]


def check(layer: nn.Module, dtype: torch.dtype, x: Tensor) -> None:
    """Compare output, order in memory and gradients."""
    for plain, narrow in zip(*(found(side, x) for side in both(layer, dtype)), strict=True):
        assert narrow.dtype == torch.float32 and torch.equal(plain, narrow)
        assert plain.stride() == narrow.stride()


@given(
    inner=st.integers(2, 70),  # for one column the library turns the product of the gradient around
    outer=st.integers(1, 70),
    bias=st.booleans(),
    rows=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_a_linear_layer(inner: int, outer: int, bias: bool, rows: list[int], dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    check(Linear(inner, outer, bias=bias), dtype, torch.randn(*rows, inner))


def test_rows_that_lie_in_another_order_are_right_but_for_rounding() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, 12).transpose(0, 1)
    for plain, narrow in zip(*(found(side, x) for side in both(Linear(12, 8), torch.float16)), strict=True):
        torch.testing.assert_close(plain, narrow)


@given(
    inner=st.integers(1, 20),
    outer=st.integers(1, 20),
    kernel=st.sampled_from([1, 3]),
    stride=st.sampled_from([1, 2]),
    bias=st.booleans(),
    last=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**16),
)
def test_a_convolution(
    inner: int, outer: int, kernel: int, stride: int, bias: bool, last: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    layer, x = Conv2d(inner, outer, kernel, stride, padding=kernel // 2, bias=bias), torch.randn(2, inner, 6, 5)
    if last:
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = x.contiguous(memory_format=torch.channels_last)
    check(layer, dtype, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("inner", "outer", "side"), [(128, 160, 32), (512, 512, 16), (16, 32, 8)])
def test_a_convolution_by_tiles(inner: int, outer: int, side: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(inner, outer), torch.randn(1, inner, side, side)
    layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert (best_tile(x, layer.weight) is None) == (inner == 16)
    check(layer, dtype, x.contiguous(memory_format=torch.channels_last))


def test_what_a_file_has_in_more_bits_stays() -> None:
    network = nn.Sequential(Linear(3, 2), Linear(2, 2), nn.Linear(2, 2))
    hold_as_stored(network, {"0.weight": torch.float32, "1.weight": torch.float16, "2.weight": torch.float16})
    assert [layer.weight.dtype for layer in network] == [torch.float32, torch.float16, torch.float32]
    assert network[0].weight.requires_grad and not network[1].weight.requires_grad
    assert network[1].bias.dtype == torch.float32
