"""Draw people with DiceBear, render them, and write the characters of the training set.

Node draws many people in one process (`characters.mjs`, JSON lines in and out); resvg renders. With the same packages
the same names give the same bytes.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import re
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfumato.data.primer.attributes import (
    IdentitySpec,
    OptionSet,
    Variant,
    attributes,
    draw_identity,
    draw_variant,
    drawing,
)
from sfumato.data.primer.descriptions import describe
from sfumato.data.primer.looks import IDENTITY_SLOTS, Style, load_styles
from sfumato.data.primer.packages import renderer_version, require_node
from sfumato.errors import DataError, StorageError
from sfumato.events import Artifact, Event, Progress

__all__ = ["build_characters", "describe", "draw_people", "identity_of", "render_options", "render_variants"]

CHARACTER_SIZE = 128
HELD_OUT_SPLIT = "held_out_identity"
_DRAWER = Path(__file__).with_name("characters.mjs")
_CHUNK = 256
_MAX_TRIES = 200


def build_characters(
    out: Path,
    packages_dir: Path,
    *,
    seed: int = 0,
    count: int = 1200,
    variants: int = 2,
    held_out: int = 60,
    held_out_variants: int = 6,
    workers: int = 2,
) -> Iterator[Event]:
    """Render people of every style into `out/characters/<style>/` and describe them in `out/characters.jsonl`.

    Why identities are held out: what a personalised model makes of a person can be compared with the truth only if
    the base model has never seen that person.

    Args:
        out: Folder to write.
        packages_dir: A `node_modules` folder with the DiceBear packages.
        seed: Decides who is drawn.
        count: Identities per style for training; fewer where a style has not so many different ones.
        variants: Pictures per training identity.
        held_out: Identities per style that are in no training picture.
        held_out_variants: Pictures per held-out identity; the first shows the person without glasses and hat.
        workers: Processes that draw and render.

    Yields:
        `Progress`, then one `Artifact`.

    Raises:
        DataError: Node, the renderer or the packages are missing, or a drawing fails.
        StorageError: The folder cannot be written.
    """
    begun = time.monotonic()
    records: list[dict[str, Any]] = []
    jobs: list[tuple[OptionSet, Path]] = []
    for style in load_styles().values():
        _make_folder(out / "characters" / style.key)
        for identity, variant, number, split in draw_people(
            style, seed, count=count, variants=variants, held_out=held_out, held_out_variants=held_out_variants
        ):
            records.append(record_of(identity, variant, number, split))
            jobs.append((drawing(identity, variant), out / records[-1]["file"]))
    yield Progress("draw characters", 0, len(jobs))
    for done in _render_files(jobs, packages_dir, workers):
        yield Progress("draw characters", done, len(jobs))
    _write(out / "characters.jsonl", "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())
    info = {
        "characters": len(records),
        "identities": len({r["identity"] for r in records}),
        "by_style": dict(Counter(r["style"] for r in records)),
        "by_split": dict(Counter(r["split"] for r in records)),
        "bytes": sum(path.stat().st_size for _, path in jobs),
        "seconds": round(time.monotonic() - begun, 1),
    }
    yield Artifact(out / "characters.jsonl", "dataset", info)


def draw_people(
    style: Style, seed: int, *, count: int, variants: int, held_out: int, held_out_variants: int
) -> Iterator[tuple[IdentitySpec, Variant, int, str]]:
    """Decide who is in the set and how each is shown.

    The held-out people are drawn first, from their own random numbers: they do not depend on `count`. No two people
    have the same identity.

    Args:
        style: The style to draw in.
        seed: Decides everything.
        count: Identities for training.
        variants: Pictures of each of them, all different.
        held_out: Identities held out.
        held_out_variants: Pictures of each of them.

    Yields:
        Identity, variant, number of the variant, and split.
    """
    taken: set[tuple[tuple[str, str], ...]] = set()
    groups = (("h", held_out, held_out_variants, HELD_OUT_SPLIT), ("", count, variants, "train"))
    for prefix, amount, pictures, split in groups:
        people = random.Random(f"{seed}/{style.key}/{split}")
        for index in range(amount):
            identity = _new_identity(style, f"{style.key}-{prefix}{index:05d}", people, taken)
            if identity is None:
                break
            taken.add(identity.key)
            shown = random.Random(f"{seed}/{identity.name}/variants")
            for number, variant in enumerate(_different_variants(identity, pictures, shown, prefix == "h")):
                yield identity, variant, number, split


def record_of(identity: IdentitySpec, variant: Variant, number: int, split: str) -> dict[str, Any]:
    """Describe one picture for `characters.jsonl`; with `identity_of` it can be drawn again, also changed."""
    return {
        "identity": identity.name,
        "variant": number,
        "style": identity.style,
        "looks": {**identity.looks, **variant.looks},
        "features": dict(identity.features),
        "attributes": attributes(identity, variant),
        "split": split,
        "file": f"characters/{identity.style}/{identity.name}-{number}.png",
    }


def identity_of(record: Mapping[str, Any]) -> IdentitySpec:
    """Return the person of a record, to draw it again in another variant or with another property."""
    kept = {slot: name for slot, name in record["looks"].items() if slot in IDENTITY_SLOTS}
    return IdentitySpec(record["identity"], record["style"], kept, record["features"])


def render_variants(
    people: Sequence[tuple[IdentitySpec, Variant]], packages_dir: Path, size: int = CHARACTER_SIZE
) -> list[NDArray[np.uint8]]:
    """Draw people and return their pictures.

    Example: `render_variants([(person, person.variant(expression="laughing", glasses="round"))], packages)`.

    Args:
        people: Who, and how to show each.
        packages_dir: A `node_modules` folder with the DiceBear packages.
        size: Width and height in pixels.

    Returns:
        RGBA pictures with a transparent ground, each `(size, size, 4)`, straight alpha.

    Raises:
        DataError: The renderer, Node or the packages are missing, Node is too old, or a drawing fails.
    """
    renderer_version()
    require_node()
    svgs = render_options([drawing(identity, variant) for identity, variant in people], packages_dir)
    return [np.asarray(Image.open(io.BytesIO(rasterize(svg, size))).convert("RGBA")) for svg in svgs]


def render_options(drawings: Sequence[OptionSet], packages_dir: Path) -> list[str]:
    """Draw option sets with one Node process.

    Args:
        drawings: What to draw.
        packages_dir: A `node_modules` folder with the DiceBear packages.

    Returns:
        One SVG document for each.

    Raises:
        DataError: Node is missing, the packages are missing, or a drawing fails; with the message of Node.
    """
    node = shutil.which("node")
    if node is None:
        raise DataError(
            "The program 'node' was not found; the characters are drawn with it.",
            hint="Install Node.js 20 or newer and try again.",
        )
    lines = "".join(json.dumps({"style": d.style, "options": d.options}) + "\n" for d in drawings)
    run = subprocess.run(
        [node, str(_DRAWER), str(packages_dir)], input=lines, capture_output=True, encoding="utf-8", check=False
    )
    answers = run.stdout.splitlines()
    if run.returncode != 0 or len(answers) != len(drawings):
        raise DataError(
            f"Node could not draw {len(drawings)} characters with the packages in {packages_dir} "
            f"(exit code {run.returncode}, {len(answers)} drawn): {_reason(run.stderr)}",
            field="packages",
            hint="Check that @dicebear/core and @dicebear/collection 9.4.3 are installed there.",
        )
    return [_svg_of(json.loads(answer), d) for answer, d in zip(answers, drawings, strict=True)]


def rasterize(svg: str, size: int = CHARACTER_SIZE) -> bytes:
    """Render an SVG document to PNG bytes with a transparent ground."""
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True))


def _svg_of(answer: Mapping[str, str], wanted: OptionSet) -> str:
    """Take the drawing out of an answer, cut to the part that is kept."""
    if "svg" not in answer:
        raise DataError(f"Node could not draw a character in style '{wanted.style}': {answer.get('error')}")
    if wanted.view is None:
        return answer["svg"]
    return re.sub(r'viewBox="[^"]*"', f'viewBox="{wanted.view}"', answer["svg"], count=1)


def _reason(text: str) -> str:
    """Pick the line of Node's complaint that says what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["no message"])[0][:400]


