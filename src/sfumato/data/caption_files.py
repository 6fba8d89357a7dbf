"""Captions in text files beside pictures: `fox.txt` or `fox.caption` for `fox.jpg`, the ending in either case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sfumato.data.findings import finding, refusal
from sfumato.errors import CaptionMissing, DataError
from sfumato.events import Finding

SUFFIXES = (".txt", ".caption")
"""What the name of a caption ends in, in upper or lower case: that of most programs, and the default of kohya's."""

_SHOWN = 40


def is_caption(path: Path) -> bool:
    """Say whether a file's name is that of a caption."""
    return path.suffix.lower() in SUFFIXES


def caption_files(pictures: Iterable[Path]) -> dict[Path, tuple[Path, ...]]:
    """Find the captions beside pictures.

    Args:
        pictures: Files; each of their folders is listed once.

    Returns:
        The captions of each picture that has any, those in .txt first.
    """
    listed: dict[Path, dict[str, list[Path]]] = {}
    found: dict[Path, tuple[Path, ...]] = {}
    for picture in pictures:
        folder = picture.parent
        if folder not in listed:
            listed[folder] = _by_stem(folder)
        files = listed[folder].get(picture.stem) or _by_plain_name(picture)
        if files:
            found[picture] = tuple(files)
    return found


def read_caption(picture: Path, files: Sequence[Path], default: str | None = None) -> str:
    """Read the caption of a picture.

    Args:
        picture: The picture.
        files: What `caption_files` found for it; several must say the same, and empty ones say nothing.
        default: Caption for pictures without one; `None` makes one necessary.

    Returns:
        The text in one line.

    Raises:
        CaptionMissing: There is no file, or nothing in it, and no default.
        DataError: A file is not UTF-8 text, or two say different things.
    """
    told = {path: text for path in files if (text := _read(path))}
    if differs := check_same(picture, told):
        raise refusal(differs)
    if told:
        return next(iter(told.values()))
    if default is not None:
        return default
    names = " or ".join(f"{picture.stem}{suffix}" for suffix in SUFFIXES)
    what = f"{' and '.join(path.name for path in files)} without a word" if files else f"there is no {names}"
    raise CaptionMissing(f"{picture} has no caption: {what} beside it.", hint="Write one, or give a caption for all.")


def check_same(picture: Path, told: Mapping[Path, str]) -> Finding | None:
    """Say that the captions of a picture differ; `None` where they do not.

    Args:
        picture: The picture.
        told: What each of its files says, in one line.
    """
    if len(set(told.values())) < 2:
        return None
    return finding("caption-differs", picture, ", ".join(f"{path.name} '{short(text)}'" for path, text in told.items()))


def short(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    """Return the captions right in a folder by the name that they share with their picture."""
    named: dict[str, list[Path]] = {}
    with suppress(OSError):  # a folder may let its files be opened and not be listed
        for path in sorted(folder.iterdir(), key=lambda path: (path.suffix.lower() != SUFFIXES[0], path)):
            if is_caption(path) and path.is_file():
                named.setdefault(path.stem, []).append(path)
    return named


def _by_plain_name(picture: Path) -> list[Path]:
    """Return captions that only the system finds: one that tells no cases apart takes `FOX.txt` for `fox.txt`."""
    places = (picture.with_suffix(suffix) for suffix in SUFFIXES)
    return [place for place in places if place.is_file()]


def _read(path: Path) -> str:
    """Read a caption in one line.

    Raises:
        DataError: It is not UTF-8 text.
    """
    try:
        text = " ".join(path.read_text(encoding="utf-8-sig").split())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The caption {path} cannot be read as UTF-8 text: {error}.") from error
    if "\0" in text:
        raise DataError(f"The caption {path} cannot be read as UTF-8 text: it holds zero bytes, as UTF-16 does.")
    return text
