"""The catalogue of samplers, what they refuse, and inpainting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.levels import CLEAN, Level, spaced_levels
from sfumato.diffusion.process import q_sample
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.errors import ConfigError, ShapeError
from sfumato.runtime.seeding import noise
from sfumato.samplers import SAMPLERS, find_sampler, inpaint

SCHEDULE = Schedule(ScheduleConfig(zero_terminal_snr=True))
LEVELS = spaced_levels(SCHEDULE, 6)
SHAPE = (2, 3, 4, 4)


def draw(step: int) -> Tensor:
    return noise(SHAPE[1:], [1, 2], "sampler", step)


def wobble(x_t: Tensor, level: Level) -> Tensor:
    return torch.tanh(x_t + level.alpha)


def start() -> Tensor:
    return noise(SHAPE[1:], [1, 2])


def test_every_sampler_stands_under_its_own_name() -> None:
    assert all(sampler.name == name for name, sampler in SAMPLERS.items())


@pytest.mark.parametrize(
    ("name", "guess"), [("dimm", "ddim"), ("Euler_Ancestral", "euler-ancestral"), ("dpm++", "dpm++2m")]
)
def test_an_unknown_sampler_is_refused_with_a_guess(name: str, guess: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_sampler(name)
    assert repr(name) in str(caught.value)
    assert f"'{guess}'" in str(caught.value)


def test_find_sampler_returns_the_one_of_the_catalogue() -> None:
    assert find_sampler("unipc") is SAMPLERS["unipc"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_run_counts_its_steps_and_leaves_its_input_alone(name: str) -> None:
    x_t = start()
    steps = list(SAMPLERS[name](wobble, x_t, LEVELS, draw=draw))
    assert [(s.step, s.steps) for s in steps] == [(i, 6) for i in range(6)]
    assert torch.equal(x_t, start())
    assert all(s.x_t.shape == s.x_0.shape == SHAPE and s.x_t.dtype == torch.float32 for s in steps)


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_is_drawn_by_stochastic_samplers_only(name: str) -> None:
    asked: list[int] = []

    def counting(step: int) -> Tensor:
        asked.append(step)
        return draw(step)

    list(SAMPLERS[name](wobble, start(), LEVELS, draw=counting))
    assert asked == ([0, 1, 2, 3, 4] if SAMPLERS[name].stochastic else [])


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_clean_level_is_never_evaluated_and_one_step_is_enough(name: str) -> None:
    for levels in ([LEVELS[0], CLEAN], [LEVELS[3], CLEAN], LEVELS):
        seen: list[Level] = []

        def watching(x_t: Tensor, level: Level, seen: list[Level] = seen) -> Tensor:
            seen.append(level)
            return wobble(x_t, level)

        *_, last = SAMPLERS[name](watching, start(), levels, draw=draw)
        assert CLEAN not in seen
        assert bool(last.x_t.isfinite().all())


def test_nothing_runs_before_the_first_step_is_asked_for_and_close_cancels() -> None:
    seen: list[Level] = []

    def watching(x_t: Tensor, level: Level) -> Tensor:
        seen.append(level)
        return wobble(x_t, level)

    run = SAMPLERS["ddim"](watching, start(), LEVELS, draw=draw)
    assert seen == []
    next(run)
    run.close()  # type: ignore[attr-defined]
    assert len(seen) == 1


def test_options_are_those_of_the_function_and_reach_it() -> None:
    assert SAMPLERS["ddim"].options == {"eta": 0.0}
    assert SAMPLERS["plms"].options == {}
    one, two = (list(SAMPLERS["ddim"](wobble, start(), LEVELS, draw=draw, eta=eta))[-1].x_t for eta in (0.0, 0.5))
    assert not torch.equal(one, two)
    cold = list(SAMPLERS["ddpm"](wobble, start(), LEVELS, draw=draw, temperature=0.0))
    assert not torch.equal(cold[0].x_t, next(SAMPLERS["ddpm"](wobble, start(), LEVELS, draw=draw)).x_t)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddim", {"etta": 1.0}, "Sampler ddim has no option etta; it takes: eta."),
        ("plms", {"eta": 1.0}, "Sampler plms has no option eta; it takes: none."),
        ("ddim", {"eta": 1.5}, "eta is 1.5; needed: 0 to 1."),
        ("euler-ancestral", {"eta": -0.1}, "eta is -0.1; needed: 0 to 1."),
        ("dpm++2m-sde", {"eta": 2.0}, "eta is 2.0; needed: 0 to 1."),
        ("ddpm", {"temperature": -1.0}, "temperature is -1.0; needed: 0 or more."),
        ("ddpm", {"variance": "large"}, "variance is 'large'; needed: posterior or forward."),
        ("lcm", {"boundary_scaling": -1.0}, "boundary_scaling is -1.0; needed: 0 or more."),
    ],
)
def test_unusable_options_are_refused_with_their_values(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        next(SAMPLERS[name](wobble, start(), LEVELS, draw=draw, **options))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (LEVELS[:1], "1 noise levels given; needed: at least 2"),
        ([LEVELS[1], LEVELS[0]], r"levels\[0\] has log SNR .* and levels\[1\] has -inf"),
        ([LEVELS[1], LEVELS[1]], "each level less noisy"),
    ],
)
def test_levels_that_do_not_fall_are_refused(levels: list[Level], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SAMPLERS["ddim"](wobble, start(), levels, draw=draw)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("name", SAMPLERS)
def test_inpainting_holds_the_kept_region_at_every_level_and_exactly_at_the_end(name: str, strength: float) -> None:
    original, eps = noise(SHAPE[1:], [7, 8], "picture"), noise(SHAPE[1:], [7, 8], "hold")
    keep = torch.zeros(1, 1, 4, 4)
    keep[..., :2] = 1
    kept = keep.bool().expand(SHAPE)
    levels = spaced_levels(SCHEDULE, 6, strength=strength)

    def watching(x_t: Tensor, level: Level) -> Tensor:
        known = q_sample(original, eps, level.alpha, level.sigma)
        assert torch.equal(x_t[kept], known[kept])
        return wobble(x_t, level)

    steps = list(inpaint(SAMPLERS[name], watching, start(), levels, draw=draw, original=original, keep=keep, eps=eps))
    for step, level in zip(steps[:-1], levels[1:], strict=False):
        assert torch.equal(step.x_t[kept], q_sample(original, eps, level.alpha, level.sigma)[kept])
    assert torch.equal(steps[-1].x_t[kept], original[kept])
    assert not torch.equal(steps[-1].x_t[~kept], original[~kept])


def test_a_soft_mask_is_refused() -> None:
    keep = torch.full((1, 1, 4, 4), 0.25)
    with pytest.raises(ConfigError, match="keep has values other than 0 and 1"):
        inpaint(SAMPLERS["ddim"], wobble, start(), LEVELS, draw=draw, original=start(), keep=keep, eps=start())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("original", (2, 3, 4, 5), r"original has shape \(2, 3, 4, 5\); needed: \(2, 3, 4, 4\)"),
        ("eps", (1, 3, 4, 4), r"eps has shape \(1, 3, 4, 4\); needed: \(2, 3, 4, 4\)"),
        ("keep", (1, 2, 4, 4), r"keep has shape \(1, 2, 4, 4\); needed: \(2 or 1, 3 or 1, 4, 4\)"),
        ("keep", (4, 4), r"keep has shape \(4, 4\); needed"),
    ],
)
def test_inpainting_refuses_what_does_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    given = {"original": torch.zeros(SHAPE), "keep": torch.zeros(1, 1, 4, 4), "eps": torch.zeros(SHAPE)}
    given[name] = torch.zeros(shape)
    with pytest.raises(ShapeError, match=message):
        inpaint(SAMPLERS["ddim"], wobble, start(), LEVELS, draw=draw, **given)
