"""Convolutions by tiles: the same as the direct ones, forth and back, however they are split."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sfumato.nn import winograd
from sfumato.nn.blocks import ResBlock
from sfumato.nn.convolution import Conv3x3, best_tile
from sfumato.nn.winograd import Tile, convolve, convolve_back


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("tile", [2, 4])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (5, 10), (12, 3)])
@pytest.mark.parametrize("numbers", [2**22, 700, 1])
def test_tiles_give_the_convolution_and_its_gradient(
    tile: Tile, size: tuple[int, int], numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, in several parts of rows and of channels, and one row and channel at a time."""
    monkeypatch.setattr(winograd, "_INPUT_NUMBERS", numbers)
    monkeypatch.setattr(winograd, "_KERNEL_NUMBERS", numbers)
    x, weight, bias = drawn(3, 6, *size), drawn(10, 6, 3, 3, seed=1) / 54**0.5, drawn(10, seed=2)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    grad = drawn(*wanted.shape, seed=3)
    wanted_back = F.conv_transpose2d(grad.double(), weight.double(), padding=1)
    for kernel in (weight, channels_last(weight)):
        for given, above in ((x, grad), (channels_last(x), channels_last(grad))):
            out, back = convolve(given, kernel, bias, tile), convolve_back(above, kernel, tile)
            torch.testing.assert_close(out.double(), wanted, rtol=0, atol=1e-5)
            torch.testing.assert_close(back.double(), wanted_back, rtol=0, atol=1e-5)
            assert out.is_contiguous(memory_format=torch.channels_last)
            assert back.is_contiguous(memory_format=torch.channels_last)


def test_layer_has_the_gradients_of_the_direct_convolution() -> None:
    layer, x = Conv3x3(128, 136), drawn(2, 128, 32, 34).requires_grad_()
    assert best_tile(x, layer.weight) == 4
    direct = F.conv2d(x, layer.weight, layer.bias, padding=1)
    grad = drawn(*direct.shape, seed=1)
    ours = torch.autograd.grad(layer(x), (x, layer.weight, layer.bias), grad)
    for mine, wanted in zip(ours, torch.autograd.grad(direct, (x, layer.weight, layer.bias), grad), strict=True):
        torch.testing.assert_close(mine / wanted.std(), wanted / wanted.std(), rtol=0, atol=1e-4)


def test_only_what_is_asked_for_has_a_gradient() -> None:
    layer, x = Conv3x3(128, 128), drawn(1, 128, 32, 32)
    layer.bias.requires_grad_(False)
    layer(x).sum().backward()
    assert x.grad is None and layer.bias.grad is None and layer.weight.grad is not None


@pytest.mark.parametrize("frozen", [True, False])
def test_the_map_is_kept_only_for_a_kernel_that_learns(frozen: bool) -> None:
    layer, x = Conv3x3(128, 128), drawn(1, 128, 32, 32).requires_grad_()
    layer.requires_grad_(not frozen)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda t: t):
        layer(x)
    assert (x.data_ptr() in kept) == (not frozen)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_residual_block_learns_as_with_direct_convolutions(
    frozen: bool, checkpointed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, x, time = ResBlock(128, 160, time_width=8), drawn(1, 128, 34, 32), drawn(1, 8, seed=1)
    time.requires_grad_()
    block.requires_grad_(not frozen)
    x.requires_grad_()
    learning = [x, time, *(() if frozen else block.parameters())]

    def gradients() -> tuple[Tensor, ...]:
        out = checkpoint(block, x, time, use_reentrant=False) if checkpointed else block(x, time)
        return torch.autograd.grad(out.square().sum(), learning)

    ours = gradients()
    monkeypatch.setattr("sfumato.nn.convolution.best_tile", lambda x, weight: None)
    for mine, wanted in zip(ours, gradients(), strict=True):
        scale = wanted.abs().max() + 1
        torch.testing.assert_close(mine / scale, wanted / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_row_has_the_same_bytes_alone_and_in_a_batch(rows: int) -> None:
    layer, x = Conv3x3(128, 144), drawn(5, 128, 32, 32)
    with torch.inference_mode():
        assert torch.equal(layer(x)[:rows], layer(x[:rows]))


@pytest.mark.parametrize(
    ("channels", "size", "tile"),
    [(128, (32, 32), 4), (127, (64, 64), None), (512, (16, 16), 2), (511, (16, 16), None), (1280, (8, 8), None)],
)
def test_size_alone_decides(channels: int, size: tuple[int, int], tile: Tile | None) -> None:
    weight = torch.empty(channels, 640, 3, 3)
    for batch in (1, 9):
        x = torch.empty(1).expand(batch, 640, *size)
        assert best_tile(x, weight) == tile
        assert best_tile(x.bfloat16(), weight.bfloat16()) is None
        assert best_tile(x.to("meta"), weight.to("meta")) is None
        with torch.autocast("cpu", torch.bfloat16):
            assert best_tile(x, weight) is None
