"""A plan as text: settings first, then what a reader looks for: steps, time, memory, disk, switches."""

from __future__ import annotations

from collections.abc import Iterator

from sfumato.cli.tables import table_text
from sfumato.events import Table
from sfumato.operations.learn_plan import LearnPlan, Tried
from sfumato.runtime.byte_sizes import bytes_text


def plan_text(plan: LearnPlan) -> str:
    """Write a plan in paragraphs and tables."""
    blocks = [_settings(plan), _steps(plan), *_time(plan), _memory(plan), *_disk(plan), *_switches(plan)]
    blocks += [f"Note: {note}" for note in plan.notes]
    return "\n\n".join(blocks)


def duration_text(seconds: float) -> str:
    """Write a duration in its two largest units."""
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _settings(plan: LearnPlan) -> str:
    """List every effective value."""
    rows = tuple((item.name, _value(item.value), item.source) for item in plan.settings)
    return table_text(Table("", ("setting", "value", "source"), rows))


def _value(value: object) -> str:
    """Write a value as in a settings file."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) or "—" if isinstance(value, list | tuple) else str(value)


def _steps(plan: LearnPlan) -> str:
    """Say how long the lesson is."""
    went = f"steps {plan.first_step + 1} to {plan.steps}" if plan.first_step else f"{plan.steps} steps"
    rounds = f"{plan.rounds:.3g} {'pass' if plan.rounds == 1 else 'passes'} over {plan.pictures}"
    return f"Plan for {plan.output}: {went}, {plan.shown:,} pictures shown, {rounds}."


def _time(plan: LearnPlan) -> Iterator[str]:
    """Show what the wall time consists of."""
    if plan.seconds is None or plan.step_s is None:
        return
    rows = [(part.name, duration_text(part.each_s), str(part.times), duration_text(part.seconds)) for part in plan.time]
    title = f"Wall time: {duration_text(plan.seconds)}, {plan.step_s:.3g} s per step"
    yield table_text(
        Table(title, ("  part", "each", "times", "together"), tuple((f"  {a}", b, c, d) for a, b, c, d in rows))
    )


def _memory(plan: LearnPlan) -> str:
    """Say how much memory it takes, and whether that is too much."""
    if not plan.is_whole:
        return f"Peak memory: memory ran out in the first steps; the process had {bytes_text(plan.peak_bytes)} by then."
    text = f"Peak memory: {bytes_text(plan.peak_bytes)}, reached in: {plan.peak_part}."
    if plan.available_bytes is not None:
        text += f" The machine has {bytes_text(plan.available_bytes)} to give now."
    if plan.limit_bytes is None:
        return text
    return f"{text} That {'fits into' if plan.fits_memory else 'does not fit into'} {bytes_text(plan.limit_bytes)}."


def _disk(plan: LearnPlan) -> Iterator[str]:
    """Show what is written."""
    if not plan.disk:
        return
    fit = "" if plan.fits_disk else " — too little"
    title = (
        f"Disk: {bytes_text(plan.disk_bytes)} at most, {bytes_text(plan.left_bytes)} at the end; "
        f"{bytes_text(plan.free_bytes)} are free{fit}"
    )
    rows = tuple(
        (f"  {part.name}", bytes_text(part.each_bytes), str(part.count), bytes_text(part.bytes)) for part in plan.disk
    )
    yield table_text(Table(title, ("  what", "each", "count", "together"), rows))


def _switches(plan: LearnPlan) -> Iterator[str]:
    """Show which switches were measured and what to add."""
    if plan.tried:
        yield table_text(
            Table(
                "Measured switches", ("  add", "peak", "s per step", "wall time", "fits"), tuple(map(_row, plan.tried))
            )
        )
    if plan.fits_memory:
        return
    found = plan.switches
    if found is None:
        yield f"Nothing fits. The smallest peak that was measured is {bytes_text(plan.smallest_bytes)}."
        return
    yield f"Add: {' '.join(found.flags)}\n{_cost(plan, found)}"


def _row(tried: Tried) -> tuple[str, ...]:
    """Write one attempt."""
    if tried.step_s is None or tried.seconds is None:
        return f"  {' '.join(tried.flags)}", f"> {bytes_text(tried.peak_bytes)}", "—", "—", "no"
    return (
        f"  {' '.join(tried.flags)}",
        bytes_text(tried.peak_bytes),
        f"{tried.step_s:.3g}",
        duration_text(tried.seconds),
        "yes" if tried.fits else "no",
    )


def _cost(plan: LearnPlan, found: Tried) -> str:
    """Say what the switches cost in time and in the result."""
    assert found.seconds is not None
    text = f"Wall time is then {duration_text(found.seconds)}"
    if plan.seconds is not None:
        change = found.seconds - plan.seconds
        text += f", {duration_text(abs(change))} {'more' if change >= 0 else 'less'} than without"
    result = f"it changes the result: {found.loses}" if found.loses else "the result is that of the same steps"
    return f"{text}; {result}."
