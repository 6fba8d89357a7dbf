"""Which noise levels a run visits: spacings of the training times, Karras spacing, strength for picture-to-picture."""

from __future__ import annotations

import math

from sfumato.diffusion.noise_level import CLEAN, LARGEST_RATIO, Denoise, Level, is_nearly_noise, noise_decay
from sfumato.diffusion.schedules import Schedule
from sfumato.errors import ConfigError

__all__ = ["CLEAN", "SPACINGS", "Denoise", "Level", "noise_decay", "spaced_levels", "spaced_times"]

SPACINGS = ("trailing", "leading", "linspace")
KARRAS_RHO = 7.0
_ROUNDING = 1e-9  # 0.58 of 50 steps are 29, though floats say 28.999…


def spaced_levels(
    schedule: Schedule,
    steps: int,
    spacing: str = "trailing",
    *,
    karras: bool = False,
    strength: float = 1.0,
    offset: int = 0,
) -> list[Level]:
    """Choose the levels that a run of `steps` steps visits.

    All spacings give exactly `steps` different times for every number of steps from 1 to T, and the last step always
    ends at the clean latents.

    - `trailing`: `round(T (S - i) / S) - 1`; starts at T - 1, the level that zero terminal SNR needs ([lin2023]
      tab. 2).
    - `linspace`: evenly from T - 1 down to 0.
    - `leading`: `floor(T i / S) + offset`, descending; ends at `offset` and starts below T - 1. Stable Diffusion v1
      was published with `offset=1` ([rombach2022] code: 981, 961, … 1 for 50 steps).

    Args:
        schedule: The training schedule.
        steps: Number of steps S of a full run, 1 to T.
        spacing: `trailing`, `leading` or `linspace`; not used with `karras`.
        karras: Space evenly in `(sigma / alpha)^(1/7)` from t = T - 1 to t = 0 instead ([karras2022] eq. 5).
        strength: Share of the run to keep, in (0, 1]: 1 is a full run, less keeps the last `max(1, floor(S strength))`
            steps, never all, so that something of a picture is left in the first level; a single step starts at
            `round(T strength) - 1` then. For picture-to-picture, noise the picture to the first returned level.
        offset: Added to the times of `leading`.

    Returns:
        Levels, noisiest first, `CLEAN` last: `steps + 1` of them at strength 1.

    Raises:
        ConfigError: A value is out of range or the spacing is unknown.
    """
    total = schedule.num_train_steps
    if not 1 <= steps <= total:
        raise ConfigError(f"steps is {steps}; needed: 1 to {total}, the training steps of the schedule.", field="steps")
    if not 0 < strength <= 1:
        raise ConfigError(f"strength is {strength}; needed: more than 0, at most 1.", field="strength")
    _check_spacing(spacing)
    if karras:
        levels = _karras_levels(schedule, steps)
    else:
        levels = [schedule.level(float(t)) for t in spaced_times(total, steps, spacing, offset)]
    if strength == 1:
        return [*levels, CLEAN]
    if steps == 1:
        return [schedule.level(float(max(0, round(total * strength) - 1))), CLEAN]
    kept = max(1, math.floor(steps * strength + _ROUNDING))
    return [*levels[steps - kept :], CLEAN]


def spaced_times(total: int, steps: int, spacing: str, offset: int = 0) -> list[int]:
    """Return `steps` strictly falling times in [0, total); see `spaced_levels` for the rules.

    Args:
        total: Number of training steps T.
        steps: Number of times, 1 to T.
        spacing: `trailing`, `leading` or `linspace`.
        offset: Added to the times of `leading`.

    Returns:
        Times, largest first.

    Raises:
        ConfigError: The spacing is unknown, or the offset shifts a time out of the schedule.
    """
    _check_spacing(spacing)
    if offset and spacing != "leading":
        raise ConfigError(f"offset is {offset} with spacing {spacing!r}; it applies to 'leading' only.", field="offset")
    counts = range(steps, 0, -1)
    if spacing == "trailing":
        return [_rounded(total * k, steps) - 1 for k in counts]
    if spacing == "linspace":
        return [_rounded((total - 1) * (k - 1), steps - 1) if steps > 1 else total - 1 for k in counts]
    times = [total * (k - 1) // steps + offset for k in counts]
    if times[0] >= total or times[-1] < 0:
        raise ConfigError(
            f"offset {offset} with {steps} leading steps gives times {times[-1]} to {times[0]}; "
            f"needed: 0 to {total - 1}.",
            field="offset",
            hint="Use fewer steps, offset 0, or spacing 'trailing'.",
        )
    return times


def _check_spacing(spacing: str) -> None:
    """Refuse an unknown spacing."""
    if spacing not in SPACINGS:
        raise ConfigError(f"spacing is {spacing!r}; needed: one of {', '.join(SPACINGS)}.", field="spacing")


def _rounded(numerator: int, denominator: int) -> int:
    """Divide and round to the nearest whole number, halves to even, without the errors of floats."""
    whole, rest = divmod(numerator, denominator)
    return whole + (2 * rest > denominator or (2 * rest == denominator and whole % 2 == 1))


def _karras_levels(schedule: Schedule, steps: int) -> list[Level]:
    """Space by [karras2022] eq. 5 between the ends of the schedule.

    The rule needs a finite largest `sigma / alpha`. A schedule that goes beyond 80, the largest of [karras2022] table 1
    (zero terminal SNR is infinite there), keeps its own first level exactly, and the rule covers the rest from 80 down.
    """
    first = schedule.level(schedule.num_train_steps - 1.0)
    exact_first = is_nearly_noise(first)
    count = steps - 1 if exact_first else steps
    largest = min(first.noise_to_signal, LARGEST_RATIO) ** (1 / KARRAS_RHO)
    smallest = schedule.level(0.0).noise_to_signal ** (1 / KARRAS_RHO)
    levels = [first] if exact_first else []
    for i in range(count):
        root = largest + (smallest - largest) * (i / (count - 1) if count > 1 else 0.0)
        alpha_t = 1 / math.sqrt(1 + root ** (2 * KARRAS_RHO))
        levels.append(_level_at(schedule, alpha_t, root**KARRAS_RHO * alpha_t))
    return levels


def _level_at(schedule: Schedule, alpha: float, sigma: float) -> Level:
    """Give `(alpha, sigma)` the training time that the schedule has there."""
    return Level(schedule.time(alpha, sigma), alpha, sigma)
