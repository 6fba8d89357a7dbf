"""One line of a report: a number with its interval, and what it must be compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from sfumato.runtime.seeding import derive_seed

Interval = tuple[float, float]
Rows = Int[np.ndarray, "_n"]
Truths = Bool[np.ndarray, "_n"]
Statistic = Callable[[Rows], float]

_RESAMPLES = 1000
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447)
"""The 97.5 % points of Student's t distribution for 1 to 6 degrees of freedom."""
_FEW = range(2, len(_T) + 2)
"""Numbers of values whose mean has an interval of Student's t."""


@dataclass(frozen=True)
class Measure:
    """A number that says how good a base is at one thing.

    Attributes:
        name: What is measured.
        value: What the base reaches: a share in [0, 1], or a distance; not a number where it could not be measured.
        count: Number of generated pictures behind it.
        interval: 95 % interval (`mean_interval`); `None` for distances, which resampling biases.
        target: What it should reach.
        ceiling: What real pictures reach, seen through the same instrument; for a distance, the floor.
        chance: What guessing reaches.
        is_distance: Whether less is better.
    """

    name: str
    value: float
    count: int
    interval: Interval | None = None
    target: float | None = None
    ceiling: float | None = None
    chance: float | None = None
    is_distance: bool = False

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is met; `None` without a target or a value."""
        if self.target is None or math.isnan(self.value):
            return None
        return self.value <= self.target if self.is_distance else self.value >= self.target


def share(
    name: str,
    right: Sequence[bool],
    *,
    target: float | None = None,
    ceiling: float | None = None,
    chance: float | None = None,
    seed: int = 0,
) -> Measure:
    """Measure how many answers are right.

    Args:
        name: What is measured.
        right: One truth value per picture, at least one.
        target: What it should reach.
        ceiling: What real pictures reach.
        chance: What guessing reaches.
        seed: Decides the resampling.
    """
    values = [float(answer) for answer in right]
    low, high = mean_interval(values, seed)
    interval = max(0.0, low), min(1.0, high)
    return Measure(name, float(np.mean(values)), len(values), interval, target, ceiling, chance)


def bootstrap(statistic: Statistic, count: int, seed: int = 0, tail: float = 2.5) -> Interval:
    """Return the 95 % percentile interval of a statistic under resampling of the pictures.

    Source: Efron, Bootstrap methods (1979).

    Args:
        statistic: Takes row numbers, with repeats, and returns a number.
        count: Number of rows.
        seed: Decides the resampling.
        tail: Percent beyond each end; see `_tail`.

    Returns:
        Its ends; what is not a number is left out, and both are none where nothing else is left.
    """
    rng = np.random.default_rng(derive_seed(seed, "bootstrap", count))
    values = [statistic(rng.integers(count, size=count)) for _ in range(_RESAMPLES)]
    if all(map(math.isnan, values)):
        return math.nan, math.nan
    low, high = np.nanpercentile(values, (tail, 100 - tail))
    return float(low), float(high)


def balanced_accuracy(right: Truths, labels: np.ndarray) -> float:
    """Return the mean over labels of the share of their rows that are right.

    Why: where nine of ten people wear no hat, always answering "no hat" is worth nothing.

    Args:
        right: Whether each row was read right.
        labels: The true label of each row.

    Returns:
        In [0, 1]; not a number without rows.
    """
    kinds, place = np.unique(labels, return_inverse=True)
    if len(kinds) == 0:
        return float("nan")
    hits, rows = np.bincount(place, right.astype(np.float64)), np.bincount(place)
    return float((hits / rows).mean())


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """Return the 95 % interval of mean(a - b), where both have the same prompts and seeds, row by row.

    Why paired: most of the spread between pictures comes from prompt and seed, which both share; it cancels row by row.

    Args:
        a: Values of one state.
        b: Values of the other, in the same order.
        seed: Decides the resampling.
    """
    return mean_interval([one - other for one, other in zip(a, b, strict=True)], seed)


def unpaired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """Return the 95 % bootstrap interval of mean(a) - mean(b), where no row of one belongs to a row of the other.

    Args:
        a: Values of one group; a single one has no spread, so that the interval is that of the other group alone.
        b: Values of the other.
        seed: Decides the resampling.
    """
    means = []
    for name, values in (("a", a), ("b", b)):
        rng = np.random.default_rng(derive_seed(seed, f"bootstrap/unpaired/{name}", len(values)))
        numbers = np.array(values, dtype=np.float64)
        means.append(numbers[rng.integers(len(numbers), size=(_RESAMPLES, len(numbers)))].mean(axis=1))
    low, high = np.percentile(means[0] - means[1], (2.5, 97.5))
    return float(low), float(high)


def nested_interval(groups: Sequence[Sequence[float]], seed: int = 0) -> Interval:
    """Return the 95 % bootstrap interval of the mean of the groups' means.

    Why nested: pictures of one subject resemble each other, so what many pictures of few subjects show may not hold for
    another subject. Groups are drawn first, with repeats, then the rows of each; of fewer than eight groups their means
    alone are taken (`mean_interval`).

    Args:
        groups: The values of each group, such as a subject; at least one group, and none without values.
        seed: Decides the resampling.
    """
    if len(groups) in _FEW:
        return mean_interval([float(np.mean(group)) for group in groups], seed)
    rng = np.random.default_rng(derive_seed(seed, "bootstrap/nested", len(groups)))
    drawn = rng.integers(len(groups), size=(_RESAMPLES, len(groups)))
    means = np.zeros(drawn.shape)
    for place, group in enumerate(groups):
        chosen, values = drawn == place, np.array(group, dtype=np.float64)
        means[chosen] = values[rng.integers(len(values), size=(int(chosen.sum()), len(values)))].mean(axis=1)
    tail = _tail(len(groups))
    low, high = np.percentile(means.mean(axis=1), (tail, 100 - tail))
    return float(low), float(high)


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval:
    """Return the 95 % interval of a mean: of Student's t for two to seven values, of the bootstrap for more.

    Why not the bootstrap always: no mean of resampled values lies beyond the values, so that its interval of three ends
    at the least and the greatest of them, and misses the truth more than one time in ten. Of some more values it is too
    narrow as well, which `_tail` mends.

    Args:
        values: At least one; a single one has no spread, and is both ends.
        seed: Decides the resampling.
    """
    numbers = np.array(values, dtype=np.float64)
    if len(numbers) in _FEW:
        mean, half = float(numbers.mean()), _T[len(numbers) - 2] * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
        return mean - half, mean + half
    return bootstrap(lambda rows: float(numbers[rows].mean()), len(numbers), seed, _tail(len(numbers)))


def _tail(count: int) -> float:
    """Return how many percent of resampled means to leave out at each end.

    Resampled means of n values spread less than means do, by sqrt((n - 1) / n), and know nothing of the spread being
    estimated. The percentiles that a normal distribution has at `sqrt(n / (n - 1))` times Student's t mend both: the
    expanded percentile interval of [hesterberg2015] 4.4. From some 30 values on it makes no difference.
    """
    if count in range(2, 31):
        return 50 * math.erfc(math.sqrt(count / (count - 1)) * _t(float(count - 1)) / math.sqrt(2))
    return 2.5


def _t(freedom: float) -> float:
    """Return the 97.5 % point of Student's t: of the whole number below where it is small, else by its expansion."""
    whole = math.floor(freedom + 1e-9)
    if whole <= len(_T):
        return _T[whole - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
