"""Check a folder of pictures and captions, and write a corrected copy when asked."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

from sfumato.adapters.tokens import expand_placeholder
from sfumato.data.buckets import Bucket, check_buckets, fill_buckets
from sfumato.data.caption_checks import PLACEHOLDER, Measure
from sfumato.data.caption_files import short
from sfumato.data.doctor import Examined, examine
from sfumato.data.numbered_folders import Naming
from sfumato.errors import ConfigError, DataError
from sfumato.events import Done, Event, Finding, Notice, Table
from sfumato.formats.bundle_outline import BundleOutline, read_bundle_outline
from sfumato.models.tokenizer import Tokenizer, whole_word
from sfumato.operations.corrected_copy import write_copy
from sfumato.operations.stream import Events
from sfumato.requests import DoctorRequest
from sfumato.training.subject import style_caption, subject_caption

_NOUN_TOKENS = 2
"""Tokens that are kept free for a class noun that is not given."""


def doctor(request: DoctorRequest) -> Events:
    """Examine a folder; nothing in it is changed.

    Args:
        request: The folder, the base, the word, size and batch that are planned, where a corrected copy goes.

    Yields:
        A `Finding` for everything that was found, a `Notice` and a `Table` with the arithmetic of batches, an
        `Artifact` of kind `dataset` for the copy, `Done`.

    Raises:
        CheckpointError: The base is not there, or not complete; its weights are not looked at.
        ConfigError: The place of the copy exists or lies within the folder or that of the masks.
        DataError: A folder does not exist, or something in it is an error: raised last, after all findings.
        StorageError: The copy cannot be written.
    """
    started = time.perf_counter()
    if request.fix is not None:
        _check_place(request.fix, request)
    counts: Counter[str] = Counter()
    base = read_bundle_outline(request.base)
    pictures, buckets = yield from _examined(request, base, counts)
    if not counts:
        yield Notice(0, "Nothing was found that could spoil the result.")
    if pictures:
        yield Notice(0, _arithmetic(pictures, buckets, request.batch_size))
        yield _table(buckets)
    if request.fix is not None and pictures:
        yield from write_copy(pictures, request.fix)
    yield Done(time.perf_counter() - started, {"pictures": len(pictures), **_totals(counts)})
    if counts["error"]:
        message = f"{request.folder}: {_counted(counts)}; nothing can be learned from it before the errors are mended."
        raise DataError(message, field="folder", hint=_about_copy(request) if pictures else None)


def caption_measure(request: DoctorRequest, tokenizer: Tokenizer) -> Measure:
    """Return how captions are measured.

    With a word and a noun it is as a lesson says them: the word is put in with its vectors, and the noun behind it; of
    a style the word alone, at the end.
    Where one of the two is not known, nor is what the lesson adds: a caption that is too long before that is an error,
    one that may leave too little room a warning.

    Args:
        request: The word, the noun and the number of vectors, where they are known.
        tokenizer: That of the base; it learns the word.
    """
    word, noun = request.placeholder, request.class_noun
    if word is None or (noun is None and not request.style):
        return partial(_measured_with_room, request, tokenizer)
    taught = _taught(tokenizer, word, request.num_vectors)

    def measured(caption: str) -> tuple[str, str] | None:
        if noun is None or request.style:
            said = expand_placeholder(style_caption(caption, word), word, taught, "")
        else:
            said = expand_placeholder(subject_caption(caption, word, noun), word, f"{taught} {noun}", noun)
        excess = tokenizer.excess(said)
        return None if excess is None else ("caption-long", f"{excess}; it is said as '{short(said)}'")

    return measured


def buckets_of(pictures: Sequence[Examined], size: int, batch_size: int, multiple: int) -> list[Bucket]:
    """Sort pictures into the buckets that `learn --buckets` makes.

    Args:
        pictures: The pictures.
        size: Side of the square bucket in pixels.
        batch_size: Pictures in a batch.
        multiple: What the base needs every side to be a multiple of, in pixels.
    """
    sizes = [(picture.facts.width, picture.facts.height, picture.entry.repeats) for picture in pictures]
    return fill_buckets(sizes, size, batch_size, multiple)


def _taught(tokenizer: Tokenizer, word: str, vectors: int) -> str:
    """Teach a tokenizer a word and return what stands for it in a text.

    A word that can have no vectors is one token, as the rare word that a lesson says in its place.
    """
    try:
        tokenizer.add_placeholder(word, vectors)
    except ConfigError:
        return "a"
    return word


def _measured_with_room(request: DoctorRequest, tokenizer: Tokenizer, caption: str) -> tuple[str, str] | None:
    """Measure a caption whose word or noun is not known: first with vectors alone, then with room for the rest."""
    vectors, noun = request.num_vectors, request.class_noun
    pattern = PLACEHOLDER
    if request.placeholder is not None:
        pattern = re.compile(whole_word(request.placeholder), re.IGNORECASE)
    words = pattern.findall(caption)
    bare = pattern.sub(" ".join("a" * vectors), caption)
    excess = tokenizer.excess(bare)
    if excess is not None:
        return "caption-long", excess
    behind = _NOUN_TOKENS if noun is None else len(tokenizer.pieces(noun))
    needed = behind * len(words) if words else behind + vectors + 2
    used, limit = len(tokenizer.pieces(bare)) + 2, tokenizer.context_length
    if used + needed <= limit:
        return None
    what = f"a class noun behind '{words[0]}'" if words else "'a <word> noun,' in front"
    left = f"{limit - used} left, up to {needed} needed for {what}"
    return "caption-room", f"{used} tokens with start and end, the limit is {limit}: {left}"


def _examined(
    request: DoctorRequest, base: BundleOutline, counts: Counter[str]
) -> Generator[Event, None, tuple[list[Examined], list[Bucket]]]:
    """Examine the folder and its buckets, and count the findings by their severity.

    Returns:
        The pictures that can be read, and their buckets as `learn --buckets` makes them.
    """
    size = base.native_size if request.size is None else request.size
    measure = caption_measure(request, base.tokenizer)
    naming = Naming(request.placeholder, request.class_noun, request.style)
    examination = examine(request.folder, size, measure, request.mask_folder, naming=naming)
    while True:
        try:
            event = next(examination)
        except StopIteration as stop:
            pictures: list[Examined] = stop.value
            break
        if isinstance(event, Finding):
            counts[event.severity] += 1
        yield event
    buckets = buckets_of(pictures, size, request.batch_size, base.downsample_factor)
    for found in check_buckets(request.folder, buckets, request.batch_size):
        counts[found.severity] += 1
        yield found
    return pictures, buckets


def _about_copy(request: DoctorRequest) -> str:
    """Say what a corrected copy holds or would hold."""
    if request.fix is None:
        return "--fix OUT writes a copy with what can be corrected."
    return f"{request.fix} holds what could be corrected."


def _check_place(place: Path, request: DoctorRequest) -> None:
    """Refuse a place for the copy that exists or lies within the folder or that of the masks."""
    for folder in (request.folder, request.mask_folder):
        if folder is not None and place.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"--fix: given '{place}', which lies in '{folder}'; needed a new folder outside of it.", field="fix"
            )
    if place.exists():
        raise ConfigError(
            f"--fix: given '{place}', which exists; needed the name of a new folder.",
            field="fix",
            hint="Nothing was written.",
        )


def _arithmetic(pictures: Sequence[Examined], buckets: Sequence[Bucket], batch_size: int) -> str:
    """Say how many batches a round of middle squares takes."""
    draws = sum(bucket.draws for bucket in buckets)
    a_round = "a round" if draws == len(pictures) else f"a round of {draws} with repeats"
    batches = _number(_rounded(draws / batch_size), "batch", "batches")
    rest = "; the next round fills the last one" if draws % batch_size else ""
    read = _number(len(pictures), "picture", "pictures")
    return f"{read} can be read; at batch size {batch_size} {a_round} is {batches}{rest}."


def _number(count: int | float, one: str, many: str) -> str:
    """Write a number with its noun."""
    return f"{count} {one if count == 1 else many}"


def _rounded(number: int | float) -> int | float:
    """Leave two digits behind the point, and the point out where there are none."""
    return int(number) if number == int(number) else round(number, 2)


def _table(buckets: Sequence[Bucket]) -> Table:
    """Show the buckets that `learn --buckets` makes."""
    rows = tuple(
        (f"{bucket.width} × {bucket.height}", bucket.pictures, bucket.draws, _rounded(bucket.batches))
        for bucket in buckets
    )
    title = "Middle squares are learned; with --buckets all would have this size:"
    if len(buckets) > 1:
        batches = sum(bucket.draws for bucket in buckets)
        title = f"Middle squares are learned; with --buckets a round is {batches} full batches, each of one size:"
    return Table(title, ("bucket", "pictures", "with repeats", "batches a round"), rows)


def _totals(counts: Counter[str]) -> dict[str, int]:
    """Return the number of findings of each severity."""
    return {"errors": counts["error"], "warnings": counts["warning"], "notes": counts["note"]}


def _counted(counts: Counter[str]) -> str:
    """Write the numbers of findings in words."""
    return ", ".join(_number(number, name[:-1], name) for name, number in _totals(counts).items() if number)
