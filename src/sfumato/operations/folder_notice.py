"""Say at the start of a lesson what the doctor finds in its folders: one line a folder, and nothing is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sfumato.data.buckets import check_buckets
from sfumato.data.doctor import Examined, examine
from sfumato.data.numbered_folders import Naming
from sfumato.errors import SfumatoError
from sfumato.events import Finding, Notice, Progress
from sfumato.formats.bundle import Bundle
from sfumato.operations.doctor import buckets_of
from sfumato.operations.recorded_base import recorded_base
from sfumato.requests import DoctorRequest, flag_of
from sfumato.runtime.command_line import command_line
from sfumato.training.learn_config import LearnConfig, SubjectConfig

GRAVEST_FIRST = (
    "unread-format",
    "unopened-folder",
    "unread-folder",
    "metadata-unread",
    "mask-named",
    "caption-other-word",
    "small",
    "blurred",
    "duplicate",
    "near-duplicate",
    "transparent",
    "aspect",
    "mask-outside",
    "alpha-outside",
    "animated",
    "bucket-small",
    "caption-orphan",
    "caption-lines",
    "metadata-unknown-key",
)
"""Kinds of findings that are worth a look before a lesson.

Errors are none of them: the lesson stops at each, or its settings make it harmless. Nor are notes, what only matters to
other programs, and what the lesson says or refuses itself.
"""

MEGAPIXELS = 250
"""What is looked into of a folder, see `examine`: 250 small pictures or some 20 of 12 million pixels, in some 10 s."""

_NAMED = 3
_NAME_SAYS_IT = ("unread-format", "caption-orphan")


def folder_notices(config: LearnConfig, base: Bundle) -> Iterator[Notice]:
    """Examine the folder of each subject and say what is worth a look; nothing is written or changed.

    Args:
        config: The lesson.
        base: Its base, which is only asked for its sizes.

    Yields:
        A `Notice` for each folder in which something is worth a look.
    """
    for subject in config.subjects:
        try:
            found, looked = _examined(subject, config, base)
        except (SfumatoError, OSError, MemoryError):
            continue  # the lesson comes to the same place and says what is wrong
        worth = [one for one in found if one.kind in GRAVEST_FIRST and not _is_pointless(one.kind, config)]
        if worth:
            text = _in_words(subject.folder, worth, looked)
            yield Notice(0, f"{text} See: {_command(subject, config, base)}")


def _examined(subject: SubjectConfig, config: LearnConfig, base: Bundle) -> tuple[list[Finding], Progress]:
    """Return everything that is found in a folder, and how many of its pictures were looked into.

    Captions that are too long are left out: the lesson refuses them, and knows better which ones it says.
    """
    data, size, folder = config.pictures, base.native_size, subject.folder
    others = tuple(one.placeholder for one in config.subjects if one != subject)
    naming = Naming(subject.placeholder, subject.class_noun, config.kind == "style", others)
    examination = examine(folder, size, lambda _: None, data.mask_folder, naming=naming, most=MEGAPIXELS)
    found: list[Finding] = []
    looked = Progress("looking", 0, 0)
    while True:
        try:
            event = next(examination)
        except StopIteration as stop:
            pictures: list[Examined] = stop.value
            break
        if isinstance(event, Finding):
            found.append(event)
        else:
            looked = event
    if data.buckets and looked.done == looked.total:
        buckets = buckets_of(pictures, size, config.batch_size, base.downsample_factor)
        found += check_buckets(folder, buckets, config.batch_size)
    return found, looked


def _is_pointless(kind: str, config: LearnConfig) -> bool:
    """Say whether the settings of a lesson make a kind of finding harmless."""
    data = config.pictures
    match kind:
        case "transparent":
            return data.masks == "alpha"
        case "mask-outside":
            return data.masks != "file" or data.buckets
        case "alpha-outside":
            return data.masks != "alpha" or data.buckets
        case "aspect":
            return data.buckets
        case _:
            return kind.startswith("caption-") and config.templates != "none"


def _in_words(folder: Path, found: list[Finding], looked: Progress) -> str:
    """Count findings, name the first file of each of the gravest kinds, and count the others by their kinds."""
    groups: dict[str, list[Finding]] = {}
    for one in sorted(found, key=lambda one: GRAVEST_FIRST.index(one.kind)):
        groups.setdefault(one.kind, []).append(one)
    kinds = list(groups.values())
    many = "1 thing is" if len(found) == 1 else f"{len(found)} things are"
    part = f" in the first {looked.done} of {looked.total} pictures" if looked.done < looked.total else ""
    sentences = [f"{folder}: {many} worth a look{part}.", *(_named(folder, ones) for ones in kinds[:_NAMED])]
    if others := [f"{ones[0].title} ({len(ones)})" for ones in kinds[_NAMED:]]:
        sentences.append(f"Also: {', '.join(others)}.")
    return " ".join(sentences)


def _named(folder: Path, ones: list[Finding]) -> str:
    """Name the first of the findings of a kind, with what is there in a few words."""
    first = ones[0]
    what = first.found
    if first.path != folder:
        is_within = first.path.is_relative_to(folder)
        what = repr((first.path.relative_to(folder) if is_within else first.path).as_posix())
        if first.kind not in _NAME_SAYS_IT:
            what += f" ({re.split('[:;] ', first.found)[0]})"
    more = f" and {len(ones) - 1} more" if len(ones) > 1 else ""
    return f"{first.title[0].upper()}{first.title[1:]}: {what}{more}."


def _command(subject: SubjectConfig, config: LearnConfig, base: Bundle) -> str:
    """Write the command that examines a folder as the lesson reads it; what is usual is left out."""
    values = {
        "placeholder": subject.placeholder,
        "class_noun": subject.class_noun,
        "base": None if base.source is None else recorded_base(base),
        "batch_size": config.batch_size,
        "num_vectors": config.num_vectors,
        "mask_folder": config.pictures.mask_folder,
    }
    words = ["sfumato", "data", "doctor", str(subject.folder)]
    for name, value in values.items():
        field = DoctorRequest.model_fields[name]
        if value not in (None, field.default):
            words += [flag_of(name, field).names[-1], str(value)]
    words += ["--style"] if config.kind == "style" else []
    return command_line(words)
