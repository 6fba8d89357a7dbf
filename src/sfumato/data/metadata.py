"""Captions in `metadata.jsonl`: one JSON object a line with `file_name` and `text`, as in image folders of the Hub."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from sfumato.data.findings import finding, unopened
from sfumato.data.images import EXTENSIONS
from sfumato.events import Finding

METADATA = "metadata.jsonl"
KEYS = ("file_name", "text")
_SHOWN = 60


def read_metadata(folder: Path) -> tuple[dict[Path, str], list[Finding]]:
    """Read the captions that a folder's `metadata.jsonl` gives.

    Args:
        folder: The folder; it need not hold such a file.

    Returns:
        The caption of each picture in one line, and everything that is wrong with the file.
    """
    path = folder / METADATA
    captions: dict[Path, str] = {}
    problems: list[Finding] = []
    try:
        if not path.is_file():
            return captions, problems
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        return captions, [finding("metadata-encoding", path, f"byte {error.start} is no UTF-8")]
    except OSError as error:
        return captions, [unopened(path, error)]
    unknown: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                problems += _read_line(line, number, path, captions, unknown)
            except RecursionError:
                problems.append(finding("metadata-json", path, f"line {number}: nested too deeply: {line[:_SHOWN]}"))
    if unknown:
        keys = ", ".join(f"{key!r} in {count} line{'s' if count > 1 else ''}" for key, count in unknown.items())
        problems.append(finding("metadata-unknown-key", path, keys))
    return captions, problems


def _read_line(line: str, number: int, path: Path, captions: dict[Path, str], unknown: Counter[str]) -> list[Finding]:
    """Read one line into `captions`, count its unknown keys and return what is wrong with it."""
    try:
        entry = json.loads(line)
    except ValueError as error:
        return [finding("metadata-json", path, f"line {number}: {error}")]
    if not isinstance(entry, dict):
        return [finding("metadata-json", path, f"line {number} holds a {type(entry).__name__}, not an object")]
    others = [key for key in entry if key not in KEYS]
    name, text = entry.get("file_name"), entry.get("text")
    if not isinstance(name, str) or not isinstance(text, str):
        return [finding("metadata-entry", path, f"line {number}: {_lacking(entry, others)}")]
    if any("\ud800" <= letter <= "\udfff" for letter in name + text):
        return [finding("metadata-entry", path, f"line {number}: half a letter, which no file can hold: {line[:60]}")]
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return [finding("metadata-entry", path, f"line {number}: {name!r} may lead out of the folder")]
    picture = path.parent / name
    if picture in captions:
        return [finding("metadata-entry", path, f"line {number}: {name!r} has an entry already")]
    try:
        is_file = picture.is_file()
    except OSError as error:
        shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
        what = f"{shown!r} cannot be opened: {error.strerror} ({len(name)} letters)"
        return [finding("metadata-missing-file", path, f"line {number}: {what}")]
    if not is_file or picture.suffix.lower() not in EXTENSIONS:
        what = "is no picture that is read" if is_file else "does not exist"
        return [finding("metadata-missing-file", path, f"line {number}: {name!r} {what}")]
    captions[picture] = " ".join(text.split())
    unknown.update(others)
    return []


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
