"""What a recipe calls the base of a picture, and the base again from what is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from sfumato.errors import NotReproduced
from sfumato.formats import embedded
from sfumato.formats.bundle import EMBEDDED, Bundle, load_bundle
from sfumato.runtime.precision import Holding


def recorded_base(bundle: Bundle) -> str:
    """Return what a recipe calls a base.

    Args:
        bundle: The base.

    Returns:
        Its folder as it was given; of an embedded base the name alone, which is the same everywhere; of one that was
        not loaded its name.
    """
    if bundle.source is None:
        return bundle.name
    folder = bundle.source.resolve()
    is_embedded = folder.name in EMBEDDED and folder.parent == embedded.BASES
    return folder.name if is_embedded else bundle.source.as_posix()


def load_recorded(record: Mapping[str, Any], places: Sequence[Path], given: str | None = None) -> Bundle:
    """Load the base that a recipe names.

    Args:
        record: `base` of the recipe.
        places: Folders in which to look for one that has moved.
        given: `primer`, or a folder, to use in place of what is recorded.

    Returns:
        The base, with the very weights that are recorded, held in the same numbers.

    Raises:
        NotReproduced: It is not there, or has other weights.
        CheckpointError: It is missing where it was said to be, or damaged.
        UnknownFormat: It is something else.
    """
    held_in: Holding = "bf16" if record.get("held_in") == "bf16" else "fp32"
    wanted = record["hash"]
    candidates: Sequence[str | Path] = _candidates(record["path"], places) if given is None else [given]
    other: str | None = None
    for candidate in candidates:
        bundle = load_bundle(candidate, held_in=held_in)
        if bundle.base_hash == wanted:
            return bundle
        other = other or f"'{candidate}' has hash {bundle.base_hash[:12]}"
        del bundle  # before the next one takes its room
    if other is None:
        raise NotReproduced(
            f"base is missing: '{record['path']}' with hash {wanted[:12]} was not found.",
            field="base",
            hint="Name it with --base, or the folder it lies in with --search.",
        )
    raise NotReproduced(
        f"base differs: {other}, the recipe needs {wanted[:12]}.",
        field="base",
        hint="Name the version that drew the picture with --base, or the folder it lies in with --search.",
    )


def _candidates(recorded: str, places: Sequence[Path]) -> list[Path]:
    """Return the folders that may be the base: what is recorded, the embedded one, one of its name where it may be."""
    path = PureWindowsPath(recorded)  # which takes both kinds of slashes
    is_embedded = path.name in EMBEDDED and (recorded == path.name or path.parent.name == embedded.BASES.name)
    folders = [Path(recorded), *([embedded.BASES / path.name] if is_embedded else ())]
    folders += [place / name for place in places for name in (recorded, path.name)]
    return [folder for folder in dict.fromkeys(folders) if _is_base(folder)]


def _is_base(folder: Path) -> bool:
    """Say whether a folder is in diffusers layout; one of somebody else that may not be read is not."""
    try:
        return (folder / "model_index.json").is_file()
    except OSError:
        return False
