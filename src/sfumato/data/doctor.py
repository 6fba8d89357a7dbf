"""Examine a folder of pictures before anything is learned from it: every bad file is named, with what to do."""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfumato.data.caption_checks import Measure, check_captions, check_other_files, read_captions
from sfumato.data.caption_files import is_caption, short
from sfumato.data.findings import finding
from sfumato.data.fingerprint import HASH_BITS, near_pairs
from sfumato.data.images import is_beside, is_picture
from sfumato.data.inspection import Facts, inspect_picture, name_content
from sfumato.data.listing import Entry, scan_folder, visible
from sfumato.data.masks import check_mask_folder, fault_of, is_named_like_mask, load_mask, masks_of
from sfumato.data.numbered_folders import NOBODY, Naming, check_subjects
from sfumato.data.variants import misses_middle
from sfumato.errors import UnreadableImage
from sfumato.events import Finding, Progress

LEAST_SHARPNESS = 8.0
"""Variance of the Laplacian below which a picture has hardly an edge."""

SHARP_SHARE = 0.1
"""Share of the set's median sharpness below which a picture counts as blurred."""

ENOUGH_TO_COMPARE = 4
_UNREAD = (".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd", ".mp4", ".mov", ".webm")
_UNREAD_CONTENT = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "AVIF", "HEIC", "PSD")
"""What a file without the ending of a picture may be all the same; camera files are TIFF."""


@dataclass(frozen=True)
class Examined:
    """A picture that can be read.

    Attributes:
        entry: Where it is.
        facts: What was measured.
        caption: Its caption; empty for none.
        mask: The file with its mask, if there is one that can be used.
        same_as: Name of the picture with the same pixels that is kept instead of it; None for others.
        has_mask_file: There is a file with its mask, whether it can be used or not.
    """

    entry: Entry
    facts: Facts
    caption: str
    mask: Path | None
    same_as: str | None
    has_mask_file: bool = False


def examine(
    folder: Path,
    size: int,
    measure: Measure,
    mask_folder: Path | None = None,
    *,
    naming: Naming = NOBODY,
    most: int | None = None,
) -> Generator[Progress | Finding, None, list[Examined]]:
    """Examine a folder.

    Args:
        folder: The folder.
        size: Side in pixels of the squares that would be learned.
        measure: How long captions may be.
        mask_folder: A folder of masks with the names of their pictures; `None` for masks beside the pictures.
        naming: What the lesson calls the subject, where it is known.
        most: Megapixels to look into, where one that is smaller counts as one; pictures beyond are known by their names
            and captions alone. `None` for all.

    Yields:
        Progress and findings.

    Returns:
        The pictures that were looked into and can be read.

    Raises:
        DataError: A folder does not exist or is a file, or the masks' is that of the pictures.
    """
    listing = scan_folder(folder)
    files = _files(folder, mask_folder)
    yield from listing.problems
    if not listing.entries:
        yield _no_pictures(folder, files)
    yield from _unread(folder, files, listing.entries, listing.problems)
    captions, found = read_captions(listing.entries)
    yield from found
    yield from check_subjects(folder, listing.entries, captions, naming)
    yield from check_captions(listing.entries, captions, measure, naming)
    yield from check_other_files(files)
    masks, found = masks_of(folder, [entry.path for entry in listing.entries], mask_folder)
    yield from found
    read = yield from _looked_into(listing.entries, size, most)
    usable = yield from _usable(masks, read, size, is_wanted=bool(masks) or mask_folder is not None)
    if not masks and mask_folder is None:
        yield from _about_alpha(read)
    yield from _blurred(read, size)
    same_as = _duplicates(read, captions, usable)
    yield from _twins(read, same_as, captions)
    yield from _near_duplicates([item for item in read if item[0].name not in same_as])
    return [
        Examined(
            entry,
            facts,
            captions.get(entry.path, ""),
            usable.get(entry.path),
            same_as.get(entry.name),
            entry.path in masks,
        )
        for entry, facts in read
    ]


