"""What a lesson would need, as a value: steps, time, memory, disk, every setting, and switches that would fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.events import Event


@dataclass(frozen=True)
class Setting:
    """One effective value.

    Attributes:
        name: Dotted key of the trainer, or the field of the request where the trainer has none.
        value: The value, as plain data.
        source: `default`; what it follows from, such as `method and base`, `method, base and optimizer`, `optimizer`,
            `adapter`, `rank`, `steps`, `loop.save_every`, `word`, `class noun` or `base, pictures and seed`; `file`;
            `--set`; the flag or argument; or `given` where nothing tells which of the last two it was.
    """

    name: str
    value: Any
    source: str


@dataclass(frozen=True)
class TimePart:
    """A part of the wall time: `times` times `each_s` seconds."""

    name: str
    each_s: float
    times: int = 1

    @property
    def seconds(self) -> float:
        """The part as a whole."""
        return self.each_s * self.times


@dataclass(frozen=True)
class DiskPart:
    """What is written: bytes of one, how many lie there at once at most, and whether it is there at the end."""

    name: str
    each_bytes: int
    count: int
    stays: bool

    @property
    def bytes(self) -> int:
        """The part as a whole."""
        return self.each_bytes * self.count


@dataclass(frozen=True)
class Tried:
    """Switches that were measured, in a process of their own.

    Attributes:
        flags: What to add to the command.
        loses: What they change in the result, in words; empty: nothing.
        peak_bytes: Peak memory; where the process was ended for want of memory, what it had by then.
        step_s: Seconds per step; None where it was ended.
        seconds: Wall time of the whole lesson; None where it was ended.
        fits: Whether it stays within the memory.
    """

    flags: tuple[str, ...]
    loses: str
    peak_bytes: int
    step_s: float | None
    seconds: float | None
    fits: bool


@dataclass(frozen=True)
class LearnPlan(Event):
    """What a lesson would need.

    Attributes:
        output: The file or folder that it would write.
        settings: Every effective value with its source.
        first_step: The step that it goes on from; 0 for a new lesson.
        steps: The step that it ends with.
        pictures: Pictures of a round: those of the folders, mirrored ones and repeats counted.
        shown: Pictures that are shown in all remaining steps.
        step_s: Seconds per optimizer step, measured; None where memory ran out.
        time: Parts of the wall time; empty where memory ran out.
        peak_bytes: Peak memory of the process; where memory ran out, what it had by then.
        peak_part: The part of the lesson in which the peak was reached.
        is_whole: Whether the measured steps came to their end; otherwise memory ran out.
        limit_bytes: The memory that was asked for.
        available_bytes: Memory that the machine had to give before; None where nothing tells it.
        disk: What is written.
        free_bytes: Free room on the disk of the output.
        tried: Switches that were measured, in order of their expected cost; the last one fits or none does.
        notes: What else to know.
    """

    output: Path
    settings: tuple[Setting, ...]
    first_step: int
    steps: int
    pictures: int
    shown: int
    step_s: float | None
    time: tuple[TimePart, ...]
    peak_bytes: int
    peak_part: str
    is_whole: bool
    limit_bytes: int | None
    available_bytes: int | None
    disk: tuple[DiskPart, ...]
    free_bytes: int
    tried: tuple[Tried, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rounds(self) -> float:
        """How often every picture is shown."""
        return self.shown / self.pictures

    @property
    def seconds(self) -> float | None:
        """Wall time of the whole lesson."""
        return total_seconds(self.time) if self.time else None

    @property
    def disk_bytes(self) -> int:
        """Room on the disk that is needed at most at one time."""
        return sum(part.bytes for part in self.disk)

    @property
    def left_bytes(self) -> int:
        """What lies there at the end."""
        return sum(part.bytes for part in self.disk if part.stays)

    @property
    def fits_memory(self) -> bool:
        """Whether the settings as they are stay within the memory."""
        return fits(self.peak_bytes, self.is_whole, self.limit_bytes)

    @property
    def fits_disk(self) -> bool:
        """Whether there is room for everything that is written."""
        return self.disk_bytes <= self.free_bytes

    @property
    def switches(self) -> Tried | None:
        """The cheapest switches that were found to fit."""
        return next((one for one in self.tried if one.fits), None)

    @property
    def is_possible(self) -> bool:
        """Whether the lesson fits as it is, or with the switches, and there is room on the disk."""
        return self.fits_disk and (self.fits_memory or self.switches is not None)

    @property
    def smallest_bytes(self) -> int:
        """The smallest peak that was measured."""
        return min((self.peak_bytes, *(one.peak_bytes for one in self.tried if one.step_s is not None)))


def fits(peak_bytes: int, is_whole: bool, limit_bytes: int | None) -> bool:
    """Say whether measured steps came to their end within a limit; without one, whether they came to their end."""
    return is_whole and (limit_bytes is None or peak_bytes <= limit_bytes)


def total_seconds(parts: Sequence[TimePart]) -> float:
    """Add the parts of a time."""
    return sum(part.seconds for part in parts)


def saves(first_step: int, steps: int, save_every: int) -> int:
    """Return how many states are saved after a step: every so many steps, and the last.

    Args:
        first_step: The step that the lesson goes on from.
        steps: Its last step.
        save_every: Steps between saves.
    """
    due = max(0, steps // save_every - first_step // save_every)
    return due + (steps % save_every != 0 and steps > first_step)


def scaled_look(seconds: float, network_s: float, factor: float) -> float:
    """Scale the time of a look with fewer sampler steps: only the network's time goes with their number.

    Args:
        seconds: What the look took.
        network_s: What of that was the network's.
        factor: How many times as many sampler steps a whole look has.
    """
    return seconds - network_s + network_s * factor
