"""Activations that are computed again for the gradient: bit for bit the plain ones, and only their input is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.nn import recomputed
from sfumato.nn.attention import FeedForward
from sfumato.nn.recomputed import geglu, norm_silu

PRECISIONS = [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True), (torch.bfloat16, True)]


def computing(autocast: bool) -> AbstractContextManager[None]:
    return torch.autocast("cpu", torch.bfloat16, enabled=autocast)


def same_bits(ours: Callable[[], Tensor], plain: Callable[[], Tensor], inputs: list[Tensor], autocast: bool) -> None:
    with computing(autocast):
        out, wanted = ours(), plain()
    assert torch.equal(out, wanted) and out.dtype == wanted.dtype and out.stride() == wanted.stride()
    grads = [torch.randn_like(wanted)]
    if wanted.ndim == 4:  # a gradient may lie in memory in another order than the map
        grads += [grads[0].contiguous(), grads[0].contiguous(memory_format=torch.channels_last)]
    for grad in grads:
        mine = torch.autograd.grad(out, inputs, grad, retain_graph=True)
        theirs = torch.autograd.grad(wanted, inputs, grad, retain_graph=True)
        for one, other in zip(mine, theirs, strict=True):
            assert torch.equal(one, other) and one.dtype == other.dtype


@pytest.mark.parametrize(("dtype", "autocast"), PRECISIONS)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_norm_and_silu(dtype: torch.dtype, autocast: bool, memory: torch.memory_format) -> None:
    norm = nn.GroupNorm(4, 16, eps=1e-6).to(torch.float32 if autocast else dtype)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(3, 16, 6, 5, dtype=dtype).contiguous(memory_format=memory).requires_grad_()
    same_bits(lambda: norm_silu(norm, x), lambda: F.silu(norm(x)), [x, norm.weight, norm.bias], autocast)
    part = x[:, :, 1:, ::2]  # a view with gaps
    with computing(autocast):
        assert torch.equal(norm_silu(norm, part), F.silu(norm(part)))


@pytest.mark.parametrize(("dtype", "autocast"), PRECISIONS)
def test_geglu(dtype: torch.dtype, autocast: bool) -> None:
    x = torch.randn(2, 5, 12, dtype=dtype, requires_grad=True)
    same_bits(lambda: geglu(x), lambda: x[..., :6] * F.gelu(x[..., 6:]), [x], autocast)


def test_the_input_alone_is_kept() -> None:
    norm, x = nn.GroupNorm(4, 16), torch.randn(2, 16, 8, 8, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        norm_silu(norm, x)
        large = {tensor.data_ptr() for tensor in kept if tensor.numel() >= x.numel()}
        assert large == {x.data_ptr()}
        kept.clear()
        tokens = x.flatten(2)
        geglu(tokens)
        assert {tensor.data_ptr() for tensor in kept} == {tokens.data_ptr()}


def test_frozen_norms_have_no_gradient() -> None:
    norm, x = nn.GroupNorm(4, 16).requires_grad_(False), torch.randn(2, 16, 8, 8, requires_grad=True)
    norm_silu(norm, x).sum().backward()
    assert x.grad is not None and norm.weight.grad is None


def test_feed_forward_of_many_tokens_is_that_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = FeedForward(8), torch.randn(2, 50, 8)
    wanted = layer(x)
    longest = []
    layer.net[0].register_forward_hook(lambda _layer, args, _out: longest.append(args[0].shape[1]))
    monkeypatch.setattr("sfumato.nn.attention._PART_NUMBERS", 8 * 8 * 20)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), wanted)
    assert longest == [17, 17, 16]
    layer(x)
    assert longest[3:] == [50]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_where_kernels_take_one_type_a_narrow_map_is_widened(
    memory: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    norm = nn.GroupNorm(4, 16)
    nn.init.normal_(norm.weight)
    x = torch.randn(3, 16, 6, 5).to(torch.bfloat16).contiguous(memory_format=memory).requires_grad_()
    monkeypatch.setattr(recomputed, "_widened", lambda x, weight: x.to(weight.dtype))
    out = norm_silu(norm, x)
    wide = x.detach().float().requires_grad_()
    wanted = F.silu(norm(wide))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wanted, atol=0.02, rtol=0.01)
    grad = torch.randn_like(wanted)
    mine = torch.autograd.grad(out, [x, norm.weight], grad.to(torch.bfloat16))
    theirs = torch.autograd.grad(wanted, [wide, norm.weight], grad.to(torch.bfloat16).float())
    assert mine[0].dtype == torch.bfloat16
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.03, rtol=0.02)
