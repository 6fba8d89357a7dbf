"""Build the training set `primer`: install the packages, render icons and characters, describe it all in a manifest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sfumato.data.primer.characters import build_characters
from sfumato.data.primer.concepts import HELD_OUT_CONCEPTS, Concept, read_concepts, split_pairs
from sfumato.data.primer.icons import STYLES, Drawing, IconSet, render_all
from sfumato.data.primer.looks import load_styles
from sfumato.data.primer.packages import PACKAGES, check_packages, ensure_packages, renderer_version, require_node
from sfumato.errors import ConfigError, DataError, StorageError
from sfumato.events import Artifact, Done, Event, Notice, Progress

FORMAT = 1
NAME = "primer"
_MANIFEST, _UNFINISHED = "manifest.json", "unfinished"


def build_primer(
    out: Path,
    *,
    seed: int = 0,
    cache: Path | None = None,
    packages_dir: Path | None = None,
    characters: bool = True,
    workers: int | None = None,
) -> Iterator[Event]:
    """Build the training set into a folder.

    Writes `icons/<style>/<concept>.png` and `icons.jsonl`, `characters/…` and `characters.jsonl`, and at the very end
    `manifest.json`: a folder without it is unfinished and is not opened.

    Args:
        out: Folder to write: a new one, or one that an earlier build made or left unfinished, which is replaced.
        seed: Decides what is held out, and the drawn people.
        cache: Where the npm packages are kept; `None` takes the user's cache folder.
        packages_dir: A `node_modules` folder to use instead of installing.
        characters: Draw people too; without them the set holds icons only, and scenes must be told so.
        workers: Processes that render; `None` takes the number of cores, at most 8.

    Yields:
        `Progress` for each phase, `Notice` for everything that was skipped, one `Artifact`, `Done`.

    Raises:
        ConfigError: The folder holds something else.
        DataError: The renderer, packages, or Node, which draws the people, are missing or not usable, or a held-out
            concept is in no icon set.
        StorageError: The folder cannot be written.
    """
    begun = time.monotonic()
    _check_place(out)
    renderer = renderer_version()
    if characters:
        require_node()
    if packages_dir is None:
        modules = yield from ensure_packages(cache)
    else:
        modules = packages_dir
        check_packages(modules)
    workers = workers or min(8, os.cpu_count() or 1)
    _start(out)
    icons = yield from _build_icons(out, modules, seed, workers)
    people: list[dict[str, Any]] = []
    if characters:
        yield from build_characters(out, modules, seed=seed, workers=workers)
        people = read_records(out / "characters.jsonl")
    manifest = _manifest(out, seed, renderer, icons, people if characters else None)
    _write_text(out / _MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    (out / _UNFINISHED).unlink(missing_ok=True)
    yield Artifact(out, "dataset", manifest["counts"])
    yield Done(time.monotonic() - begun, manifest["counts"])


def vocabulary_hash() -> str:
    """Return the hash of the vocabulary of drawn people; records can only be read with the one that wrote them."""
    return hashlib.sha256(Path(__file__).with_name("characters.json").read_bytes()).hexdigest()


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read a file with one JSON object a line.

    Raises:
        DataError: The file is missing, or a line is not a JSON object.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", hint="Build the training set again.") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number} is not a JSON object.", hint="Build the training set again.")
        records.append(record)
    return records


def _check_place(out: Path) -> None:
    """Refuse a folder with files that no build has made: icons of somebody else would be removed."""
    is_empty = not out.is_dir() or all(path.name.startswith(".") for path in out.iterdir())
    if is_empty or (out / _UNFINISHED).is_file():
        return
    try:
        manifest = json.loads((out / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    if not isinstance(manifest, dict) or manifest.get("name") != NAME:
        raise ConfigError(
            f"'{out}' is not empty and holds no training set; needed: a new folder, or one that was built before.",
            field="out",
            hint="Nothing was changed.",
        )


def _start(out: Path) -> None:
    """Make the folder, and take away what an earlier build left in it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _UNFINISHED).touch()
        for name in (_MANIFEST, "icons.jsonl", "characters.jsonl"):
            (out / name).unlink(missing_ok=True)
        for name in ("icons", "characters"):
            if (out / name).is_dir():
                shutil.rmtree(out / name)
        for style in STYLES:
            (out / "icons" / style).mkdir(parents=True)
    except OSError as error:
        raise StorageError(f"The folder {out} cannot be written: {error.strerror}.", field="out") from error