def _new_identity(
    style: Style, name: str, rng: random.Random, taken: set[tuple[tuple[str, str], ...]]
) -> IdentitySpec | None:
    """Draw a person who differs from all before; `None` when the style has hardly any left."""
    for _ in range(_MAX_TRIES):
        identity = draw_identity(style, name, rng)
        if identity.key not in taken:
            return identity
    return None


def _different_variants(identity: IdentitySpec, pictures: int, rng: random.Random, plain: bool) -> list[Variant]:
    """Draw variants of a person that differ; the first is plain on request."""
    found: list[Variant] = []
    for _ in range(_MAX_TRIES):
        if len(found) == pictures:
            break
        variant = draw_variant(identity, rng, plain=plain and not found)
        if variant not in found:
            found.append(variant)
    return found


def _render_files(jobs: Sequence[tuple[OptionSet, Path]], packages_dir: Path, workers: int) -> Iterator[int]:
    """Draw and write chunks in several processes; yields how many are done."""
    chunks = [jobs[start : start + _CHUNK] for start in range(0, len(jobs), _CHUNK)]
    done = 0
    if workers <= 1:
        for chunk in chunks:
            done += _render_chunk(chunk, packages_dir)
            yield done
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for written in pool.map(_render_chunk, chunks, [packages_dir] * len(chunks)):
            done += written
            yield done


def _render_chunk(jobs: Sequence[tuple[OptionSet, Path]], packages_dir: Path) -> int:
    """Draw one chunk and write its files."""
    for svg, (_, path) in zip(render_options([d for d, _ in jobs], packages_dir), jobs, strict=True):
        _write(path, rasterize(svg))
    return len(jobs)


def _make_folder(path: Path) -> None:
    """Make a folder of the set."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The folder {path} cannot be written: {error.strerror}.", field="out") from error


def _write(path: Path, content: bytes) -> None:
    """Write a file of the set."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.", field="out") from error
