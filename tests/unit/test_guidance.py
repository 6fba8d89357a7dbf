"""Guidance: exact ends, one evaluation where one is enough, stacked batches, rescale, interval."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.guidance import guide, guided, rescale_std
from sfumato.diffusion.noise_level import Level
from sfumato.errors import ConfigError

LEVEL = Level(300.0, 0.6, 0.8)
X_T = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
COND = torch.full((2, 1, 1, 1), 2.0)
UNCOND = torch.full((2, 1, 1, 1), -0.7)


class Counter:
    """A denoise function that multiplies by its condition and remembers the batch sizes that it saw."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x_t: Tensor, level: Level, condition: Tensor) -> Tensor:
        self.batches.append(len(x_t))
        return torch.sin(x_t * condition) + 0.1 * condition


@pytest.mark.parametrize(("scale", "only"), [(1.0, COND), (0.0, UNCOND), (1, COND), (0, UNCOND)])
@pytest.mark.parametrize("stacked", [False, True])
def test_scale_one_and_zero_are_exact_with_one_evaluation(scale: float, only: Tensor, stacked: bool) -> None:
    denoise = Counter()
    stack = (lambda a, b: torch.cat([a, b])) if stacked else None
    out = guided(denoise, COND, UNCOND, float(scale), rescale=0.7, stack=stack)(X_T, LEVEL)
    assert denoise.batches == [2]
    assert torch.equal(out, Counter()(X_T, LEVEL, only))


def test_one_stacked_batch_equals_two_evaluations() -> None:
    two, one = Counter(), Counter()
    apart = guided(two, COND, UNCOND, 7.5)(X_T, LEVEL)
    together = guided(one, COND, UNCOND, 7.5, stack=lambda a, b: torch.cat([a, b]))(X_T, LEVEL)
    assert (two.batches, one.batches) == ([2, 2], [4])
    torch.testing.assert_close(apart, together)


def test_guidance_extrapolates_from_uncond_through_cond() -> None:
    cond, uncond = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), 1.0)
    assert guide(cond, uncond, 7.5).item() == 16.0
    assert guide(cond, uncond, -1.0).item() == -1.0


@pytest.mark.parametrize(("sigma", "evaluations"), [(0.1, 1), (0.3, 2), (0.8, 2), (0.9, 1)])
def test_outside_its_interval_only_cond_is_asked(sigma: float, evaluations: int) -> None:
    denoise = Counter()
    level = Level(1.0, (1 - sigma**2) ** 0.5, sigma)
    out = guided(denoise, COND, UNCOND, 4.0, interval=(0.3, 0.8))(X_T, level)
    assert len(denoise.batches) == evaluations
    assert torch.equal(out, Counter()(X_T, level, COND)) == (evaluations == 1)


def test_rescale_restores_the_deviation_of_cond() -> None:
    cond, guided_x_0 = torch.randn(2, 4, 8, 8), 3 * torch.randn(2, 4, 8, 8) + 0.5
    full = rescale_std(guided_x_0, cond, 1.0)
    torch.testing.assert_close(full.std((1, 2, 3)), cond.std((1, 2, 3)))
    torch.testing.assert_close(rescale_std(guided_x_0, cond, 0.25), 0.25 * full + 0.75 * guided_x_0)
    assert torch.equal(rescale_std(guided_x_0, cond, 0.0), guided_x_0)


def test_rescale_of_constant_latents_is_finite() -> None:
    assert torch.equal(rescale_std(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), 0.7), torch.ones(1, 1, 2, 2))


def test_unusable_options_are_refused_with_their_values() -> None:
    with pytest.raises(ConfigError, match=r"rescale is 1.5; needed: 0 to 1"):
        guided(Counter(), COND, UNCOND, 4.0, rescale=1.5)
    with pytest.raises(ConfigError, match=r"interval is \(0.8, 0.3\)"):
        guided(Counter(), COND, UNCOND, 4.0, interval=(0.8, 0.3))
