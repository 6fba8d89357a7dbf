"""Laws of levels, parameterizations and guidance that hold for all values."""

from __future__ import annotations

import math
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from sfumato.diffusion.guidance import guide
from sfumato.diffusion.levels import CLEAN, SPACINGS, Level, spaced_levels, spaced_times
from sfumato.diffusion.parameterization import PREDICTIONS, target, to_eps, to_v, to_x_0
from sfumato.diffusion.process import posterior, q_sample, transfer
from sfumato.diffusion.schedules import Schedule, ScheduleConfig

KINDS = ("linear", "scaled_linear", "sqrt", "cosine")
angles = st.floats(0.01, math.pi / 2 - 0.01)
seeds = st.integers(0, 10_000)
kinds = st.sampled_from(KINDS)


def latents(seed: int, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def level_of(angle: float, t: float = 1.0) -> Level:
    return Level(t, math.cos(angle), math.sin(angle))


@given(angles, seeds)
def test_eps_x_0_and_v_turn_into_one_another(angle: float, seed: int) -> None:
    level = level_of(angle)
    x_0, eps = latents(seed), latents(seed + 1)
    x_t = q_sample(x_0, eps, level.alpha, level.sigma)
    truth = {p: target(p, x_0, eps, level.alpha, level.sigma) for p in PREDICTIONS}
    for given_as in PREDICTIONS:
        for wanted, convert in (("x_0", to_x_0), ("eps", to_eps), ("v", to_v)):
            out = convert(given_as, truth[given_as], x_t, level.alpha, level.sigma)
            torch.testing.assert_close(out, truth[wanted], rtol=1e-9, atol=1e-9)


@given(angles, angles, seeds)
def test_one_level_a_row_equals_row_by_row(first: float, second: float, seed: int) -> None:
    x_t, output = latents(seed), latents(seed + 1)
    alpha = torch.tensor([math.cos(first), math.cos(second)], dtype=torch.float64)
    sigma = torch.tensor([math.sin(first), math.sin(second)], dtype=torch.float64)
    for prediction in PREDICTIONS:
        for convert in (to_x_0, to_eps, to_v):
            together = convert(prediction, output, x_t, alpha, sigma)
            for row in range(2):
                one = convert(
                    prediction, output[row : row + 1], x_t[row : row + 1], float(alpha[row]), float(sigma[row])
                )
                torch.testing.assert_close(together[row : row + 1], one)


@pytest.mark.parametrize("zero", [False, True])
@given(kinds, st.floats(0, 999))
def test_levels_preserve_variance_and_time_inverts_them(zero: bool, kind: str, t: float) -> None:
    schedule = Schedule(ScheduleConfig(kind, zero_terminal_snr=zero))
    level = schedule.level(t)
    assert level.alpha**2 + level.sigma**2 == pytest.approx(1.0, abs=1e-12)
    if level.alpha > 1e-8:  # below, the angle has no digits left to tell times apart
        assert schedule.time(level.alpha, level.sigma) == pytest.approx(t, abs=1e-4)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_number_of_steps_gives_that_many_falling_times(spacing: str) -> None:
    for steps in range(1, 1001):
        times = spaced_times(1000, steps, spacing)
        assert len(times) == steps
        assert all(a > b for a, b in pairwise(times))
        assert 0 <= times[-1] <= times[0] <= 999
        assert spacing == "leading" or times[0] == 999


@given(kinds, st.integers(1, 60), st.sampled_from(SPACINGS), st.booleans(), st.booleans(), st.floats(0.01, 1.0))
def test_levels_of_any_run_fall_to_clean(
    kind: str, steps: int, spacing: str, karras: bool, zero: bool, strength: float
) -> None:
    schedule = Schedule(ScheduleConfig(kind, zero_terminal_snr=zero))
    levels = spaced_levels(schedule, steps, spacing, karras=karras, strength=strength)
    assert len(levels) == max(1, math.floor(steps * strength + 1e-9)) + 1
    assert levels[-1] == CLEAN
    assert all(a.log_snr < b.log_snr and a.t > b.t for a, b in pairwise(levels))
    assert all(level.alpha**2 + level.sigma**2 == pytest.approx(1.0, abs=1e-12) for level in levels)


@given(angles, seeds, st.floats(-5, 15))
def test_guiding_x_0_is_guiding_eps_and_v(angle: float, seed: int, scale: float) -> None:
    level = level_of(angle)
    x_t, cond, uncond = latents(seed), latents(seed + 1), latents(seed + 2)
    x_0 = guide(cond, uncond, scale)
    for convert in (to_eps, to_v):
        outputs = [convert("x_0", x, x_t, level.alpha, level.sigma) for x in (cond, uncond)]
        there = outputs[1] + scale * (outputs[0] - outputs[1])
        torch.testing.assert_close(convert("x_0", x_0, x_t, level.alpha, level.sigma), there, rtol=1e-7, atol=1e-7)


@given(angles, angles, seeds)
def test_transfer_and_posterior_keep_the_forward_process(first: float, second: float, seed: int) -> None:
    noisy, less = (level_of(a) for a in sorted((first, second + 1e-3 if first == second else second), reverse=True))
    x_0, eps = latents(seed), latents(seed + 1)
    x_t = q_sample(x_0, eps, noisy.alpha, noisy.sigma)
    torch.testing.assert_close(transfer(x_t, x_0, noisy, less), q_sample(x_0, eps, less.alpha, less.sigma))
    # Averaged over eps, the posterior has the mean and variance of q(x_{t'} | x_0).
    mean, variance = posterior(torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), noisy.alpha), noisy, less)
    assert mean.item() == pytest.approx(less.alpha, rel=1e-5)
    of_x_t = posterior(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), noisy, less)[0].item()
    assert of_x_t**2 * noisy.sigma**2 + variance == pytest.approx(less.sigma**2, rel=1e-5)