def _looked_into(
    entries: Sequence[Entry], size: int, most: int | None
) -> Generator[Progress | Finding, None, list[tuple[Entry, Facts]]]:
    """Look at one picture after the other until so many megapixels were read.

    Returns:
        The pictures that can be read, with what was measured.
    """
    read: list[tuple[Entry, Facts]] = []
    seen = 0
    for number, entry in enumerate(entries, 1):
        if most is not None and seen >= most:
            break
        facts, found = inspect_picture(entry.path, size)
        yield from found
        seen += 1 if facts is None else max(1, facts.width * facts.height // 1_000_000)
        if facts is not None:
            read.append((entry, facts))
        yield Progress("looking", number, len(entries))
    return read


def _no_pictures(folder: Path, files: list[Path]) -> Finding:
    """Tell an empty folder from one without pictures."""
    if not files:
        return finding("empty-folder", folder, "0 files")
    names = ", ".join(repr(path.relative_to(folder).as_posix()) for path in files[:3])
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return finding("no-pictures", folder, f"{len(files)} other files: {names}{more}")


def _unread(
    folder: Path, files: list[Path], entries: tuple[Entry, ...], problems: tuple[Finding, ...]
) -> Generator[Finding, None, None]:
    """Name pictures that are not read: in other folders, or in formats that are not known."""
    known = {entry.path for entry in entries}
    read = {folder, *(path.parent for path in known)}
    refused = {problem.path for problem in problems if problem.kind == "bad-repeats"}
    counts: dict[Path, int] = {}
    for path in files:
        if is_picture(path):
            if path not in known and path.parent not in refused:
                counts[path.parent] = counts.get(path.parent, 0) + 1
            elif is_named_like_mask(path, known):
                yield finding("mask-named", path, "a mask ends in .mask.png")
        elif path.suffix.lower() in _UNREAD:
            yield finding("unread-format", path, f"ends in {path.suffix}")
        elif path.parent in read and not (is_beside(path) or is_caption(path)) and (kind := _picture_within(path)):
            yield finding("unread-format", path, f"ends in '{path.suffix}' and is {kind}")
    for place, count in counts.items():
        yield finding("unread-folder", place, f"{count} picture{'s' if count > 1 else ''}")


def _picture_within(path: Path) -> str | None:
    """Name the kind of picture that a file holds whatever its name; `None` for other files."""
    try:
        with path.open("rb") as file:
            kind = name_content(file.read(64))
    except OSError:
        return None
    return kind if kind in _UNREAD_CONTENT else None


def _files(folder: Path, mask_folder: Path | None) -> list[Path]:
    """List the files of a folder without those of a folder of masks in it.

    Raises:
        DataError: The folder of masks does not exist, is a file, or is the folder itself.
    """
    files = visible(folder)
    if mask_folder is None:
        return files
    check_mask_folder(folder, mask_folder)
    place = mask_folder.resolve()
    if not place.is_relative_to(folder.resolve()):
        return files
    return [path for path in files if not path.resolve().is_relative_to(place)]


def _usable(
    masks: dict[Path, Path], read: list[tuple[Entry, Facts]], size: int, *, is_wanted: bool
) -> Generator[Finding, None, dict[Path, Path]]:
    """Name masks that cannot be used or miss the crop, and where masks are wanted pictures without one.

    Returns:
        The masks that can be used.
    """
    usable = {}
    for entry, facts in read:
        mask = masks.get(entry.path)
        if mask is None:
            if is_wanted:
                yield finding("mask-missing", entry.path, f"{len(masks)} of {len(read)} pictures have one")
            continue
        try:
            pixels = load_mask(mask)
            fault = fault_of(pixels, facts.width, facts.height)
        except UnreadableImage as error:
            fault = error.message.removeprefix(f"{mask} is ").rstrip(".")
        if fault is not None:
            yield finding("mask-unusable", mask, fault)
            continue
        usable[entry.path] = mask
        if misses_middle(pixels, size):
            side, whole = min(facts.width, facts.height), f"{facts.width} × {facts.height} pixels"
            yield finding("mask-outside", mask, f"nothing white in the middle {side} × {side} of {whole}")
    return usable


def _about_alpha(read: list[tuple[Entry, Facts]]) -> Generator[Finding, None, None]:
    """Say what would keep --masks alpha from being used, where pictures are see-through."""
    count = sum(facts.is_see_through for _, facts in read)
    without = [entry.path for entry, facts in read if not facts.has_alpha]
    if count and without:
        yield finding("alpha-missing", without[0], f"{len(without)} of {len(read)} have none, {count} are see-through")
    for entry, facts in read:
        if facts.is_outside:
            side, whole = min(facts.width, facts.height), f"{facts.width} × {facts.height} pixels"
            yield finding("alpha-outside", entry.path, f"nothing solid in the middle {side} × {side} of {whole}")


def _blurred(read: list[tuple[Entry, Facts]], size: int) -> Generator[Finding, None, None]:
    """Name pictures without edges; those that were enlarged are soft anyway and have a finding of their own."""
    values = [facts.sharpness for _, facts in read]
    middle = statistics.median(values) if len(values) >= ENOUGH_TO_COMPARE else 0.0
    for entry, facts in read:
        if min(facts.width, facts.height) < size or facts.sharpness >= max(LEAST_SHARPNESS, SHARP_SHARE * middle):
            continue
        others = f"; the middle of the set is {middle:.1f}" if middle else ""
        text = f"sharpness {facts.sharpness:.1f} at {size} × {size}{others}"
        yield finding("blurred", entry.path, text)


def _duplicates(read: list[tuple[Entry, Facts]], captions: dict[Path, str], masks: dict[Path, Path]) -> dict[str, str]:
    """Find pictures with the same pixels; of each group the one that says most of itself stays, of equals the first.

    Returns:
        For the name of each of the others the name of the one that stays.
    """
    groups: dict[str, list[Entry]] = {}
    for entry, facts in read:
        groups.setdefault(facts.digest, []).append(entry)

    def said(entry: Entry) -> tuple[bool, bool, bool]:
        return entry.path in masks, bool(entry.texts or entry.metadata), entry.path in captions

    kept = {digest: max(group, key=said) for digest, group in groups.items()}
    return {
        entry.name: kept[digest].name for digest, group in groups.items() for entry in group if entry != kept[digest]
    }


def _twins(
    read: list[tuple[Entry, Facts]], same_as: dict[str, str], captions: dict[Path, str]
) -> Generator[Finding, None, None]:
    """Name pictures with the same pixels as another, and what only their captions say."""
    texts = {entry.name: captions.get(entry.path, "") for entry, _ in read}
    for entry, _ in read:
        kept = same_as.get(entry.name)
        if kept is None:
            continue
        own = texts[entry.name]
        other = f", with another caption: '{short(own)}'" if own and own != texts[kept] else ""
        yield finding("duplicate", entry.path, f"the same pixels as '{kept}'{other}")


def _near_duplicates(read: Iterable[tuple[Entry, Facts]]) -> Generator[Finding, None, None]:
    """Name pictures that are nearly the same as an earlier one."""
    items = list(read)
    for index, earlier, bits, colours in near_pairs([facts.fingerprint for _, facts in items]):
        text = f"like '{items[earlier][0].name}': {bits} of {HASH_BITS} bits and {colours:.1f} of 255 in colour apart"
        yield finding("near-duplicate", items[index][0].path, text)
