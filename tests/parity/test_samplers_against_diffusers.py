"""Every sampler against the scheduler of diffusers, step by step, with the same small random network and noise.

Both run in float64 from the same noise over the same times. What differs is diffusers' tables, which are float32: the
tolerance, relative to the largest latent of a step, is five times the largest difference seen (1e-6).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from sfumato.diffusion.levels import CLEAN, Level, spaced_levels, spaced_times
from sfumato.diffusion.parameterization import Prediction, to_x_0
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.samplers import SAMPLERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 4, 8, 8)
STEPS = 10
TOLERANCE = 5e-6
SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
THEIR_WORD = {"eps": "epsilon", "v": "v_prediction", "x_0": "sample"}


@dataclass(frozen=True)
class Case:
    """One of our samplers, the scheduler that should agree, and what its scheduler is told."""

    sampler: str
    scheduler: str
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    step_options: dict[str, Any] = field(default_factory=dict)
    relative_scale: bool = False  # the scheduler works on x_t / alpha
    predictions: tuple[Prediction, ...] = ("eps", "v")
    steps_compared: int = STEPS

    def __str__(self) -> str:
        options = "-".join(f"{k}={v}" for k, v in {**self.ours, **self.theirs}.items())
        return f"{self.sampler}-{options}"


CASES = [
    Case("ddpm", "DDPMScheduler", theirs={"clip_sample": False}),
    Case(  # their last step, unlike [ho2020] alg. 2, adds noise with this variance
        "ddpm",
        "DDPMScheduler",
        {"variance": "forward"},
        {"clip_sample": False, "variance_type": "fixed_large"},
        steps_compared=STEPS - 1,
    ),
    Case("ddim", "DDIMScheduler", theirs={"clip_sample": False}),
    Case("ddim", "DDIMScheduler", {"eta": 0.5}, {"clip_sample": False}, {"eta": 0.5}),
    Case("ddim", "DDIMScheduler", {"eta": 1.0}, {"clip_sample": False}, {"eta": 1.0}),
    Case("plms", "PNDMScheduler", theirs={"skip_prk_steps": True, "set_alpha_to_one": True}, predictions=("eps",)),
    Case("euler", "EulerDiscreteScheduler", relative_scale=True),
    Case("euler-ancestral", "EulerAncestralDiscreteScheduler", relative_scale=True),
    Case("heun", "HeunDiscreteScheduler", relative_scale=True),
    Case("dpm++2m", "DPMSolverMultistepScheduler", theirs={"algorithm_type": "dpmsolver++"}),
    Case("dpm++2m-sde", "DPMSolverMultistepScheduler", theirs={"algorithm_type": "sde-dpmsolver++"}),
    Case("unipc", "UniPCMultistepScheduler", theirs={"solver_order": 2, "solver_type": "bh2"}),
    Case("lcm", "LCMScheduler", {"boundary_scaling": 10.0}),
]


def network(x_t: Tensor, t: float) -> Tensor:
    """A smooth random map of the latents and the time, in place of a trained network."""
    mix = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    return torch.tanh(0.5 * torch.einsum("oc,bchw->bohw", mix, x_t) + 0.001 * t) + 0.3 * x_t


def noises(count: int) -> list[Tensor]:
    """The noise of each step, exact in float32 because some schedulers round it."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(SHAPE, generator=generator).double() for _ in range(count)]


def make_scheduler(case: Case, prediction: Prediction, **extra: Any) -> Any:
    """Build the scheduler on the schedule of Stable Diffusion with our spacing."""
    options = {
        **SD_BETAS,
        "timestep_spacing": "trailing",
        "prediction_type": THEIR_WORD[prediction],
        **case.theirs,
        **extra,
    }
    scheduler = getattr(diffusers, case.scheduler)(**options)
    scheduler.set_timesteps(STEPS)
    return scheduler


def their_steps(
    case: Case, scheduler: Any, x_t: Tensor, levels: Sequence[Level], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tensor]:
    """Latents after each step of the scheduler, in our scale."""
    draws = iter(noises(4 * STEPS))
    module = __import__(type(scheduler).__module__, fromlist=["randn_tensor"])
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: next(draws))
    calls_a_step = 2 if case.sampler == "heun" else 1
    seen_x_t = x_t / levels[0].alpha if case.relative_scale else x_t
    for call, t in enumerate(scheduler.timesteps):
        output = network(scheduler.scale_model_input(seen_x_t, t), float(t))
        seen_x_t = scheduler.step(output, t, seen_x_t, **case.step_options).prev_sample
        last = call == len(scheduler.timesteps) - 1
        if case.sampler == "plms" and call == 0:
            continue  # the trial half of its first step
        if call % calls_a_step == calls_a_step - 1 or last:
            step = call - 1 if case.sampler == "plms" else call // calls_a_step
            yield seen_x_t * (levels[step + 1].alpha if case.relative_scale else 1.0)


