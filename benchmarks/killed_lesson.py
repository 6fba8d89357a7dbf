"""A lesson in a process of its own that is killed at chosen moments, resumed, and compared with one left alone."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

PHASES = ("start-up", "steps", "saving", "look", "ending")
"""Where a kill may fall: before the first step, in a step, while a state is written, while a saved state is judged, and
from the last judgement to the end of the process."""
_SHORTENED, _TRIES = 0.5, 8
_LIMIT_S = 120.0


@dataclass(frozen=True)
class Lesson:
    """One way to learn.

    Attributes:
        title: Name in the table.
        words: Options of `sfumato learn` beside those that all lessons share.
        output: The concept file, or a folder for the whole base.
    """

    title: str
    words: tuple[str, ...]
    output: str = "fox.safetensors"


@dataclass(frozen=True)
class Moment:
    """When to kill: some seconds after the first event with a name.

    Attributes:
        phase: One of `PHASES`.
        after: Name of the event; empty for the start of the process.
        delay_s: Seconds after it.
        place: Number of the event in a lesson that is left alone.
        step: The last step that had been finished then.
    """

    phase: str
    after: str
    delay_s: float
    place: int
    step: int


@dataclass(frozen=True)
class Gap:
    """What lies between two events of a lesson that is left alone; a kill may fall into it."""

    phase: str
    after: str
    seconds: float
    place: int
    step: int


@dataclass(frozen=True)
class Whole:
    """A lesson that nobody killed.

    Attributes:
        gaps: Its course.
        hashes: SHA-256 of every file that it left: result, report, last state.
    """

    gaps: tuple[Gap, ...]
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code (below 0: the signal), its events with their seconds, what it complained of."""

    code: int
    events: tuple[tuple[float, dict[str, Any]], ...]
    seconds: float
    complaint: str


def learn_whole(lesson: Lesson, command: Sequence[str], folder: Path) -> Whole:
    """Run a lesson to its end and remember its course and its result.

    Raises:
        SystemExit: It failed.
    """
    done = _finished(lesson, command, folder)
    if done.code:
        raise SystemExit(f"The lesson '{lesson.title}' failed without any kill: {done.complaint}")
    starts = [(0.0, {"event": ""}), *done.events]
    ends = [seconds for seconds, _ in done.events] + [done.seconds]
    gaps, step = [], 0
    for place, ((at, event), end) in enumerate(zip(starts, ends, strict=True)):
        following = starts[place + 1][1] if place + 1 < len(starts) else {"event": "exit"}
        step = max(step, event.get("step", 0) if event["event"] == "metric" else 0)
        gaps.append(Gap(_phase(event, following, step), _name(event), end - at, place, step))
    return Whole(tuple(gaps), _hashes(lesson, folder))


