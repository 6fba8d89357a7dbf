"""Schedules: published numbers, closed forms, zero terminal SNR, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from sfumato.diffusion.schedules import KINDS, Schedule, ScheduleConfig, rescale_to_zero_terminal_snr
from sfumato.errors import ConfigError


@pytest.mark.parametrize(
    ("beta_start", "beta_end", "last"),
    [
        (0.00085, 0.012, 0.00466),  # Stable Diffusion v1
        (0.0015, 0.0195, 0.000142),  # LDM: faces, bedrooms
        (0.0015, 0.0155, 0.000669),  # LDM: churches
        (0.0015, 0.0205, 0.0000969),  # LDM: inpainting
        (0.0015, 0.015, 0.000813),  # RDM
    ],
)
def test_last_cumprod_equals_the_published_one(beta_start: float, beta_end: float, last: float) -> None:
    schedule = Schedule(ScheduleConfig("scaled_linear", beta_start, beta_end))
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(last, rel=5e-3)


def test_first_cumprod_of_stable_diffusion_is_one_minus_its_first_beta() -> None:
    assert float(Schedule(ScheduleConfig()).alphas_cumprod[0]) == pytest.approx(0.99915, abs=1e-12)


def test_ramps_are_linear_in_what_their_names_say() -> None:
    def betas(kind: str) -> list[float]:
        return Schedule(ScheduleConfig(kind, 0.01, 0.09, num_train_steps=3)).betas.tolist()

    assert betas("linear") == pytest.approx([0.01, 0.05, 0.09])
    assert betas("scaled_linear") == pytest.approx([0.01, 0.04, 0.09])
    assert betas("sqrt") == pytest.approx([0.1, math.sqrt(0.05), 0.3])


def test_cosine_follows_its_formula_and_is_clipped_at_the_end() -> None:
    schedule = Schedule(ScheduleConfig("cosine"))

    def f(t: int) -> float:
        return math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    assert float(schedule.alphas_cumprod[499]) == pytest.approx(f(500) / f(0), rel=1e-12)
    assert float(schedule.betas[-1]) == 0.999


def test_given_betas_are_used_as_they_are() -> None:
    schedule = Schedule(ScheduleConfig("given", num_train_steps=3, betas=(0.1, 0.2, 1.0)))
    assert schedule.betas.dtype == torch.float64
    assert schedule.alphas_cumprod.tolist() == pytest.approx([0.9, 0.72, 0.0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "given"])
def test_zero_terminal_snr_is_exact_and_keeps_the_first_level(kind: str) -> None:
    plain, zero = (Schedule(ScheduleConfig(kind, zero_terminal_snr=z)) for z in (False, True))
    last = zero.level(999.0)
    assert (last.alpha, last.sigma) == (0.0, 1.0)
    assert last.snr == 0.0
    assert float(zero.alphas_cumprod[0]) == pytest.approx(float(plain.alphas_cumprod[0]), rel=1e-12)
    assert bool((zero.alphas_cumprod.diff() < 0).all())


def test_zero_terminal_snr_scales_square_roots_linearly() -> None:
    betas = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    old = torch.cumprod(1 - betas, 0).sqrt()
    new = torch.cumprod(1 - rescale_to_zero_terminal_snr(betas), 0).sqrt()
    middle = (old[1] - old[2]) * old[0] / (old[0] - old[2])
    torch.testing.assert_close(new, torch.stack([old[0], middle, torch.zeros_like(middle)]))


def test_lookups_by_row_agree_with_levels() -> None:
    schedule = Schedule(ScheduleConfig(zero_terminal_snr=True))
    t = torch.tensor([0, 500, 999])
    levels = [schedule.level(float(x)) for x in t]
    for rows, name in ((schedule.alpha(t), "alpha"), (schedule.sigma(t), "sigma"), (schedule.snr(t), "snr")):
        assert rows.dtype == torch.float32
        assert rows.tolist() == pytest.approx([getattr(level, name) for level in levels], rel=1e-6)


def test_alphas_are_one_minus_betas() -> None:
    schedule = Schedule(ScheduleConfig())
    torch.testing.assert_close(schedule.alphas + schedule.betas, torch.ones(1000, dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "quadratic"}, ["'quadratic'", "scaled_linear"]),
        ({"num_train_steps": 0}, ["num_train_steps is 0", "at least 1"]),
        ({"num_train_steps": 1, "zero_terminal_snr": True}, ["num_train_steps is 1", "at least 2"]),
        ({"beta_start": 0.02, "beta_end": 0.01}, ["0.02", "0.01"]),
        ({"betas": (0.1,)}, ["present", "'scaled_linear'"]),
        ({"kind": "given"}, ["missing", "'given'"]),
        ({"kind": "given", "betas": (0.1, 0.2)}, ["2 betas", "1000"]),
        ({"kind": "given", "num_train_steps": 2, "betas": (1.0, 0.2)}, ["betas[0] is 1.0"]),
        ({"kind": "given", "num_train_steps": 2, "betas": (0.1, -0.2)}, ["betas[1] is -0.2"]),
    ],
)
def test_unusable_configurations_are_refused_with_their_values(options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        ScheduleConfig(**options)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("t", [-1.0, 999.5])
def test_times_outside_the_schedule_are_refused(t: float) -> None:
    with pytest.raises(ConfigError, match=f"t is {t}; needed: 0 to 999"):
        Schedule(ScheduleConfig()).level(t)
