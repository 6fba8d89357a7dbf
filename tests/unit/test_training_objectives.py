"""The denoising loss by hand: times, noise, targets, weights, buckets, dropped text."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.training.objectives import (
    DenoisingConfig,
    bucket_means,
    denoising_loss,
    draw_eps,
    draw_times,
    noised,
)

SCHEDULE = Schedule(ScheduleConfig(zero_terminal_snr=True))


def source(seed: int = 0) -> torch.Generator:
    """A source of randomness."""
    return torch.Generator().manual_seed(seed)


def test_uniform_times_cover_every_step_equally() -> None:
    t = draw_times(DenoisingConfig(), 20_000, 10, source())
    assert t.min() == 0 and t.max() == 9
    assert torch.bincount(t).float().div(2000).sub(1).abs().max() < 0.1


@pytest.mark.parametrize(("mean", "middle"), [(0.0, 500), (1.0, 731), (-1.0, 269)])
def test_logit_normal_times_have_their_median_at_the_sigmoid_of_the_mean(mean: float, middle: int) -> None:
    t = draw_times(DenoisingConfig(times="logit_normal", logit_mean=mean), 20_000, 1000, source())
    assert abs(float(t.float().median()) - middle) < 12
    assert t.min() >= 0 and t.max() <= 999


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_a_shift_moves_the_quarters_of_uniform_times(shift: float) -> None:
    t = draw_times(DenoisingConfig(shift=shift), 40_000, 1000, source())
    bounds = [k / 4 / (shift - (shift - 1) * k / 4) for k in range(5)]  # the inverse of the shift at each quarter
    wanted = torch.tensor([high - low for low, high in itertools.pairwise(bounds)])
    assert torch.bincount(t // 250, minlength=4).div(40_000).sub(wanted).abs().max() < 0.01
    assert t.min() >= 0 and t.max() <= 999


def test_a_shift_moves_logit_normal_times() -> None:
    t = draw_times(DenoisingConfig(times="logit_normal", shift=3.0), 20_000, 1000, source())
    assert abs(float(t.float().median()) - 750) < 12


def test_offset_noise_shifts_whole_channels() -> None:
    shape = torch.Size((400, 3, 8, 8))
    plain, offset = (draw_eps(DenoisingConfig(offset_noise=share), shape, source()) for share in (0.0, 0.5))
    assert abs(float(plain.mean((2, 3)).var()) - 1 / 64) < 0.003
    assert abs(float(offset.mean((2, 3)).var()) - (1 / 64 + 0.25)) < 0.03
    difference = offset - plain
    assert torch.allclose(difference, difference.mean((2, 3), keepdim=True).expand(shape), atol=1e-6)


@pytest.mark.parametrize("prediction", ["v", "x_0"])
def test_at_pure_noise_the_network_sees_noise_alone(prediction: Any) -> None:
    x_0, eps = torch.randn(2, 4, 4, 4, generator=source(1)), torch.randn(2, 4, 4, 4, generator=source(2))
    batch = noised(SCHEDULE, prediction, x_0, torch.tensor([999, 0]), eps)
    assert torch.equal(batch.x_t[0], eps[0])
    wanted = -x_0 if prediction == "v" else x_0
    torch.testing.assert_close(batch.wanted[0], wanted[0])


@pytest.mark.parametrize("weighting", ["none", "min_snr"])
def test_a_perfect_answer_costs_nothing_and_a_wrong_one_its_square(weighting: Any) -> None:
    config = DenoisingConfig(weighting=weighting, gamma=5.0)
    x_0, eps = torch.randn(3, 4, 4, 4, generator=source(1)), torch.randn(3, 4, 4, 4, generator=source(2))
    t = torch.tensor([5, 500, 999])
    batch = noised(SCHEDULE, "v", x_0, t, eps)
    weighted, plain = denoising_loss(config, SCHEDULE, "v", batch.wanted, batch)
    assert not weighted.any() and not plain.any()
    weighted, plain = denoising_loss(config, SCHEDULE, "v", batch.wanted + 0.5, batch)
    torch.testing.assert_close(plain, torch.full((3,), 0.25))
    snr = SCHEDULE.snr(t)
    expected = torch.ones(3) if weighting == "none" else snr.clamp(max=5.0) / (snr + 1)
    torch.testing.assert_close(weighted, 0.25 * expected)


def test_every_option_of_the_loss_reaches_it() -> None:
    x_0 = torch.zeros(1, 1, 2, 2)
    batch = noised(SCHEDULE, "x_0", x_0, torch.tensor([500]), torch.ones(1, 1, 2, 2))
    answer = x_0 + 2.0
    values = {
        kind: float(denoising_loss(DenoisingConfig(loss=kind, delta=0.5), SCHEDULE, "x_0", answer, batch)[1])  # type: ignore[arg-type]
        for kind in ("l1", "l2", "huber")
    }
    assert values == pytest.approx({"l1": 2.0, "l2": 4.0, "huber": 0.5 * (2.0 - 0.25)})


def test_buckets_are_quarters_of_the_times_and_empty_ones_are_left_out() -> None:
    t = torch.tensor([0, 249, 250, 999])
    assert bucket_means(torch.tensor([1.0, 3.0, 5.0, 7.0]), t, 1000) == {"loss_t0": 2.0, "loss_t1": 5.0, "loss_t3": 7.0}
