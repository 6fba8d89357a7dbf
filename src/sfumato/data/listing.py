"""The pictures of a subject's folder with their captions, by the conventions that the field shares.

- `001.png` with `001.txt` or `001.caption` beside it;
- `metadata.jsonl` with `file_name` and `text`, which may name pictures in folders below;
- folders named `<repeats>_<caption>`, such as `10_sks dog`: their pictures are shown that often, and the caption holds
  for those that have none of their own.

The text file comes before `metadata.jsonl`, and that before the folder's name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from sfumato.data.caption_files import caption_files, read_caption
from sfumato.data.findings import finding, refusal, unopened
from sfumato.data.images import is_picture, list_images, require_folder
from sfumato.data.metadata import has_half_letters, read_metadata
from sfumato.events import Finding

MAX_REPEATS = 1000
"""Higher numbers, such as a year or a date, are taken for a mistake."""

_NUMBERED = re.compile(r"(?P<repeats>[0-9]+)_(?P<caption>.*\S.*)")


@dataclass(frozen=True)
class Entry:
    """A picture that belongs to the data.

    Attributes:
        path: The file.
        name: The path below the folder, with slashes.
        repeats: How often it is shown in a round.
        metadata: Caption in `metadata.jsonl`; empty for none.
        folder_caption: Caption in the name of its folder; empty for none.
        texts: The captions in files beside it, see `caption_files`.
    """

    path: Path
    name: str
    repeats: int = 1
    metadata: str = ""
    folder_caption: str = ""
    texts: tuple[Path, ...] = ()

    def caption(self, default: str | None = None) -> str:
        """Read the caption.

        Args:
            default: Caption for pictures that have none; `None` makes one necessary.

        Raises:
            CaptionMissing: There is none, and no default.
            DataError: A text file is not UTF-8, or two differ.
        """
        return read_caption(self.path, self.texts, self.metadata or self.folder_caption or default)


@dataclass(frozen=True)
class Listing:
    """What lies in a folder.

    Attributes:
        folder: The folder.
        entries: The pictures that are read, those in the folder itself first, each group sorted by name.
        problems: What is wrong with names and `metadata.jsonl`; no picture has been opened.
    """

    folder: Path
    entries: tuple[Entry, ...]
    problems: tuple[Finding, ...]


def scan_folder(folder: Path | str) -> Listing:
    """List the pictures of a folder and everything that is wrong with how it is laid out.

    Args:
        folder: The folder.

    Returns:
        Pictures and problems; both may be empty.

    Raises:
        DataError: The folder does not exist, is a file or cannot be read.
    """
    folder = Path(folder)
    require_folder(folder)
    try:
        pictures, folders = _pictures(folder), _folders(folder)
    except OSError as error:
        raise refusal(unopened(folder, error)) from error
    captions, problems = read_metadata(folder)
    problems += _leading_nowhere(folder)
    entries = {path: _entry(folder, path, captions) for path in pictures}
    has_own = bool(entries)
    entries |= {path: _entry(folder, path, captions) for path in captions}
    numbered: dict[Path, int] = {}
    for below in folders:
        match = _NUMBERED.fullmatch(below.name)
        if match is None or not 1 <= int(match["repeats"]) <= MAX_REPEATS:
            continue
        numbered[below] = int(match["repeats"])
        if has_half_letters(match["caption"]):
            problems.append(finding("bad-repeats", below, "its name is not UTF-8, so it cannot be a caption"))
            continue
        try:
            pictures = _pictures(below)
        except OSError as error:
            problems.append(unopened(below, error))
            continue
        inner, found = read_metadata(below)
        problems += [*found, *_leading_nowhere(below)]
        caption = " ".join(match["caption"].split())
        for path in [*pictures, *inner]:
            entries[path] = _entry(folder, path, captions | inner, numbered[below], caption)
    for below in folders:
        is_read = below in numbered or any(below in path.parents for path in captions)
        problems += [] if is_read else _misnamed(below, has_neighbours=bool(numbered), is_only=not entries)
    if has_own and numbered:
        own = sum(path.parent == folder for path in entries)
        names = ", ".join(repr(path.name) for path in list(numbered)[:3])
        problems.append(finding("mixed-folders", folder, f"{own} beside {names}"))
    texts = caption_files(entries)
    ordered = sorted(entries.values(), key=lambda entry: (entry.path.parent != folder, entry.path))
    with_texts = tuple(replace(entry, texts=texts.get(entry.path, ())) for entry in ordered)
    return Listing(folder, with_texts, tuple(problems))


def list_entries(folder: Path | str) -> list[Entry]:
    """List the pictures of a folder; what `scan_folder` calls an error is refused.

    Args:
        folder: The folder.

    Returns:
        At least one picture.

    Raises:
        EmptyDataset: There is no picture.
        DataError: The folder does not exist or cannot be read, a folder's name or `metadata.jsonl` is wrong.
    """
    listing = scan_folder(folder)
    for problem in listing.problems:
        if problem.severity == "error":
            raise refusal(problem)
    if not listing.entries:
        list_images(folder)  # says what the folder holds instead
    return list(listing.entries)


def visible(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted, also those of numbered folders that are links.

    Whatever is hidden, or lies in a hidden folder or in one that a lesson has written, is left out.
    """
    links = [path for path in folder.glob("*") if path.is_symlink() and _NUMBERED.fullmatch(path.name)]
    found: list[Path] = []
    for start in (folder, *links):
        for place, names, files in os.walk(start):
            here = Path(place)
            names[:] = [name for name in names if name[0] != "." and not is_own(here / name)]
            found += [here / name for name in files if name[0] != "."]
    return sorted(path for path in found if _is_file(path))


