"""Parameterizations, posterior, loss weights and losses against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from sfumato.diffusion.noise_level import CLEAN, Level
from sfumato.diffusion.parameterization import PREDICTIONS, check_prediction, target, to_eps, to_v, to_x_0
from sfumato.diffusion.process import (
    WEIGHTINGS,
    elementwise_loss,
    loss_weight,
    posterior,
    q_sample,
    step_variance,
    transfer,
)
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.errors import ConfigError

SCHEDULE = Schedule(ScheduleConfig())
NOISE = Level(999.0, 0.0, 1.0)


def latents(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_conversions_stay_finite_at_pure_noise() -> None:
    x_0, eps = latents(1), latents(2)
    x_t = q_sample(x_0, eps, 0.0, 1.0)
    v = target("v", x_0, eps, 0.0, 1.0)
    torch.testing.assert_close(v, -x_0)
    torch.testing.assert_close(to_x_0("v", v, x_t, 0.0, 1.0), x_0)
    torch.testing.assert_close(to_eps("x_0", x_0, x_t, 0.0, 1.0), eps)
    torch.testing.assert_close(to_eps("v", v, x_t, 0.0, 1.0), eps)
    torch.testing.assert_close(to_v("x_0", x_0, x_t, 0.0, 1.0), v)


@pytest.mark.parametrize("alpha", [0.0, torch.tensor([0.5, 0.0])])
def test_eps_says_nothing_at_pure_noise_and_is_refused(alpha: float | torch.Tensor) -> None:
    sigma = 1.0 if isinstance(alpha, float) else torch.ones(2)
    for act in (
        lambda: to_x_0("eps", latents(1), latents(2), alpha, sigma),
        lambda: to_v("eps", latents(1), latents(2), alpha, sigma),
        lambda: target("eps", latents(1), latents(2), alpha, sigma),
    ):
        with pytest.raises(ConfigError, match="eps prediction cannot be .* at alpha 0.*prediction 'v'"):
            act()


@pytest.mark.parametrize("sigma", [0.0, torch.tensor([0.5, 0.0])])
def test_noise_cannot_be_read_off_clean_latents(sigma: float | torch.Tensor) -> None:
    alpha = 1.0 if isinstance(sigma, float) else torch.ones(2)
    with pytest.raises(ConfigError, match="eps cannot be found from x_0 at sigma 0"):
        to_eps("x_0", latents(1), latents(2), alpha, sigma)
    with pytest.raises(ConfigError, match="v cannot be found from x_0 at sigma 0"):
        to_v("x_0", latents(1), latents(2), alpha, sigma)


def test_an_unknown_prediction_is_refused() -> None:
    with pytest.raises(ConfigError, match="prediction is 'score'; needed: one of eps, x_0, v"):
        check_prediction("score")


@pytest.mark.parametrize("t", [1, 10, 500, 999])
def test_posterior_of_neighbours_is_that_of_ho2020(t: int) -> None:
    beta, cumprod, before = (
        float(x) for x in (SCHEDULE.betas[t], SCHEDULE.alphas_cumprod[t], SCHEDULE.alphas_cumprod[t - 1])
    )
    x_0, x_t = latents(1), latents(2)
    mean, variance = posterior(x_0, x_t, SCHEDULE.level(float(t)), SCHEDULE.level(float(t - 1)))
    of_x_0 = math.sqrt(before) * beta / (1 - cumprod)
    of_x_t = math.sqrt(1 - beta) * (1 - before) / (1 - cumprod)
    torch.testing.assert_close(mean, of_x_0 * x_0 + of_x_t * x_t, rtol=1e-9, atol=1e-12)
    assert variance == pytest.approx((1 - before) / (1 - cumprod) * beta, rel=1e-9)
    assert step_variance(SCHEDULE.level(float(t)), SCHEDULE.level(float(t - 1))) == pytest.approx(beta, rel=1e-9)


def test_posterior_at_the_ends() -> None:
    x_0, x_t, level = latents(1), latents(2), Level(5.0, 0.6, 0.8)
    mean, variance = posterior(x_0, x_t, NOISE, level)
    torch.testing.assert_close(mean, 0.6 * x_0)
    assert variance == pytest.approx(0.64)
    mean, variance = posterior(x_0, x_t, level, CLEAN)
    torch.testing.assert_close(mean, x_0)
    assert variance == 0.0


def test_transfer_to_the_clean_level_is_x_0_exactly() -> None:
    assert torch.equal(transfer(latents(1), latents(2), Level(5.0, 0.6, 0.8), CLEAN), latents(2))


def test_min_snr_weights() -> None:
    snr = torch.tensor([0.0, 1.0, 5.0, 20.0])
    assert loss_weight("min_snr", snr, "eps").tolist() == pytest.approx([1.0, 1.0, 1.0, 0.25])
    assert loss_weight("min_snr", snr, "v").tolist() == pytest.approx([0.0, 0.5, 5 / 6, 5 / 21])
    assert loss_weight("min_snr", snr, "x_0").tolist() == pytest.approx([0.0, 1.0, 5.0, 5.0])


def test_debiased_weights() -> None:
    snr = torch.tensor([0.25, 4.0])
    assert loss_weight("debiased", snr, "eps").tolist() == pytest.approx([2.0, 0.5])
    assert loss_weight("debiased", snr, "v").tolist() == pytest.approx([0.4, 0.4])
    assert loss_weight("debiased", snr, "x_0").tolist() == pytest.approx([0.5, 2.0])


@pytest.mark.parametrize("kind", WEIGHTINGS)
def test_a_weight_means_the_same_error_of_x_0_for_every_prediction(kind: str) -> None:
    if kind == "none":
        assert all(loss_weight("none", torch.tensor([0.3]), p).item() == 1 for p in PREDICTIONS)
        return
    level = SCHEDULE.level(300.0)
    snr = torch.tensor([level.snr], dtype=torch.float64)
    x_0, guess = latents(1)[:1], latents(2)[:1]
    x_t = q_sample(x_0, latents(3)[:1], level.alpha, level.sigma)
    losses = []
    for prediction, convert in (("x_0", None), ("eps", to_eps), ("v", to_v)):
        pair = [x if convert is None else convert("x_0", x, x_t, level.alpha, level.sigma) for x in (guess, x_0)]
        weight = loss_weight(kind, snr, prediction)
        losses.append(float(weight * elementwise_loss("l2", *pair).mean()))
    assert losses == pytest.approx([losses[0]] * 3)


def test_losses_by_hand() -> None:
    output, wanted = torch.tensor([0.5, -3.0, 0.0]), torch.zeros(3)
    assert elementwise_loss("l1", output, wanted).tolist() == pytest.approx([0.5, 3.0, 0.0])
    assert elementwise_loss("l2", output, wanted).tolist() == pytest.approx([0.25, 9.0, 0.0])
    assert elementwise_loss("huber", output, wanted, 1.0).tolist() == pytest.approx([0.125, 2.5, 0.0])
    smooth = [4 * (math.sqrt(1 + (d / 2) ** 2) - 1) for d in (0.5, 3.0, 0.0)]
    assert elementwise_loss("pseudo_huber", output, wanted, 2.0).tolist() == pytest.approx(smooth)


def test_pseudo_huber_has_a_gradient_at_zero() -> None:
    output = torch.zeros(1, requires_grad=True)
    elementwise_loss("pseudo_huber", output, torch.zeros(1)).sum().backward()
    assert output.grad is not None
    assert output.grad.item() == 0.0


def test_unusable_loss_options_are_refused_with_their_values() -> None:
    snr, x = torch.tensor([0.0, 1.0]), torch.zeros(1)
    with pytest.raises(ConfigError, match="gamma is -1.0"):
        loss_weight("min_snr", snr, "v", -1.0)
    with pytest.raises(ConfigError, match="infinite at SNR 0.*prediction 'v'"):
        loss_weight("debiased", snr, "eps")
    with pytest.raises(ConfigError, match="loss weight is 'snr'; needed: one of none, min_snr, debiased"):
        loss_weight("snr", snr, "v")
    with pytest.raises(ConfigError, match="loss is 'l3'; needed: one of l1, l2, huber, pseudo_huber"):
        elementwise_loss("l3", x, x)
    with pytest.raises(ConfigError, match="delta is 0.0"):
        elementwise_loss("huber", x, x, 0.0)
