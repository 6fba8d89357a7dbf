"""Noise levels and spacings: the numbers, the ends, the refusals."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from sfumato.diffusion.levels import CLEAN, Level, noise_decay, spaced_levels, spaced_times
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.errors import ConfigError

SCHEDULE = Schedule(ScheduleConfig())
ZERO = Schedule(ScheduleConfig(zero_terminal_snr=True))


def test_ratios_of_a_level() -> None:
    level = Level(5.0, 0.6, 0.8)
    assert level.snr == pytest.approx(0.5625)
    assert level.log_snr == pytest.approx(math.log(0.5625))
    assert level.noise_to_signal == pytest.approx(4 / 3)


def test_ratios_at_both_ends_are_infinite_not_errors() -> None:
    noise = Level(999.0, 0.0, 1.0)
    assert (noise.snr, noise.log_snr, noise.noise_to_signal) == (0.0, -math.inf, math.inf)
    assert (CLEAN.snr, CLEAN.log_snr, CLEAN.noise_to_signal) == (math.inf, math.inf, 0.0)
    assert noise_decay(noise, Level(1.0, 0.6, 0.8)) == 0.0
    assert noise_decay(Level(1.0, 0.6, 0.8), CLEAN) == 0.0


def test_spacings_by_hand() -> None:
    assert spaced_times(1000, 4, "trailing") == [999, 749, 499, 249]
    assert spaced_times(1000, 4, "linspace") == [999, 666, 333, 0]
    assert spaced_times(1000, 4, "leading") == [750, 500, 250, 0]
    assert spaced_times(1000, 50, "leading", offset=1) == list(range(981, 0, -20))
    assert [spaced_times(1000, 1, s) for s in ("trailing", "linspace", "leading")] == [[999], [999], [0]]


@pytest.mark.parametrize("steps", [30, 300, 400, 1000])
def test_leading_gives_exactly_the_steps_asked_for(steps: int) -> None:
    # The rule of the LDM code gives 31, 334, 500 steps, and 1000 reads past the schedule.
    assert len(spaced_times(1000, steps, "leading")) == steps


def test_a_run_ends_clean_and_trailing_starts_at_the_last_time() -> None:
    levels = spaced_levels(ZERO, 7)
    assert len(levels) == 8
    assert levels[0] == Level(999.0, 0.0, 1.0)
    assert levels[-1] == CLEAN


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading", "karras"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 20])
def test_below_strength_1_something_of_a_picture_is_left(steps: int, spacing: str) -> None:
    """Also where rounding would keep every step: the first level of a full run can be pure noise."""
    options = {"karras": True} if spacing == "karras" else {"spacing": spacing}
    for strength in (0.75, 0.95):
        first, *rest = spaced_levels(
            Schedule(ScheduleConfig(zero_terminal_snr=True)), steps, strength=strength, **options
        )
        assert first.alpha > 0.01 and (spacing == "karras" or first.t <= 1000 * strength)
        assert 1 <= len(rest) < max(2, steps)


@pytest.mark.parametrize(("strength", "kept"), [(1.0, 50), (0.75, 37), (0.58, 29), (0.5, 25), (0.001, 1)])
def test_strength_keeps_the_tail(strength: float, kept: int) -> None:
    full = spaced_levels(SCHEDULE, 50)
    assert spaced_levels(SCHEDULE, 50, strength=strength) == full[50 - kept :]


def test_karras_is_even_in_the_seventh_root_from_end_to_end() -> None:
    levels = spaced_levels(SCHEDULE, 9, karras=True)
    roots = [level.noise_to_signal ** (1 / 7) for level in levels[:-1]]
    gaps = [a - b for a, b in pairwise(roots)]
    assert gaps == pytest.approx([gaps[0]] * 8)
    assert (levels[0].t, levels[-2].t) == (pytest.approx(999.0), pytest.approx(0.0, abs=1e-9))


@pytest.mark.parametrize("schedule", [ZERO, Schedule(ScheduleConfig("cosine"))])
def test_karras_keeps_a_first_level_beyond_its_range_and_goes_on_from_80(schedule: Schedule) -> None:
    levels = spaced_levels(schedule, 6, karras=True)
    assert levels[0] == schedule.level(999.0)
    assert levels[1].noise_to_signal == pytest.approx(80.0)
    assert len(levels) == 7
    assert spaced_levels(schedule, 1, karras=True) == [levels[0], CLEAN]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0; needed: 1 to 1000"),
        ({"steps": 1001}, "steps is 1001; needed: 1 to 1000"),
        ({"steps": 5, "strength": 0.0}, "strength is 0.0; needed: more than 0"),
        ({"steps": 5, "strength": 1.5}, "strength is 1.5; needed: more than 0"),
        ({"steps": 5, "spacing": "even"}, "spacing is 'even'; needed: one of trailing, leading, linspace"),
        ({"steps": 5, "spacing": "even", "karras": True}, "spacing is 'even'"),
        ({"steps": 5, "offset": 1}, "offset is 1 with spacing 'trailing'"),
        ({"steps": 1000, "spacing": "leading", "offset": 1}, "gives times 1 to 1000; needed: 0 to 999"),
    ],
)
def test_unusable_requests_are_refused_with_their_values(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spaced_levels(SCHEDULE, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
