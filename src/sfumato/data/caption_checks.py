"""Look at the captions of a folder: encoding, gaps, words that are missing, texts that repeat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from sfumato.data.caption_files import check_same, is_caption, short
from sfumato.data.findings import finding
from sfumato.data.images import is_picture
from sfumato.data.listing import Entry
from sfumato.data.metadata import METADATA, TABLE
from sfumato.data.numbered_folders import NOBODY, Naming, is_their_name, taught_words
from sfumato.events import Finding

Measure = Callable[[str], tuple[str, str] | None]
"""Says what a caption's length makes: a key of `KINDS` and what is found; `None` where it fits."""

PLACEHOLDER = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]|\b(?:sks|ohwx)\b")
"""A word that captions call a subject by: `<fox>`, `[fox]`, or one of those that everybody takes."""

_OTHER_TEXTS = ("readme", "license", "licence", "requirements")


def decode_caption(data: bytes) -> tuple[str, str]:
    """Decode a caption in whatever encoding it seems to be.

    Args:
        data: The bytes of the file.

    Returns:
        The text with its lines and the name of the encoding: `UTF-8`, `UTF-16`, or `Windows-1252`, which is assumed of
        everything else.
    """
    encodings = [("utf-8-sig", "UTF-8"), ("cp1252", "Windows-1252")]
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings.insert(0, ("utf-16", "UTF-16"))
    elif b"\0" in data:
        encodings.insert(0, ("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", "UTF-16"))
    for codec, name in encodings:
        with suppress(UnicodeDecodeError):
            return data.decode(codec), name
    return data.decode("latin-1"), "Windows-1252"


def read_captions(entries: Sequence[Entry]) -> tuple[dict[Path, str], list[Finding]]:
    """Read every caption, whatever its encoding.

    Args:
        entries: The pictures.

    Returns:
        The caption of each picture that has one in a text file, in `metadata.jsonl` or in its folder's name; and
        files that are empty, not UTF-8, of several lines, or say something else than another of the same picture.
    """
    captions: dict[Path, str] = {}
    found: list[Finding] = []
    for entry in entries:
        told: dict[Path, str] = {}
        for path in entry.texts:
            try:
                raw, encoding = decode_caption(path.read_bytes())
            except OSError as error:
                found.append(finding("unopened", path, error.strerror or str(error)))
                continue
            if text := " ".join(raw.split()):
                told[path] = text
            if encoding != "UTF-8":
                found.append(finding("caption-encoding", path, f"{encoding}, it seems: '{short(text)}'"))
            elif not text:
                found.append(finding("caption-empty", path, f"{path.stat().st_size} bytes, no word"))
            lines = sum(bool(line.strip()) for line in raw.splitlines())
            if lines > 1:
                found.append(finding("caption-lines", path, f"{lines} lines, read as '{short(text)}'"))
        if differs := check_same(entry.path, told):
            found.append(differs)
        text = next(iter(told.values()), "") or entry.metadata or entry.folder_caption
        if text:
            captions[entry.path] = text
    return captions, found


def check_captions(
    entries: Sequence[Entry], captions: dict[Path, str], measure: Measure, naming: Naming = NOBODY
) -> list[Finding]:
    """Compare the captions with one another and with what the base reads.

    Args:
        entries: The pictures.
        captions: The captions that `read_captions` gave.
        measure: How long they may be.
        naming: What the lesson calls its subjects, as far as it is known.

    Returns:
        Gaps, words of other trainers, words that most captions have, repeated texts, long texts.
    """
    found: list[Finding] = []
    bare = [entry for entry in entries if entry.path not in captions and not entry.texts]
    if captions:
        found += [
            finding("caption-missing", entry.path, f"{len(captions)} of {len(entries)} pictures have a caption")
            for entry in bare
        ]
    of_folder = {entry.path: entry.folder_caption for entry in entries}
    own = {path: text for path, text in captions.items() if text != of_folder[path]}
    calls = _calls(taught_words(entries))
    if naming.words:
        learned = {path: text for path, text in captions.items() if path in own or not is_their_name(text, naming)}
        found += _other_words(learned, naming.words, calls)
    else:
        found += _without_placeholder(own, calls)
    for text, count in Counter(own.values()).items():
        if count > 1:
            first = next(path for path, other in own.items() if other == text)
            found.append(finding("caption-repeated", first, f"{count} of {len(own)} captions are '{short(text)}'"))
    places = {path if path in own else path.parent: text for path, text in captions.items()}
    measured = ((path, measure(text)) for path, text in places.items())
    found += [finding(problem[0], path, problem[1]) for path, problem in measured if problem is not None]
    return found


def check_other_files(files: Iterable[Path]) -> list[Finding]:
    """Name captions without a picture, and files with captions of many that are not read.

    Args:
        files: All files of the folder.
    """
    files = list(files)
    stems = {(path.parent, path.stem) for path in files if is_picture(path)}
    captions = (path for path in files if is_caption(path) and path.stem.lower() not in _OTHER_TEXTS)
    orphans = [
        finding("caption-orphan", path, f"no picture is named '{path.stem}'")
        for path in captions
        if (path.parent, path.stem) not in stems
    ]
    places = {path.parent for path in files if path.name == METADATA}
    return orphans + [finding("metadata-unread", path, why) for path in files if (why := _why_unread(path, places))]


def _why_unread(path: Path, places: Collection[Path]) -> str | None:
    """Say why a file with the captions of many pictures is not read; `None` for other files, and for those that are.

    Args:
        path: The file.
        places: Folders with a `metadata.jsonl`.
    """
    name = path.name.lower()
    if path.name == TABLE:
        return f"{METADATA} beside it is read in its place" if path.parent in places else None
    if name in (METADATA, TABLE) and path.name != name:
        return f"it would have to be called '{name}'"
    if name == "metadata.parquet" or (path.suffix == ".json" and name.startswith("meta")):
        return "its format is not read"
    return None


def _calls(taught: Collection[str]) -> re.Pattern[str]:
    """Return the pattern of words that a subject is called by, those that names of folders teach among them."""
    more = "".join(rf"|\b(?i:{re.escape(word)})\b" for word in sorted(taught))
    return re.compile(PLACEHOLDER.pattern + more)


def _placeholders(captions: dict[Path, str], calls: re.Pattern[str]) -> list[tuple[str, int]]:
    """Count in how many captions each word such as <fox>, [fox] or sks stands, by its spelling."""
    return sorted(Counter(word for text in captions.values() for word in set(calls.findall(text))).items())


def _other_words(captions: dict[Path, str], words: Collection[str], calls: re.Pattern[str]) -> list[Finding]:
    """Name words such as <cat>, [fox] or sks that at least half of the captions have and the lesson does not."""
    known = {word.lower() for word in words}
    found: list[Finding] = []
    for word, count in _placeholders(captions, calls):
        if 2 * count >= len(captions) and word.lower() not in known:
            first = next(path for path, text in captions.items() if word in calls.findall(text))
            found.append(finding("caption-other-word", first, f"{word!r} stands in {count} of {len(captions)}"))
    return found


def _without_placeholder(captions: dict[Path, str], calls: re.Pattern[str]) -> list[Finding]:
    """Name captions that lack a word such as <fox>, [fox] or sks which at least half of the captions have."""
    found: list[Finding] = []
    for word, count in _placeholders(captions, calls):
        if 2 * count < len(captions):
            continue
        for path, text in captions.items():
            if word not in calls.findall(text):
                what = f"{word!r} stands in {count} of {len(captions)}, not in '{short(text)}'"
                found.append(finding("caption-placeholder", path, what))
    return found