def moments(whole: Whole, count: int, draw: random.Random) -> list[Moment]:
    """Draw moments for the kills of one lesson, every phase about equally often.

    Each comes later in the lesson than the one before, so that a resumed lesson reaches it; those before the first step
    come anywhere between, since every start passes there.

    Args:
        whole: The lesson left alone.
        count: How many.
        draw: Source of chance.
    """
    there = [phase for phase in PHASES if any(gap.phase == phase for gap in whole.gaps)]
    order = (draw.sample(there, len(there)) * -(-count // len(there)))[:count]
    chosen = []
    for phase in order:
        gap = draw.choice([gap for gap in whole.gaps if gap.phase == phase])
        chosen.append(Moment(phase, gap.after, draw.random() * gap.seconds, gap.place, gap.step))
    later = sorted((m for m in chosen if m.phase != PHASES[0]), key=lambda m: (m.place, m.delay_s))
    for moment in (m for m in chosen if m.phase == PHASES[0]):
        later.insert(draw.randint(0, len(later)), moment)
    return later


def learn_killed(lesson: Lesson, command: Sequence[str], folder: Path, kills: Sequence[Moment], whole: Whole) -> str:
    """Kill a lesson at each moment, resuming in between, let it finish and compare.

    Returns:
        What is wrong; empty where every file has the same bytes as in the lesson left alone.
    """
    for moment in kills:
        wanted = moment
        for _ in range(_TRIES):
            ended = _run([*command, "--resume"], folder, wanted)
            if ended.code == -signal.SIGKILL:
                break
            if ended.code:
                return f"resume ended with exit code {ended.code}: {ended.complaint}"
            clear(folder)  # it was faster than the kill
            wanted = replace(wanted, delay_s=wanted.delay_s * _SHORTENED)
        else:
            return f"it ended {_TRIES} times before it could be killed {moment.delay_s:.3f} s after {moment.after!r}"
    done = _finished(lesson, [*command, "--resume"], folder)
    if done.code:
        return f"the last resume ended with exit code {done.code}: {done.complaint}"
    hashes = _hashes(lesson, folder)
    differing = sorted(
        name for name in hashes.keys() | whole.hashes.keys() if hashes.get(name) != whole.hashes.get(name)
    )
    return f"other bytes in {', '.join(differing)}" if differing else ""


def clear(folder: Path) -> None:
    """Remove everything that a lesson left, and make its folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _run_folder(lesson: Lesson, folder: Path) -> Path:
    """Return where a lesson keeps its states."""
    return folder / f"{Path(lesson.output).stem}.run"


def _finished(lesson: Lesson, command: Sequence[str], folder: Path) -> Ended:
    """Run a lesson to its end; its last state, which it would remove, stays behind a link."""
    run, kept = _run_folder(lesson, folder), folder / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    if run.is_dir():
        kept.rmdir()
        run.rename(kept)
    run.symlink_to(kept.name)
    return _run(command, folder, None)


def _run(command: Sequence[str], folder: Path, moment: Moment | None) -> Ended:
    """Run a command whose events are lines of JSON, and kill it with all its children at a moment."""
    started = time.perf_counter()
    events: list[tuple[float, dict[str, Any]]] = []
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "encoding": "utf-8", "start_new_session": True}
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as complaint,
        subprocess.Popen(command, cwd=folder, stderr=complaint, **piped) as process,
    ):
        try:
            hear = _killer(process, moment)
            hear("")
            for line in process.stdout or ():
                with contextlib.suppress(ValueError):  # the last line of a killed process may be a part of one
                    events.append((time.perf_counter() - started, json.loads(line)))
                    hear(_name(events[-1][1]))
            code = process.wait(_LIMIT_S)
        finally:
            _kill(process)
        complaint.seek(0)
        said = complaint.read().strip() or (json.dumps(events[-1][1]) if events else "")
    return Ended(code, tuple(events), time.perf_counter() - started, said[-2000:])


def _kill(process: subprocess.Popen[str]) -> None:
    """Kill a process with all its children, if it still runs."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def _killer(process: subprocess.Popen[str], moment: Moment | None) -> Callable[[str], None]:
    """Return what is told each event and kills the group of a process at the moment."""

    def hear(name: str) -> None:
        if moment is None or name != moment.after:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment.delay_s)  # its output is short: it fits into the pipe meanwhile
        _kill(process)

    return hear


def _name(event: Mapping[str, Any]) -> str:
    """Name an event so that a resumed lesson has one of the same name."""
    kind = event["event"]
    if kind == "metric":
        return f"metric {event['step']} {min(event['values'], default='')}"
    if kind == "progress":
        return f"{event['phase']} {event['done']}"
    return " ".join(str(event[key]) for key in ("event", "step", "path") if key in event)


def _phase(event: Mapping[str, Any], following: Mapping[str, Any], step: int) -> str:
    """Say in which phase the time between two events lies."""
    kind = following["event"]
    if kind in ("verdict", "artifact", "done", "exit"):
        return "ending"
    if kind == "checkpoint":
        return "saving"
    of_look = [
        one["event"] == "progress" or "verdict/" in json.dumps(one.get("values", "")) for one in (event, following)
    ]
    if any(of_look) and step:
        return "look"
    return "steps" if step or event["event"] == "notice" else "start-up"


def _hashes(lesson: Lesson, folder: Path) -> dict[str, str]:
    """Hash the result, the report of the verdict and the last state."""
    checkpoints = sorted((folder / "kept" / "checkpoints").glob("step-*"))
    places = [folder / lesson.output, folder / f"{Path(lesson.output).stem}.verdict", *checkpoints[-1:]]
    files = [
        file
        for place in places
        for file in ([place] if place.is_file() else sorted(place.rglob("*")))
        if file.is_file()
    ]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def command_of(lesson: Lesson, base: Path, photos: Path, shared: Sequence[str]) -> list[str]:
    """Return the command line of a lesson."""
    command = [sys.executable, "-m", "sfumato", "learn", str(photos), "--as", "<fox>", "--class", "fox"]
    return [*command, "--base", str(base), *shared, *lesson.words, "-o", lesson.output, "--json"]
