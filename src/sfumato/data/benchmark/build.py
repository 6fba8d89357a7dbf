"""Write a benchmark with truth: choose subjects, draw what is missing, compose, describe everything in one file."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.data.benchmark.icons import make_icons
from sfumato.data.benchmark.people import Drawings, PersonPlan, drawn_record, make_person, not_drawn, plan_people
from sfumato.data.benchmark.pictures import Made, Pixels
from sfumato.data.benchmark.schema import FILE, PICTURES, Benchmark, Licence
from sfumato.data.images import png_bytes
from sfumato.data.primer.attributes import IdentitySpec, Variant
from sfumato.data.primer.characters import render_variants
from sfumato.data.primer.icons import STYLES
from sfumato.data.primer.library import Primer
from sfumato.data.primer.packages import ensure_packages
from sfumato.errors import ConfigError, DataError, StorageError
from sfumato.events import Artifact, Done, Event, Progress

Draw = Callable[[Sequence[tuple[IdentitySpec, Variant]], Path], list[NDArray[np.uint8]]]


def build_benchmark(
    out: Path,
    primer: Primer,
    *,
    seed: int = 0,
    count: int = 10,
    icons: bool = True,
    pictures: int = PICTURES,
    packages: Path | None = None,
    draw: Draw = render_variants,
) -> Generator[Event, None, Benchmark]:
    """Build a benchmark into a new folder; the same seed and set give the same bytes.

    Pictures of people that the set does not hold are drawn with Node; without people, or where all are there, Node is
    not needed. A new folder appears only when it is complete; an empty one is filled then, its `benchmark.json` last.

    Args:
        out: Folder to write.
        primer: The training set that the subjects are held out from.
        seed: Decides who is chosen and what is asked.
        count: Drawn people, 0 or more.
        icons: Take the held-out icons too.
        pictures: How many pictures of each subject there are to learn from, 1 to `MOST_PICTURES`.
        packages: A `node_modules` folder with the DiceBear packages; `None` takes the cache, and installs there.
        draw: Draws people.

    Yields:
        `Progress`, an `Artifact` of kind `dataset`, `Done`.

    Returns:
        What was written.

    Raises:
        ConfigError: Nothing is asked for, or the folder exists and holds something.
        DataError: The set holds out too few people, or Node is needed and missing.
        StorageError: The folder cannot be written.
    """
    begun = time.monotonic()
    if count == 0 and not icons:
        raise ConfigError("0 characters and no icons were asked for; needed: at least one subject.", field="count")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"'{out}' exists and is not empty; needed: a new folder.", field="output", hint="Nothing was changed."
        )
    plans = plan_people(primer, count, seed, pictures)
    made: list[Made] = []
    with tempfile.TemporaryDirectory() as folder:
        drawn = yield from _draw_missing(Path(folder), not_drawn(primer, plans), packages, draw)
        made = yield from _make_people(plans, Drawings(primer, drawn))
    made += make_icons(primer, seed, pictures) if icons else []
    entries = [subject.files() for subject in made]
    benchmark = Benchmark(
        seed=seed,
        primer=str(primer.manifest.get("sha256", "")),
        subjects=tuple(entry for entry, _ in entries),
        licences=_licences(primer, made),
    )
    written = {file: pixels for _, files in entries for file, pixels in files.items()}
    captions = {p.file: p.caption for subject in benchmark.subjects for p in subject.pictures}
    _write(out, benchmark, written, captions)
    kinds = Counter(prompt.kind for subject in benchmark.subjects for prompt in subject.prompts)
    info: dict[str, Any] = {"subjects": len(made), "prompts": dict(kinds), "pictures": len(written)}
    yield Artifact(out, "dataset", info)
    yield Done(time.monotonic() - begun, info)
    return benchmark


def _draw_missing(
    folder: Path, missing: Sequence[tuple[IdentitySpec, Variant]], packages: Path | None, draw: Draw
) -> Generator[Event, None, Primer]:
    """Draw what the training set does not hold, into a folder that serves as a set of its own."""
    records: list[dict[str, Any]] = []
    if missing:
        modules = packages if packages is not None else (yield from ensure_packages())
        yield Progress("draw people", 0, len(missing))
        for number, ((identity, variant), pixels) in enumerate(zip(missing, draw(missing, modules), strict=True)):
            records.append(drawn_record(identity, variant, number))
            Image.fromarray(pixels).save(folder / records[-1]["file"], "PNG")
        yield Progress("draw people", len(missing), len(missing))
    return Primer(folder, (), records, {})


def _make_people(plans: Sequence[PersonPlan], find: Drawings) -> Generator[Event, None, list[Made]]:
    """Compose the people."""
    made = []
    for number, plan in enumerate(plans, start=1):
        made.append(make_person(plan, find))
        yield Progress("compose", number, len(plans))
    return made


def _licences(primer: Primer, made: Sequence[Made]) -> dict[str, Licence]:
    """Say whose drawings the subjects are, as the training set's manifest does."""
    packages = {entry["package"]: entry for entry in primer.manifest.get("sources", ())}
    styles = {entry["style"]: entry for entry in primer.manifest.get("character_styles", ())}
    known = {style: packages[package] for style, package in STYLES.items() if package in packages} | styles
    wanted = sorted({subject.licence for subject in made})
    absent = [name for name in wanted if name not in known]
    if absent:
        raise DataError(
            f"The manifest of {primer.folder} names no licence for the style '{absent[0]}'; it names "
            f"{', '.join(sorted(known)) or 'none'}.",
            hint="Build the set again with 'sfumato data primer'.",
        )
    return {name: Licence(licence=known[name]["licence"], attribution=known[name]["attribution"]) for name in wanted}


def _write(out: Path, benchmark: Benchmark, pictures: Mapping[str, Pixels], captions: Mapping[str, str]) -> None:
    """Write everything beside the folder and move it to its place."""
    place = out.resolve()  # `.` has no name of its own
    stage = place.with_name(f".{place.name}.part")
    try:
        if stage.exists():
            shutil.rmtree(stage)
        for file, pixels in pictures.items():
            path = stage / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png_bytes(Image.fromarray(pixels)))
        for file, caption in captions.items():
            (stage / file).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
        (stage / FILE).write_text(benchmark.to_json(), encoding="utf-8")
        if not place.exists():
            stage.rename(place)
            return
        for path in sorted(stage.iterdir(), key=lambda path: path.name == FILE):  # someone may work in the folder
            path.rename(place / path.name)
        stage.rmdir()
    except OSError as error:
        raise StorageError(f"The folder {out} cannot be written: {error.strerror}.", field="output") from error
