"""Check a folder of pictures and captions, and write a corrected copy when asked."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from sfumato.data.buckets import fill_buckets
from sfumato.data.doctor import Examined, examine
from sfumato.errors import ConfigError, DataError
from sfumato.events import Done, Finding, Notice, Table
from sfumato.formats.bundle_outline import read_bundle_outline
from sfumato.operations.corrected_copy import write_copy
from sfumato.operations.stream import Events
from sfumato.requests import DoctorRequest


def doctor(request: DoctorRequest) -> Events:
    """Examine a folder; nothing in it is changed.

    Args:
        request: The folder, the base, the size and the batch that are planned, where a corrected copy goes.

    Yields:
        A `Finding` for everything that was found, a `Notice` and a `Table` with the arithmetic of batches, an
        `Artifact` of kind `dataset` for the copy, `Done`.

    Raises:
        CheckpointError: The base is not there, or not complete; its weights are not looked at.
        ConfigError: The place of the copy exists or lies within the folder.
        DataError: The folder does not exist, or something in it is an error: raised last, after all findings.
        StorageError: The copy cannot be written.
    """
    started = time.perf_counter()
    if request.fix is not None:
        _check_place(request.fix, request.folder)
    counts: Counter[str] = Counter()
    base = read_bundle_outline(request.base)
    size = base.native_size if request.size is None else request.size
    examination = examine(request.folder, size, base.tokenizer.excess)
    while True:
        try:
            event = next(examination)
        except StopIteration as stop:
            pictures: list[Examined] = stop.value
            break
        if isinstance(event, Finding):
            counts[event.severity] += 1
        yield event
    if not counts:
        yield Notice(0, "Nothing was found that could spoil the result.")
    if pictures:
        yield Notice(0, _arithmetic(pictures, request.batch_size))
        yield _buckets(pictures, size, request.batch_size, base.downsample_factor)
    if request.fix is not None and pictures:
        yield from write_copy(pictures, request.fix)
    yield Done(time.perf_counter() - started, {"pictures": len(pictures), **_totals(counts)})
    if counts["error"]:
        message = f"{request.folder}: {_counted(counts)}; nothing can be learned from it before the errors are mended."
        raise DataError(message, field="folder", hint=_about_copy(request) if pictures else None)


def _about_copy(request: DoctorRequest) -> str:
    """Say what a corrected copy holds or would hold."""
    if request.fix is None:
        return "--fix OUT writes a copy with what can be corrected."
    return f"{request.fix} holds what could be corrected."


def _check_place(place: Path, folder: Path) -> None:
    """Refuse a place for the copy that exists or lies within the folder."""
    if place.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(
            f"--fix: given '{place}', which lies in '{folder}'; needed a new folder outside of it.", field="fix"
        )
    if place.exists():
        raise ConfigError(
            f"--fix: given '{place}', which exists; needed the name of a new folder.",
            field="fix",
            hint="Nothing was written.",
        )


def _arithmetic(pictures: list[Examined], batch_size: int) -> str:
    """Say how many pictures a round shows and how many batches it takes."""
    draws = sum(picture.entry.repeats for picture in pictures)
    repeated = f", {draws} with their repeats" if draws != len(pictures) else ""
    full, rest = divmod(draws, batch_size)
    parts = [_number(full, "full batch", "full batches")] if full else []
    parts += [f"one of {rest}"] if rest else []
    read = _number(len(pictures), "picture", "pictures")
    return f"{read} can be read{repeated}; at batch size {batch_size} a round is {' and '.join(parts)}."


def _number(count: int, one: str, many: str) -> str:
    """Write a number with its noun."""
    return f"{count} {one if count == 1 else many}"


def _buckets(pictures: list[Examined], size: int, batch_size: int, multiple: int) -> Table:
    """Count the buckets that `learn --buckets` makes on a base whose sides are multiples of some pixels."""
    sizes = [(picture.facts.width, picture.facts.height, picture.entry.repeats) for picture in pictures]
    rows = tuple(
        (f"{bucket.width} × {bucket.height}", bucket.pictures, bucket.draws, bucket.batches, bucket.not_full)
        for bucket in fill_buckets(sizes, size, batch_size, multiple)
    )
    title = "Middle squares are learned; with --buckets it would be these sizes:"
    return Table(title, ("bucket", "pictures", "with repeats", "batches", "not full"), rows)


def _totals(counts: Counter[str]) -> dict[str, int]:
    """Return the number of findings of each severity."""
    return {"errors": counts["error"], "warnings": counts["warning"], "notes": counts["note"]}


def _counted(counts: Counter[str]) -> str:
    """Write the numbers of findings in words."""
    return ", ".join(_number(number, name[:-1], name) for name, number in _totals(counts).items() if number)
