"""Draw a picture again from the recipe inside it and compare the bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError

from sfumato import __version__
from sfumato.errors import ConfigError, NotReproduced, SfumatoError
from sfumato.events import Artifact, Done
from sfumato.formats.png_recipe import check_folder, file_hash, place_picture, read_recipe
from sfumato.operations.pictures import Picture, draw
from sfumato.operations.recorded_base import load_recorded
from sfumato.operations.stream import Events
from sfumato.pipeline import Pipeline
from sfumato.requests import GenerateRequest, ReplayRequest


def replay(request: ReplayRequest) -> Events:
    """Draw a picture again and compare it with the file.

    Args:
        request: The picture, and where to look for files and a base that have moved.

    Yields:
        The steps; an `Artifact` when the new picture is written; `Done`, after the bytes were found equal.

    Raises:
        ConfigError: The picture carries no usable recipe.
        NotReproduced: A file or base is missing or another one, or the bytes differ; the message names what differs.
        CheckpointError: The base is damaged, or not where the request says.
    """
    started = time.perf_counter()
    recipe = read_recipe(request.picture)
    places = (Path(), request.picture.parent, *request.search)
    wanted = _request(recipe, request.picture, places)
    if request.output is not None:
        check_folder(request.output)
    pipeline = Pipeline(load_recorded(recipe["base"], places, request.base))
    again: Picture | None = None
    for event in draw(wanted, pipeline, is_new=False):
        if isinstance(event, Picture):
            again = event
        else:
            yield event
    assert again is not None
    again = Picture(again.image, again.seed, _with_recorded_paths(again.recipe, recipe))
    if request.output is not None:
        yield Artifact(place_picture(request.output, request.picture.stem, again.to_png()), "image", {})
    if again.to_png() != request.picture.read_bytes():
        raise _difference(request.picture, recipe, again)
    yield Done(time.perf_counter() - started, {"identical": True})


def _request(recipe: Mapping[str, Any], picture: Path, places: Sequence[Path]) -> GenerateRequest:
    """Build the request that a recipe describes, with the files where they lie now."""
    try:
        values = dict(recipe["request"])
        base = recipe["base"]
        if not all(isinstance(base[key], str) for key in ("path", "hash")):
            raise TypeError("path or hash of the base")
        values["base"] = base["path"]
        values["concepts"] = [
            {"path": _found(f"concept {number}", used, places), "strength": used["strength"]}
            for number, used in enumerate(recipe["concepts"], 1)
        ]
        for key in ("init_image", "mask"):
            if key in recipe:
                values[key] = _found(key, recipe[key], places)
        return GenerateRequest.model_validate(values)
    except (KeyError, TypeError, ValidationError) as error:
        raise ConfigError(
            f"The recipe in {picture} is damaged or of another version: {type(error).__name__}.",
            hint="Use the picture as sfumato wrote it.",
        ) from error


def _found(role: str, record: Mapping[str, str], places: Sequence[Path]) -> Path:
    """Find a file of the recipe by its name and check that it is the same file."""
    recorded = Path(record["path"])
    alone = (recorded.name, PureWindowsPath(record["path"]).name)  # recorded here, or there
    names = dict.fromkeys((recorded, *map(Path, alone)))
    candidates = [place / name for place in places for name in names]
    present = {path: found for path in candidates if (found := _hash_of(path)) is not None}
    for path, found in present.items():
        if found == record["hash"]:
            return path
    for path, found in present.items():
        raise NotReproduced(
            f"{role} differs: '{path}' has SHA-256 {found[:12]}, the recipe needs {record['hash'][:12]}.",
            field=role,
            hint="Name the folder with the right file with --search.",
        )
    raise NotReproduced(
        f"{role} is missing: '{recorded}' with SHA-256 {record['hash'][:12]} was not found.",
        field=role,
        hint="Name the folder it lies in with --search.",
    )


def _hash_of(path: Path) -> str | None:
    """Return the hash of a file; `None` where there is none, or none that may be read."""
    try:
        return file_hash(path) if path.is_file() else None
    except (OSError, SfumatoError):
        return None


def _with_recorded_paths(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """Write paths as they were recorded, and the base's name, which may be its folder's: what moved is the same."""
    kept = {key: old[key] for key in ("init_image", "mask") if key in old}
    base = {key: old["base"][key] for key in ("path", "name") if key in old["base"]}
    return {**new, **kept, "concepts": old["concepts"], "base": {**new["base"], **base}}


def _difference(picture: Path, recipe: Mapping[str, Any], again: Picture) -> NotReproduced:
    """Say what differs between the file and the new picture."""
    with Image.open(picture) as opened:
        before = np.asarray(opened.convert("RGB"), dtype=np.int16)
    after = np.asarray(again.image, dtype=np.int16)
    reasons = [
        f"{key}: recorded {recipe.get(key)}, here {here}"
        for key, here in (("sfumato", __version__), ("torch", torch.__version__))
        if recipe.get(key) != here
    ]
    if before.shape != after.shape:
        reasons.append(f"size: {before.shape[1]}x{before.shape[0]} in the file, {after.shape[1]}x{after.shape[0]} here")
    elif (before == after).all():
        reasons.append("the pixels are the same, only the bytes around them differ")
    else:
        changed = (before != after).any(-1).mean()
        reasons.append(f"{changed:.1%} of the pixels differ, by at most {abs(before - after).max()} of 255")
    return NotReproduced(
        f"{picture} was not reproduced byte for byte: {'; '.join(reasons)}.",
        field=reasons[0].split(":")[0],
        hint=f"{torch.get_num_threads()} threads were used; processors, threads and versions may round differently.",
    )
