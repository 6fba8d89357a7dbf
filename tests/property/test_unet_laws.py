"""Laws of the U-Net: rows do not mix, caches and checkpointing change nothing, times work row by row."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.models.unet import UNet, UNetConfig

CONFIG = UNetConfig(
    3, 3, (8, 16), num_heads=2, context_dim=6, norm_groups=4, blocks_per_level=1, transformer_depth=(1, 2)
)


def moving(config: UNetConfig) -> UNet:
    """Build a network whose zero-initialised layers speak."""
    random = torch.Generator().manual_seed(0)
    unet = UNet(config)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.1)
    return unet


UNET = moving(CONFIG)
CHANNELS_LAST = copy.deepcopy(UNET).to(memory_format=torch.channels_last)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def inputs(seed: int, rows: int, height: int = 4, width: int = 4, length: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Draw latents, times and context."""
    random = torch.Generator().manual_seed(seed)
    x_t = torch.randn(rows, 3, height, width, generator=random)
    t = torch.randint(0, 1000, (rows,), generator=random)
    return x_t, t, torch.randn(rows, length, 6, generator=random)


@settings(max_examples=6)
@given(st.integers(0, 999), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 7))
def test_a_prepared_context_gives_the_same_numbers(seed: int, rows: int, high: int, wide: int, length: int) -> None:
    x_t, t, context = inputs(seed, rows, 2 * high, 2 * wide, length)
    with torch.no_grad():
        expected = UNET(x_t, t, context)
        assert expected.shape == x_t.shape
        assert torch.equal(UNET(x_t, t, UNET.prepare_context(context)), expected)


@settings(max_examples=6)
@given(st.integers(0, 999), st.integers(2, 4))
def test_rows_do_not_depend_on_their_neighbours(seed: int, rows: int) -> None:
    x_t, t, context = inputs(seed, rows)
    with torch.no_grad():
        together = UNET(x_t, t, context)
        alone = torch.cat([UNET(x_t[i : i + 1], int(t[i]), context[i : i + 1]) for i in range(rows)])
    torch.testing.assert_close(together, alone, **CLOSE)


@settings(max_examples=4)
@given(st.integers(0, 999), st.integers(0, 998))
def test_fractional_times_lie_between_whole_ones(seed: int, t: int) -> None:
    x_t, _, context = inputs(seed, 1)
    with torch.no_grad():
        low, middle, high = (UNET(x_t, time, context) for time in (t, t + 0.5, t + 1))
    assert (middle - low).norm() < 3 * (high - low).norm() + 1e-5


@settings(max_examples=4)
@given(st.integers(0, 999))
def test_memory_layout_does_not_matter(seed: int) -> None:
    x_t, t, context = inputs(seed, 2)
    with torch.no_grad():
        expected = UNET(x_t, t, context)
        torch.testing.assert_close(CHANNELS_LAST(x_t, t, context), expected, **CLOSE)
        torch.testing.assert_close(
            UNET(x_t.contiguous(memory_format=torch.channels_last), t, context), expected, **CLOSE
        )
        assert expected.is_contiguous()


@pytest.mark.parametrize("context_dim", [6, None])
def test_checkpointing_gives_the_same_gradients(context_dim: int | None) -> None:
    unet = moving(dataclasses.replace(CONFIG, context_dim=context_dim, dropout=0.3, resblock_updown=True)).train()
    x_t, t, context = inputs(1, 2)
    gradients = []
    for unet.gradient_checkpointing in (False, True):
        unet.zero_grad()
        torch.manual_seed(7)
        condition = (context,) if context_dim else ()
        unet(x_t, t, *condition).square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in unet.named_parameters()})
    for name, gradient in gradients[0].items():
        assert bool(gradient.isfinite().all())
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-7, rtol=1e-5, msg=name)


def test_checkpointing_works_when_only_the_context_learns() -> None:
    unet = moving(CONFIG).requires_grad_(False)
    unet.gradient_checkpointing = True
    x_t, t, context = inputs(1, 2)
    context.requires_grad_()
    unet(x_t, t, context).square().mean().backward()
    assert context.grad is not None
    assert float(context.grad.norm()) > 0


def test_every_condition_changes_the_output() -> None:
    unet = moving(dataclasses.replace(CONFIG, num_classes=3, vector_width=4, concat_channels=2))
    x_t, t, context = inputs(1, 1)
    parts = {"class_labels": torch.tensor([0]), "vector": torch.zeros(1, 4), "concat": torch.zeros(1, 2, 4, 4)}
    others = {"class_labels": torch.tensor([2]), "vector": torch.ones(1, 4), "concat": torch.ones(1, 2, 4, 4)}
    with torch.no_grad():
        base = unet(x_t, t, context, **parts)
        assert not torch.allclose(base, unet(x_t, t, context + 1, **parts))
        assert not torch.allclose(base, unet(x_t, t + 1, context, **parts))
        for name in parts:
            assert not torch.allclose(base, unet(x_t, t, context, **{**parts, name: others[name]})), name
