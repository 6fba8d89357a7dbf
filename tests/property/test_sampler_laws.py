"""Laws of samplers, on cases whose answer is known: a perfect denoiser and a Gaussian data set."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from sfumato.diffusion.levels import SPACINGS, Level, spaced_levels
from sfumato.diffusion.process import q_sample
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.samplers import SAMPLERS

SCHEDULES = {zero: Schedule(ScheduleConfig(zero_terminal_snr=zero)) for zero in (False, True)}
MEAN, STD = 0.7, 0.5
ODE_ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "plms": 2, "dpm++2m": 2, "unipc": 3}


def normal(seed: int, shape: tuple[int, ...] = (1, 2, 3, 3)) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def drawing(shape: tuple[int, ...] = (1, 2, 3, 3)) -> Callable[[int], Tensor]:
    return lambda step: normal(1000 + step, shape)


def gaussian_denoise(x_t: Tensor, level: Level) -> Tensor:
    """The exact mean of x_0 given x_t when the data are N(MEAN, STD²)."""
    gain = level.alpha * STD**2 / (level.alpha**2 * STD**2 + level.sigma**2)
    return MEAN + gain * (x_t - level.alpha * MEAN)


def gaussian_flow(x_t: Tensor, level: Level, end: Level) -> Tensor:
    """Where the probability flow of the same data carries x_t: standardised values do not change."""
    spreads = [math.hypot(at.alpha * STD, at.sigma) for at in (level, end)]
    return end.alpha * MEAN + spreads[1] / spreads[0] * (x_t - level.alpha * MEAN)


def levels_even_in_log_snr(steps: int, first: float = -3.0, last: float = 3.0) -> list[Level]:
    """Levels whose log(alpha / sigma) is evenly spaced."""
    lambdas = np.linspace(first, last, steps + 1)
    return [
        Level(float(steps - i), 1 / math.hypot(1, math.exp(-x)), 1 / math.hypot(1, math.exp(x)))
        for i, x in enumerate(lambdas)
    ]


@pytest.mark.parametrize("name", SAMPLERS)
@given(
    st.booleans(),
    st.integers(1, 30),
    st.sampled_from(SPACINGS),
    st.booleans(),
    st.floats(0.05, 1.0),
    st.integers(0, 99),
)
def test_a_perfect_denoiser_is_followed_back_to_x_0(
    name: str, zero: bool, steps: int, spacing: str, karras: bool, strength: float, seed: int
) -> None:
    levels = spaced_levels(SCHEDULES[zero], steps, spacing, karras=karras, strength=strength)
    x_0 = normal(seed)
    x_t = q_sample(x_0, normal(seed + 1), levels[0].alpha, levels[0].sigma)
    *_, last = SAMPLERS[name](lambda x_t, level: x_0, x_t, levels, draw=drawing())
    torch.testing.assert_close(last.x_t, x_0, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["ddim", "euler", "heun", "plms", "dpm++2m", "unipc"])
def test_a_perfect_denoiser_keeps_the_noise_of_the_start_on_the_way(name: str) -> None:
    levels = spaced_levels(SCHEDULES[True], 8)
    x_0, eps = normal(1), normal(2)
    for step in SAMPLERS[name](lambda x_t, level: x_0, eps, levels, draw=drawing()):
        level = levels[step.step + 1]
        torch.testing.assert_close(step.x_t, q_sample(x_0, eps, level.alpha, level.sigma))


@pytest.mark.parametrize(("name", "order"), ODE_ORDERS.items())
def test_samplers_converge_at_their_order_on_a_gaussian(name: str, order: int) -> None:
    x_t = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(1, 2, 2, 2)
    counts, errors = [20, 40, 80, 160], []
    for steps in counts:
        levels = levels_even_in_log_snr(steps)
        *_, last = SAMPLERS[name](gaussian_denoise, x_t, levels, draw=drawing())
        errors.append(float((last.x_t - gaussian_flow(x_t, levels[0], levels[-1])).abs().max()))
    slope = -float(np.polyfit(np.log(counts), np.log(errors), 1)[0])
    assert slope == pytest.approx(order, abs=0.15), errors


@pytest.mark.parametrize("name", ["heun", "dpm++2m", "unipc"])
@pytest.mark.parametrize("zero", [False, True])
def test_higher_orders_beat_ddim_on_a_trained_schedule(name: str, zero: bool) -> None:
    levels = spaced_levels(SCHEDULES[zero], 20, karras=True)
    x_t = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(1, 2, 2, 2)
    exact = gaussian_flow(x_t, levels[0], levels[-1])

    def error(sampler: str) -> float:
        *_, last = SAMPLERS[sampler](gaussian_denoise, x_t, levels, draw=drawing())
        return float((last.x_t - exact).abs().max())

    assert error(name) < 0.4 * error("ddim")


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(("name", "steps"), [("ddpm", 400), ("euler-ancestral", 400), ("dpm++2m-sde", 60)])
def test_stochastic_samplers_give_the_distribution_of_the_data(name: str, steps: int, zero: bool) -> None:
    shape = (1, 1, 96, 96)
    levels = spaced_levels(SCHEDULES[zero], steps, karras=True)
    x_t = gaussian_start(levels[0], shape)
    *_, last = SAMPLERS[name](gaussian_denoise, x_t, levels, draw=drawing(shape))
    assert float(last.x_t.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(last.x_t.std()) == pytest.approx(STD, rel=0.03)


def gaussian_start(level: Level, shape: tuple[int, ...]) -> Tensor:
    """Data noised to a level."""
    return q_sample(MEAN + STD * normal(1, shape), normal(2, shape), level.alpha, level.sigma)


def final(name: str, **options: float) -> Tensor:
    levels = spaced_levels(SCHEDULES[True], 12)
    *_, last = SAMPLERS[name](
        lambda x_t, level: torch.tanh(x_t + level.alpha), normal(3), levels, draw=drawing(), **options
    )
    return last.x_t


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_samplers_that_are_the_same_in_theory_are_the_same(eta: float) -> None:
    torch.testing.assert_close(final("euler"), final("ddim"))
    torch.testing.assert_close(final("euler-ancestral", eta=eta), final("ddim", eta=eta))
    torch.testing.assert_close(final("ddpm"), final("ddim", eta=1.0))
    torch.testing.assert_close(final("dpm++2m-sde", eta=0.0), final("dpm++2m"))


@pytest.mark.parametrize("name", SAMPLERS)
def test_alpha_zero_is_the_limit_of_small_alpha(name: str) -> None:
    levels = spaced_levels(SCHEDULES[True], 10)

    def first_step(alpha: float) -> Tensor:
        first = Level(999.0, alpha, math.sqrt(1 - alpha**2))
        run = SAMPLERS[name](
            lambda x_t, level: torch.tanh(x_t + level.alpha), normal(3), [first, *levels[1:]], draw=drawing()
        )
        return next(run).x_t

    exact = first_step(0.0)
    errors = [float((first_step(alpha) - exact).abs().max()) for alpha in (1e-4, 1e-6)]
    assert errors[0] < 1e-2
    assert errors[1] < 1e-4


@pytest.mark.parametrize("name", ["heun", "plms", "dpm++2m", "unipc"])
@pytest.mark.parametrize("steps", [4, 20, 250])
def test_a_schedule_that_ends_in_nearly_pure_noise_is_followed(name: str, steps: int) -> None:
    """The cosine schedule ends at sigma / alpha of some 20,000; its first step must not blow errors of x_0 up."""
    levels = spaced_levels(Schedule(ScheduleConfig(kind="cosine")), steps)
    assert levels[0].alpha > 0 and levels[0].noise_to_signal > 1000
    x_t = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(1, 2, 2, 2)
    exact = gaussian_flow(x_t, levels[0], levels[-1])

    def error(sampler: str) -> float:
        *_, last = SAMPLERS[sampler](gaussian_denoise, x_t, levels, draw=drawing())
        return float((last.x_t - exact).abs().max())

    assert error(name) < 1.05 * error("ddim")


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_does_not_depend_on_its_neighbours(name: str) -> None:
    levels = spaced_levels(SCHEDULES[True], 6)

    def run(rows: slice) -> Tensor:
        def draw(step: int) -> Tensor:
            return normal(50 + step, (3, 2, 3, 3))[rows]

        def denoise(x_t: Tensor, level: Level) -> Tensor:
            return torch.tanh(x_t + level.alpha)

        *_, last = SAMPLERS[name](denoise, normal(4, (3, 2, 3, 3))[rows], levels, draw=draw)
        return last.x_t

    assert torch.equal(run(slice(0, 3))[1:2], run(slice(1, 2)))
