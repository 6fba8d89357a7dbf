"""Captions in `metadata.jsonl` or `metadata.csv`, with `file_name` and `text`, as in image folders of the Hub.

The first holds one JSON object a line, the second a table whose first line names its columns.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.data.findings import finding, unopened
from sfumato.data.images import EXTENSIONS
from sfumato.events import Finding

METADATA = "metadata.jsonl"
TABLE = "metadata.csv"
KEYS = ("file_name", "text")
_SHOWN = 60


def read_metadata(folder: Path) -> tuple[dict[Path, str], list[Finding]]:
    """Read the captions that a folder's `metadata.jsonl` or `metadata.csv` gives.

    Args:
        folder: The folder; it need not hold such a file. Of both the first is read.

    Returns:
        The caption of each picture in one line, and everything that is wrong with the file.
    """
    path = folder / METADATA
    captions: dict[Path, str] = {}
    problems: list[Finding] = []
    try:
        if not path.is_file():
            path = folder / TABLE
            if not path.is_file():
                return captions, problems
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return captions, [finding("metadata-encoding", path, f"byte {error.start} is no UTF-8")]
    except OSError as error:
        return captions, [unopened(path, error)]
    unknown: Counter[str] = Counter()
    if path.name == TABLE and not set(KEYS) <= set(next(csv.reader(io.StringIO(text)), ())):
        return captions, [finding("metadata-unread", path, "its first line does not name file_name and text")]
    for line, entry in _rows(text) if path.name == TABLE else _lines(text):
        fault = entry if isinstance(entry, _Fault) else _take(entry, path, captions, unknown)
        if fault is not None:
            problems.append(finding(fault.kind, path, f"line {line}{fault.what}"))
    if unknown:
        keys = ", ".join(f"{key!r} in {count} line{'s' if count > 1 else ''}" for key, count in unknown.items())
        problems.append(finding("metadata-unknown-key", path, keys))
    return captions, problems


def has_half_letters(text: str) -> bool:
    """Say whether a text holds what is no letter: half of one, or the bytes of a name that is not UTF-8."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a line: a key of `KINDS`, and what follows the line's number."""

    kind: str
    what: str


def _lines(text: str) -> Iterator[tuple[int, dict[str, Any] | _Fault]]:
    """Read one object a line, with the line's number."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as error:
            yield number, _Fault("metadata-json", f": {error}")
        except RecursionError:
            yield number, _Fault("metadata-json", f": nested too deeply: {line[:_SHOWN]}")
        else:
            is_object = isinstance(entry, dict)
            yield number, entry if is_object else _Fault("metadata-json", _no_object(entry))


def _no_object(entry: object) -> str:
    """Say what stands in place of an object."""
    return f" holds a {type(entry).__name__}, not an object"


def _rows(text: str) -> Iterator[tuple[int, dict[str, Any] | _Fault]]:
    """Read a table whose first line names its columns; a row has the number of the line that it ends on."""
    table = csv.DictReader(io.StringIO(text, newline=""), restkey="more", strict=True)
    try:
        for row in table:
            yield table.line_num, {key: value for key, value in row.items() if value is not None}
    except csv.Error as error:
        yield table.reader.line_num, _Fault("metadata-table", f": {error}")


def _take(entry: dict[str, Any], path: Path, captions: dict[Path, str], unknown: Counter[str]) -> _Fault | None:
    """Take an entry into `captions` and count its unknown keys; return what is wrong with it."""
    others = [key for key in entry if key not in KEYS]
    name, text = entry.get("file_name"), entry.get("text")
    if not isinstance(name, str) or not isinstance(text, str):
        return _Fault("metadata-entry", f": {_lacking(entry, others)}")
    if has_half_letters(name + text):
        return _Fault("metadata-entry", f": half a letter, which no file can hold: {json.dumps(entry)[:_SHOWN]}")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return _Fault("metadata-entry", f": {name!r} may lead out of the folder")
    picture = path.parent / name
    if picture in captions:
        return _Fault("metadata-entry", f": {name!r} has an entry already")
    try:
        is_file = picture.is_file()
    except OSError as error:
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
        what = f"{shown!r} cannot be opened: {error.strerror} ({len(name)} letters)"
        return _Fault("metadata-missing-file", f": {what}")
    if not is_file or picture.suffix.lower() not in EXTENSIONS:
        what = "is no picture that is read" if is_file else "does not exist"
        return _Fault("metadata-missing-file", f": {name!r} {what}")
    captions[picture] = " ".join(text.split())
    unknown.update(others)
    return None


def _lacking(entry: dict[str, Any], others: list[str]) -> str:
    """Say which of the two keys is missing or no text."""
    parts: list[str] = []
    for key in KEYS:
        value = entry.get(key)
        if key not in entry:
            given = f" ({', '.join(map(repr, others))} given)" if others else ""
            parts.append(f"{key!r} is missing{given}")
        elif not isinstance(value, str):
            parts.append(f"{key!r} is {json.dumps(value)[:40]}, not a text")
    return ", ".join(parts)
