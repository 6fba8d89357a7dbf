"""Run two sides in turns (A B A B …) and print the ratio."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from benchmarks.machine import Peak
from benchmarks.side import Side

SIDES = ("sfumato", "diffusers")


@dataclass(frozen=True)
class Comparison:
    """What two sides did in turns.

    Attributes:
        seconds: Seconds of every repetition, by side.
        facts: First answer of each side: `flops`, `memory` and what the benchmark adds.
    """

    seconds: dict[str, list[float]]
    facts: dict[str, dict[str, Any]]

    @property
    def ratio(self) -> float:
        """Median over the turns of diffusers' time by ours; above 1 we are faster."""
        ours, theirs = (self.seconds[side] for side in SIDES)
        return median(their / our for our, their in zip(ours, theirs, strict=True))


def in_turns(module: str, words: Sequence[str], repeats: int) -> Comparison:
    """Start both sides, let each warm up alone, then measure them in turns.

    Args:
        module: Module of this package that answers `--side NAME`.
        words: Further options of both sides.
        repeats: Measured repetitions of each.

    Returns:
        Times and facts.
    """
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    facts: dict[str, dict[str, Any]] = {}
    with Side(module, SIDES[0], words) as ours, Side(module, SIDES[1], words) as theirs:
        for side in (ours, theirs):
            facts[side.name] = side.read()
        for _ in range(repeats):
            for side in (ours, theirs):
                seconds[side.name].append(side.repeat())
    return Comparison(seconds, facts)


def report(title: str, result: Comparison, peak: Peak, *, items: int = 0, unit: str = "", memory: bool = False) -> None:
    """Print one comparison.

    The rates are of the operations that the mathematics asks for, counted on the side that takes more: a side that
    finds the same with fewer may be above the machine's peak.

    Args:
        title: What was compared.
        result: The comparison.
        peak: What the machine can do.
        items: Things made in one repetition, for a rate; 0 for none.
        unit: Name of these things.
        memory: Print the peak memory of each process too.
    """
    lines = [f"  {title}: ratio {result.ratio:.2f} (their time by ours, median of {len(result.seconds[SIDES[0]])})"]
    asked = max(result.facts[side]["flops"] for side in SIDES)
    for side in SIDES:
        taken, facts = median(result.seconds[side]), result.facts[side]
        rate = asked / taken / 1e9
        line = f"    {side:10} {taken:8.3f} s  {rate:6.1f} GFLOP/s = {100 * rate / peak.best:3.0f} % of peak"
        line += f"  {items / taken:7.1f} {unit}/s" if items else ""
        line += f"  {facts['memory'] / 2**30:.2f} GiB" if memory else ""
        lines.append(line)
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def agree(result: Comparison, tolerance: float) -> bool:
    """Compare the arrays that both sides saved as `result`, print the difference and say whether it is small.

    Args:
        result: A comparison whose facts name a `result` file.
        tolerance: Largest difference allowed.

    Returns:
        Whether they agree.
    """
    ours, theirs = (np.load(result.facts[side]["result"]) for side in SIDES)
    difference = float(np.abs(ours - theirs).max())
    spread = float(np.std(ours))
    good = ours.shape == theirs.shape and difference <= tolerance
    word = "agree" if good else "DIFFER"
    sys.stdout.write(f"    results {word}: largest difference {difference:.1e}, standard deviation {spread:.2f}\n")
    sys.stdout.flush()
    return good
