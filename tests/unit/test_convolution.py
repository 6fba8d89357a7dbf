"""Kernels kept in the library's order: right results, made anew when weights or shape change, only where they help."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sfumato.nn.convolution import Conv2d


def made(*args: int, **options: object) -> Conv2d:
    """A convolution with fixed weights."""
    torch.manual_seed(0)
    return Conv2d(*args, **options).to(memory_format=torch.channels_last)  # type: ignore[arg-type,call-overload,no-any-return]


def plain(layer: Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The same convolution by torch."""
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [1, 2, 5])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    "layer",
    [
        made(16, 32, 3, padding=1),
        made(16, 32, 1, bias=False),
        made(16, 16, 3, stride=2, padding=1),
        made(16, 32, 3, padding=2, dilation=2, groups=2),
    ],
    ids=["3x3", "1x1", "strided", "grouped"],
)
def test_a_kept_kernel_gives_what_torch_gives(layer: Conv2d, layout: torch.memory_format, rows: int) -> None:
    x = torch.randn(rows, 16, 8, 8).to(memory_format=layout)
    with torch.no_grad():
        first, second = layer(x), layer(x)
        torch.testing.assert_close(first, plain(layer, x), atol=1e-5, rtol=1e-5)
    assert torch.equal(first, second)
    assert layer._packed is not None


def test_changed_weights_and_shapes_are_noticed() -> None:
    layer, x = made(8, 8, 3, padding=1), torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        layer(x)
        layer.weight.mul_(2)
        torch.testing.assert_close(layer(x), plain(layer, x))
        layer.weight.data = torch.randn_like(layer.weight)
        torch.testing.assert_close(layer(x), plain(layer, x))
        layer.load_state_dict(made(8, 8, 3, padding=1).state_dict())
        torch.testing.assert_close(layer(x), plain(layer, x))
        for shape in ((3, 8, 4, 4), (1, 8, 6, 2)):
            other = torch.randn(shape)
            torch.testing.assert_close(layer(other), plain(layer, other))


def test_training_large_maps_and_large_kernels_take_the_usual_way() -> None:
    x = torch.randn(2, 8, 4, 4)
    layer = made(8, 8, 3, padding=1)
    layer(x).sum().backward()
    assert layer._packed is None and layer.weight.grad is not None
    with torch.no_grad():
        layer(torch.randn(1, 8, 40, 40))
        assert layer._packed is None
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        assert layer._packed is None
        layer.double()(x.double())
        assert layer._packed is None
        large = made(512, 512, 3, padding=1)
        large(torch.randn(1, 512, 1, 1))
        assert large._packed is None


def test_copies_and_files_do_not_hold_the_kept_kernel() -> None:
    layer = made(8, 8, 3, padding=1)
    with torch.no_grad():
        layer(torch.randn(1, 8, 4, 4))
    assert layer._packed is not None
    assert copy.deepcopy(layer)._packed is None
    assert set(layer.state_dict()) == {"weight", "bias"} == set(nn.Conv2d(8, 8, 3).state_dict())
