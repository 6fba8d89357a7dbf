"""What happened since the last line of the log: means and throughput."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Interval:
    """Sums of what was reported since the last log line."""

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    pictures: int = 0
    start: float = field(default_factory=time.perf_counter)

    def add(self, values: Mapping[str, float | Tensor]) -> None:
        """Add the numbers of one batch."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the mean of every number, and the throughput."""
        seconds = max(1e-9, time.perf_counter() - self.start)
        values = {name: total / self.counts[name] for name, total in self.sums.items()}
        return {**values, "pictures_per_s": self.pictures / seconds}