def _build_icons(out: Path, modules: Path, seed: int, workers: int) -> Generator[Event, None, list[dict[str, Any]]]:
    """Render every icon and write `icons.jsonl`; returns its records."""
    yield Progress("read icon sets", 0, len(STYLES))
    concepts = {concept.key: concept for concept in read_concepts(modules, tuple(STYLES.values()))}
    drawings = []
    for number, (style, package) in enumerate(STYLES.items(), start=1):
        icon_set = IconSet.open(modules, package)
        found = [(concept.key, icon_set.svg(concept.names)) for concept in concepts.values()]
        drawings += [Drawing(style, key, svg) for key, svg in found if svg is not None]
        yield Progress("read icon sets", number, len(STYLES))
    yield from _report_absent(drawings)
    done: list[tuple[str, str]] = []
    for number, result in enumerate(render_all(drawings, workers), start=1):
        if result.png is None:
            yield Notice(number, f"Icon {result.concept} of {result.style} was skipped: {result.problem}.")
            continue
        _write_bytes(out / _icon_file(result.style, result.concept), result.png)
        done.append((result.concept, result.style))
        if number % 100 == 0 or number == len(drawings):
            yield Progress("render icons", number, len(drawings))
    splits = split_pairs(done, seed)
    records = [_record(concepts[concept], style, splits[concept, style]) for concept, style in done]
    _write_records(out / "icons.jsonl", records)
    return records


def _report_absent(drawings: Sequence[Drawing]) -> Iterator[Event]:
    """Tell which held-out concepts a set does not draw; one that none draws cannot be held out at all."""
    for concept in HELD_OUT_CONCEPTS:
        styles = [drawing.style for drawing in drawings if drawing.concept == concept]
        if not styles:
            raise DataError(
                f"The held-out concept '{concept}' is in none of the icon sets {', '.join(STYLES)}.",
                hint="Install the packages in exactly the versions that the manifest of the training set names.",
            )
        if len(styles) < len(STYLES):
            absent = ", ".join(style for style in STYLES if style not in styles)
            yield Notice(0, f"The held-out concept '{concept}' is not drawn in {absent}.")


def _icon_file(style: str, concept: str) -> str:
    """Name the file of an icon within the folder."""
    return f"icons/{style}/{concept}.png"


def _record(concept: Concept, style: str, split: str) -> dict[str, Any]:
    """Describe one icon for `icons.jsonl`."""
    return {
        "concept": concept.key,
        "style": style,
        "label": concept.label,
        "group": concept.group,
        "keywords": list(concept.keywords),
        "synonyms": list(concept.synonyms),
        "split": split,
        "file": _icon_file(style, concept.key),
    }


def _manifest(
    out: Path,
    seed: int,
    renderer: str,
    icons: Sequence[Mapping[str, Any]],
    people: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """Describe the whole set: sources, licences, counts, and a hash over every record and picture."""
    counts: dict[str, Any] = {
        "concepts": len({icon["concept"] for icon in icons}),
        "icons": len(icons),
        "icons_by_style": dict(Counter(icon["style"] for icon in icons)),
        "icons_by_split": dict(Counter(icon["split"] for icon in icons)),
        "characters": len(people or ()),
        "characters_by_style": dict(Counter(person["style"] for person in people or ())),
        "characters_by_split": dict(Counter(person["split"] for person in people or ())),
    }
    digest = hashlib.sha256()
    for record in [*icons, *(people or ())]:
        digest.update(json.dumps(record, sort_keys=True).encode())
        digest.update((out / record["file"]).read_bytes())
    return {
        "format": FORMAT,
        "name": NAME,
        "seed": seed,
        "characters": people is not None,
        "vocabulary": vocabulary_hash(),
        "sha256": digest.hexdigest(),
        "renderer": renderer,
        "held_out_concepts": sorted(HELD_OUT_CONCEPTS),
        "counts": counts,
        "sources": [
            {"package": p.name, "version": p.version, "licence": p.licence, "attribution": p.attribution}
            for p in PACKAGES
        ],
        "character_styles": [
            {"style": style.key, "licence": style.licence, "attribution": f"{style.name} by {style.author}"}
            for style in load_styles().values()
        ],
    }


def _write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    _write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _write_text(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing."""
    stage = path.with_name(path.name + ".part")
    _write_bytes(stage, text.encode())
    stage.replace(path)


def _write_bytes(path: Path, content: bytes) -> None:
    """Write a file of the set."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.", field="out") from error