def compare(
    case: Case, prediction: Prediction, scheduler: Any, levels: Sequence[Level], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run both and compare every step."""
    x_t = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def denoise(x_t: Tensor, level: Level) -> Tensor:
        return to_x_0(prediction, network(x_t, level.t), x_t, level.alpha, level.sigma)

    draws = noises(STEPS)
    ours = SAMPLERS[case.sampler](denoise, x_t, levels, draw=draws.__getitem__, **case.ours)
    theirs = their_steps(case, scheduler, x_t, levels, monkeypatch)
    for step, expected in list(zip(ours, theirs, strict=True))[: case.steps_compared]:
        difference = float((step.x_t - expected).abs().max() / expected.abs().max())
        assert difference <= TOLERANCE, f"step {step.step}: {difference:.2e}"


@pytest.mark.parametrize(("case", "prediction"), [(case, p) for case in CASES for p in case.predictions], ids=str)
def test_every_step_equals_that_of_diffusers(
    case: Case, prediction: Prediction, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(ScheduleConfig())
    scheduler = make_scheduler(case, prediction)
    times = dict.fromkeys(float(t) for t in scheduler.timesteps)
    compare(case, prediction, scheduler, [*(schedule.level(t) for t in times), CLEAN], monkeypatch)


ZERO_TERMINAL_SNR = [
    Case("ddpm", "DDPMScheduler", theirs={"clip_sample": False}),
    Case("ddim", "DDIMScheduler", theirs={"clip_sample": False}),
    Case("ddim", "DDIMScheduler", {"eta": 0.5}, {"clip_sample": False}, {"eta": 0.5}),
    Case("euler", "EulerDiscreteScheduler", relative_scale=True),
    Case("euler-ancestral", "EulerAncestralDiscreteScheduler", relative_scale=True),
    Case("dpm++2m", "DPMSolverMultistepScheduler", theirs={"algorithm_type": "dpmsolver++"}),
    Case("dpm++2m-sde", "DPMSolverMultistepScheduler", theirs={"algorithm_type": "sde-dpmsolver++"}),
    Case("unipc", "UniPCMultistepScheduler", theirs={"solver_order": 2, "solver_type": "bh2"}),
]


@pytest.mark.parametrize("case", ZERO_TERMINAL_SNR, ids=str)
def test_every_step_of_a_zero_terminal_snr_v_model_equals_that_of_diffusers(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = Schedule(ScheduleConfig(zero_terminal_snr=True))
    scheduler = make_scheduler(case, "v", rescale_betas_zero_snr=True)
    levels = spaced_levels(schedule, STEPS, "trailing")
    assert [level.t for level in levels[:-1]] == [float(t) for t in scheduler.timesteps]
    stand_in = float(scheduler.alphas_cumprod[-1])  # some replace the last 0 by 2**-24 to stay finite
    if stand_in > 0:
        levels[0] = Level(levels[0].t, stand_in**0.5, (1 - stand_in) ** 0.5)
    compare(case, "v", scheduler, levels, monkeypatch)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [4, 10, 20, 25, 50, 100, 1000])
def test_spacings_equal_those_of_diffusers(spacing: str, steps: int) -> None:
    scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing, steps_offset=0)
    scheduler.set_timesteps(steps)
    assert spaced_times(1000, steps, spacing) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [5, 10, 30])
def test_karras_levels_equal_those_of_diffusers(steps: int) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**SD_BETAS, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    levels = spaced_levels(Schedule(ScheduleConfig()), steps, karras=True)
    ours = torch.tensor([level.noise_to_signal for level in levels])
    torch.testing.assert_close(ours, scheduler.sigmas, rtol=2e-5, atol=0)
    times = torch.tensor([level.t for level in levels[:-1]])
    # Theirs are linear in log(sigma / alpha) between two times, ours in the angle.
    torch.testing.assert_close(times, scheduler.timesteps.float(), rtol=0, atol=0.2)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_schedules_equal_those_of_diffusers(kind: str, zero_terminal_snr: bool) -> None:
    their_kind = {"cosine": "squaredcos_cap_v2"}.get(kind, kind)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule=their_kind, rescale_betas_zero_snr=zero_terminal_snr
    )
    config = ScheduleConfig(kind, 0.0015, 0.0195, zero_terminal_snr=zero_terminal_snr)
    torch.testing.assert_close(Schedule(config).alphas_cumprod.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=2e-7)