def is_own(folder: Path) -> bool:
    """Say whether a folder is one that a lesson has written: the state of a run, or a verdict with its pictures."""
    parts = {".run": ("checkpoints", "looks", "cache", "events.jsonl"), ".verdict": ("scores.json",)}
    return any(os.path.lexists(folder / part) for part in parts.get(folder.suffix, ()))


def _is_file(path: Path) -> bool:
    """Say whether a path is a file that the system lets us see."""
    try:
        return path.is_file()
    except OSError:
        return False


def _entry(folder: Path, path: Path, captions: dict[Path, str], repeats: int = 1, caption: str = "") -> Entry:
    """Make the entry of a picture."""
    return Entry(path, path.relative_to(folder).as_posix(), repeats, captions.get(path, ""), caption)


def _folders(folder: Path) -> list[Path]:
    """Return the folders right below one, sorted, without hidden ones and those that a lesson has written."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "." and not is_own(path))


def _pictures(folder: Path) -> list[Path]:
    """Return the pictures right in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and is_picture(path))


def _leading_nowhere(folder: Path) -> list[Finding]:
    """Name links right in a folder that are called like pictures and lead to nothing."""
    links = sorted(path for path in folder.iterdir() if path.is_symlink() and path.name[0] != "." and is_picture(path))
    return [
        finding("link-to-nothing", path, f"it leads to '{path.readlink()}', which is not there")
        for path in links
        if not path.exists()
    ]


def _misnamed(folder: Path, *, has_neighbours: bool, is_only: bool) -> list[Finding]:
    """Say that a folder with pictures should carry a number of repeats.

    A number that cannot be meant is always a mistake. A name without a number is one beside numbered folders, and where
    nothing else can be read and the name looks as if the number was forgotten; elsewhere such a folder may be meant to
    be left out. Of one that cannot be opened nothing more is known.
    """
    try:
        match, count = _NUMBERED.fullmatch(folder.name), len(_pictures(folder))
    except OSError as error:
        return [unopened(folder, error, "unopened-folder")]
    if not count or not (match or has_neighbours or (is_only and "_" in folder.name)):
        return []
    reason = f"{int(match['repeats'])} repeats, not 1 to {MAX_REPEATS}," if match else "no number of repeats in front"
    pictures = f"{count} picture{'s' if count > 1 else ''}"
    return [finding("bad-repeats", folder, f"{folder.name!r} has {reason} and holds {pictures}")]
