"""Plan a lesson: rehearse it, say what it would need, and find switches that would fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sfumato.data.listing import list_entries
from sfumato.errors import ConfigError
from sfumato.evaluation.verdict import Rule
from sfumato.events import Event, Notice
from sfumato.formats.atomic import free_bytes
from sfumato.formats.bundle import find_bundle
from sfumato.operations.effective_settings import effective_settings
from sfumato.operations.learn import lesson_config, run_folder
from sfumato.operations.learn_plan import DiskPart, LearnPlan, TimePart, Tried, fits, saves, scaled_look, total_seconds
from sfumato.operations.rehearsal import OutOfRoom, Rehearsed, rehearse
from sfumato.operations.stopwatch import (
    BASE_LOOK,
    CLASS_PICTURES,
    END,
    LOOK,
    PICTURES,
    PREPARATION,
    PREVIEW,
    SAVING,
    START,
    STEP,
    Look,
)
from sfumato.operations.stream import Events
from sfumato.operations.switches import Found, Switches, smaller
from sfumato.requests import LearnRequest
from sfumato.runtime.peak_memory import available_memory_bytes
from sfumato.training import state
from sfumato.training.learn_config import LearnConfig
from sfumato.training.refusals import check_output

Rehearsal = Callable[[LearnRequest], Generator[Event, None, Rehearsed | OutOfRoom]]


def plan_lesson(
    request: LearnRequest, sources: Mapping[str, str] | None = None, rehearsal: Rehearsal = rehearse
) -> Events:
    """Say what a lesson would need, from its first steps, taken for real in a process of their own.

    Nothing is written but to a temporary folder. Switches are looked for where memory ran out, or where the peak is
    above the memory that the request names: each is measured in a process of its own, the cheapest first, until one
    fits.

    Args:
        request: The lesson; `memory` is the limit.
        sources: Where each field of the request came from, `flag` or `file`; None where nothing tells.
        rehearsal: Measures a lesson.

    Yields:
        `Progress` and `Notice` while it is measured; a `LearnPlan` last.

    Raises:
        SfumatoError: What the lesson itself would complain about.
    """
    limit, request = request.memory, request.model_copy(update={"plan": False, "memory": None})
    config = lesson_config(request)
    plan = _blank(request, config, sources, limit)
    yield Notice(0, f"Taking the first steps of the lesson for '{plan.output}' to measure them.")
    found = yield from rehearsal(request)
    plan = _filled(plan, request, config, found)
    if not plan.fits_memory:
        plan = yield from _with_switches(plan, request, config, found, rehearsal)
    yield plan


def _blank(
    request: LearnRequest, config: LearnConfig, sources: Mapping[str, str] | None, limit: int | None
) -> LearnPlan:
    """Return what is known of a lesson before anything is measured."""
    check_output(config, find_bundle(request.base))
    first = _first_step(config, request.resume)
    pictures = _shown_once([subject.folder for subject in config.subjects]) * (2 if config.flip else 1)
    per_step = config.batch_size * config.loop.accumulate
    return LearnPlan(
        output=config.output,
        settings=effective_settings(request, config, sources),
        first_step=first,
        steps=config.loop.steps,
        pictures=pictures,
        shown=max(0, config.loop.steps - first) * per_step,
        step_s=None,
        time=(),
        peak_bytes=0,
        peak_part="",
        is_whole=False,
        limit_bytes=limit,
        available_bytes=available_memory_bytes(),
        disk=(),
        free_bytes=free_bytes(config.output.absolute().parent),
        notes=tuple(_notes(request, config)),
    )


def _notes(request: LearnRequest, config: LearnConfig) -> Generator[str, None, None]:
    """Say what the numbers leave out."""
    looks = saves(0, config.loop.steps, config.loop.save_every)
    if request.verdict and request.early_stop and looks > Rule().patience + 1:
        yield "The verdict may end the lesson earlier (--no-early-stop lets it go on)."
    if request.cache is not None and request.cache.is_dir():
        yield f"Planned as if '{request.cache}' were empty; what it holds already saves preparation."
    if config.loop.max_seconds is not None:
        yield f"The lesson stops and saves after {config.loop.max_seconds:g} s (loop.max_seconds)."
    if request.resume:
        yield "Settings are not compared with those of the interrupted run; --resume itself does that."


def _first_step(config: LearnConfig, resume: bool) -> int:
    """Return the step that a lesson would go on from.

    Raises:
        CannotResume: There is an interrupted run, and it is not to go on.
    """
    run_dir = run_folder(config.output)
    found = state.latest(run_dir)
    if (found.path or found.rejected) and not resume:
        raise state.already_there(run_dir)
    return 0 if found.path is None else state.read_state(found.path).step


def _shown_once(folders: Sequence[Path]) -> int:
    """Count the pictures of a round; only the proportions over all subjects count."""
    repeats = [entry.repeats for folder in folders for entry in list_entries(folder)]
    return sum(repeats) // math.gcd(*repeats)


def _filled(plan: LearnPlan, request: LearnRequest, config: LearnConfig, found: Rehearsed | OutOfRoom) -> LearnPlan:
    """Put what was measured into a plan."""
    if isinstance(found, OutOfRoom):
        return replace(plan, peak_bytes=found.peak_bytes)
    return replace(
        plan,
        step_s=found.watch.step_s,
        time=time_parts(request, config, found, plan.first_step),
        peak_bytes=found.peak_bytes,
        peak_part=found.watch.peak_part,
        is_whole=True,
        disk=disk_parts(request, config, found, plan.first_step),
    )


def time_parts(request: LearnRequest, config: LearnConfig, found: Rehearsed, first_step: int) -> tuple[TimePart, ...]:
    """Return what the wall time of a lesson consists of.

    Args:
        request: The lesson.
        config: Its settings.
        found: What was measured.
        first_step: The step that it goes on from.

    Raises:
        Diverged: No step was finite.
    """
    watch, loop, step_s = found.watch, config.loop, found.watch.step_s
    steps, states = max(0, loop.steps - first_step), saves(first_step, loop.steps, loop.save_every)
    spent = watch.seconds
    parts = [TimePart(START, spent[START]), TimePart(PICTURES, spent[PICTURES])]
    if found.class_pictures:
        each = spent[CLASS_PICTURES] / found.class_pictures
        parts.append(TimePart(CLASS_PICTURES, each, config.num_class_images))
    parts.append(TimePart(PREPARATION, spent.get(PREPARATION, 0.0) + max(0.0, watch.steps[0] - step_s)))
    if found.base_look is not None:
        parts.append(TimePart(BASE_LOOK, _whole_look(found.base_look, found.look_steps, request.verdict_steps)))
    parts += [TimePart(STEP, step_s, steps), TimePart(SAVING, spent[SAVING], states)]
    if found.look is not None:
        parts.append(TimePart(LOOK, _whole_look(found.look, found.look_steps, request.verdict_steps), states))
    if loop.preview_every and PREVIEW in spent:
        parts.append(TimePart(PREVIEW, spent[PREVIEW], saves(first_step, loop.steps, loop.preview_every)))
    parts.append(TimePart(END, spent.get(END, 0.0)))
    return tuple(parts)


def _whole_look(look: Look, measured_steps: int, steps: int) -> float:
    """Return the seconds of a look with all sampler steps."""
    return scaled_look(look.seconds, look.network_s, steps / measured_steps)


def disk_parts(request: LearnRequest, config: LearnConfig, found: Rehearsed, first_step: int) -> tuple[DiskPart, ...]:
    """Return what a lesson writes, as much as lies there at once.

    A state is written before the oldest one is removed, and the one before the newest stays until a good step was taken
    from that; so one more than are kept needs room, and three at least.

    Args:
        request: The lesson.
        config: Its settings.
        found: What was measured.
        first_step: The step that it goes on from.
    """
    sizes, loop = found.sizes, config.loop
    states = saves(first_step, loop.steps, loop.save_every)
    parts = [
        DiskPart("result", sizes.result, 1, True),
        DiskPart("saved states", sizes.checkpoint, min(states, max(loop.keep, 2) + 1), False),
    ]
    if request.verdict:
        rows = (1 + states) / 2  # of the report: the base, and one for every look
        parts += [
            DiskPart("weights of the best look", sizes.learned, min(states, 2), False),
            DiskPart("looks", sizes.look, states, False),
            DiskPart("report on the verdict", round(sizes.report * rows), 1, True),
        ]
    if loop.preview_every:
        parts.append(DiskPart("previews", sizes.preview, saves(first_step, loop.steps, loop.preview_every), False))
    stays = request.cache is not None
    parts.append(DiskPart("encoded pictures and texts", sizes.cache, 1, stays))
    if found.class_pictures:
        grown = config.num_class_images / found.class_pictures
        parts.append(DiskPart("class pictures", round(sizes.class_cache * grown), 1, stays))
    return tuple(part for part in parts if part.bytes)


def _with_switches(
    plan: LearnPlan, request: LearnRequest, config: LearnConfig, found: Rehearsed | OutOfRoom, rehearsal: Rehearsal
) -> Generator[Event, None, LearnPlan]:
    """Measure switches until one fits."""
    limit = plan.limit_bytes
    known = _known(found, limit)
    if known is None:
        yield Notice(0, "What comes before the first step is above that memory already; no switch can help.")
        return plan
    for switches in smaller(request, config, known):
        flags = switches.flags(request)
        yield Notice(0, f"Peak memory is too high; trying {' '.join(flags)}.")
        try:
            tried = yield from _tried(switches, request, plan, rehearsal)
        except ConfigError as error:
            yield Notice(0, f"That does not go with the other settings: {error.message}")
            continue
        plan = replace(plan, tried=(*plan.tried, tried))
        if tried.fits:
            break
    return plan


def _known(found: Rehearsed | OutOfRoom, limit: int | None) -> Found | None:
    """Return what is known of a lesson that is too large; None where no switch can help."""
    if isinstance(found, OutOfRoom) or limit is None:
        return Found(found.peak_bytes, knows_sizes=False)
    watch = found.watch
    if limit < watch.peak_before(BASE_LOOK, STEP):
        return None
    looks = limit < watch.peak_before(STEP) or watch.peak_before(LOOK) <= limit
    return Found(found.peak_bytes, found.sizes.learned, found.sizes.optimizer, looks_are_too_large=looks)


def _tried(
    switches: Switches, request: LearnRequest, plan: LearnPlan, rehearsal: Rehearsal
) -> Generator[Event, None, Tried]:
    """Measure a lesson with some switches."""
    changed = switches.applied(request)
    found = yield from rehearsal(changed)
    flags, loses = switches.flags(request), "; ".join(switches.loses)
    if isinstance(found, OutOfRoom):
        return Tried(flags, loses, found.peak_bytes, None, None, False)
    parts = time_parts(changed, lesson_config(changed), found, plan.first_step)
    fit = fits(found.peak_bytes, True, plan.limit_bytes)
    return Tried(flags, loses, found.peak_bytes, found.watch.step_s, total_seconds(parts), fit)
