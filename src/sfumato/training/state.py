"""Save a run so that it goes on bit for bit, and never pick up half a save.

A checkpoint is a folder `checkpoints/step-XXXXXXXX`: one safetensors file per part, `state.json`, and `manifest.json`
with the size and SHA-256 of every other file, written last. The folder is filled beside its place, flushed to the disk
and renamed. All random draws of a run are functions of the step (see `runtime/seeding.py`): no generator state is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from sfumato.errors import CannotResume, CheckpointError
from sfumato.formats.atomic import atomic_folder
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.runtime.json_values import flattened

CHECKPOINTS = "checkpoints"
_MANIFEST = "manifest.json"
_STATE = "state.json"
_FOLDER = re.compile(r"step-(\d{8,})")


@runtime_checkable
class Saved(Protocol):
    """Anything whose state is a dict of named tensors: a module, an average, the moments of an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor], /) -> Any:
        """Put the tensors back."""
        ...


@dataclass
class RunState:
    """What a checkpoint holds beside the tensors.

    Attributes:
        step: Number of finished steps.
        settings: The effective recipe; a resumed run must have the same.
        counters: Small numbers that the loop carries from step to step.
    """

    step: int
    settings: dict[str, Any]
    counters: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The newest usable checkpoint of a run and why newer ones were passed over."""

    path: Path | None
    rejected: tuple[str, ...] = ()


def folder_of(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return run_dir / CHECKPOINTS / f"step-{step:08d}"


def save(run_dir: Path, state: RunState, parts: Mapping[str, Saved], keep: int, needed: int = 0) -> Path:
    """Write a checkpoint and remove the oldest ones, and later ones too: the run was resumed from before them.

    Args:
        run_dir: Folder of the run.
        state: Step, settings and counters.
        parts: What has tensors, by the name of its file.
        keep: How many checkpoints stay.
        needed: Step of one that stays however old it is.

    Returns:
        The folder of the checkpoint.

    Raises:
        StorageError: The disk is full or not writable; older checkpoints stay as they were.
    """
    folder = folder_of(run_dir, state.step)
    with atomic_folder(folder) as stage:
        for name, part in parts.items():
            write_safetensors(stage / f"{name}.safetensors", part.state_dict())
        content = {"step": state.step, "counters": state.counters, "settings": state.settings}
        (stage / _STATE).write_text(json.dumps(content, indent=1, sort_keys=True))
        manifest = {
            file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(stage.iterdir())
        }
        (stage / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    older = [step for step, _ in checkpoints_of(run_dir) if step < state.step]
    staying = {state.step, needed, *older[: max(1, keep) - 1]}
    for step, one in checkpoints_of(run_dir):
        if step not in staying:
            _remove(one)
    return folder


def checkpoints_of(run_dir: Path) -> list[tuple[int, Path]]:
    """Return steps and folders of the checkpoints of a run, newest first; what is still being written is none."""
    root = run_dir / CHECKPOINTS
    found = [(int(m.group(1)), path) for path in root.glob("step-*") if (m := _FOLDER.fullmatch(path.name))]
    return sorted(found, reverse=True)


def already_there(run_dir: Path) -> CannotResume:
    """Build the refusal to begin where a run lies."""
    return CannotResume(
        f"'{run_dir}' already holds a run.", hint="Resume it (--resume), remove it, or name another output (-o)."
    )


def has_checkpoints(run_dir: Path) -> bool:
    """Say whether a run has saved something, whole or not."""
    return bool(checkpoints_of(run_dir))


def latest(run_dir: Path) -> Found:
    """Find the newest checkpoint whose files are all there with the right size and hash."""
    rejected: list[str] = []
    for _, folder in checkpoints_of(run_dir):
        problem = broken(folder)
        if problem is None:
            return Found(folder, tuple(rejected))
        rejected.append(f"'{folder}' was passed over: {problem}")
    return Found(None, tuple(rejected))


def broken(folder: Path) -> str | None:
    """Return what is wrong with a checkpoint, or `None` if every file is whole."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        listed = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in manifest.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{_MANIFEST} is missing or unreadable"
    if _STATE not in listed:
        return f"{_MANIFEST} does not list {_STATE}"
    for name, (size, digest) in listed.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} of {size:,} bytes"
        if _sha256(file) != digest:
            return f"{name} has changed since it was written"
    return None


def read_state(folder: Path) -> RunState:
    """Read step, settings and counters of a checkpoint.

    Raises:
        CheckpointError: The folder is not a checkpoint of a run.
    """
    try:
        content = json.loads((folder / _STATE).read_text())
        return RunState(int(content["step"]), dict(content["settings"]), dict(content["counters"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"'{folder}' is not a training checkpoint: {_STATE} is missing or unreadable.",
            hint=f"Name a folder such as runs/mine/{CHECKPOINTS}/step-00001000.",
        ) from error


def load(folder: Path, parts: Mapping[str, Saved]) -> None:
    """Put the tensors of a checkpoint back into the parts of a run.

    Raises:
        CannotResume: The checkpoint has other parts, or their tensors have other names or shapes.
    """
    there = {file.stem for file in folder.glob("*.safetensors") if not file.name.startswith(".")}
    if there != set(parts):
        raise CannotResume(
            f"'{folder}' holds {', '.join(sorted(there)) or 'nothing'}; this run has {', '.join(sorted(parts))}.",
            hint="Start a new run folder, or use init_from to take the weights only.",
        )
    for name, part in parts.items():
        tensors = read_safetensors(folder / f"{name}.safetensors")
        try:
            part.load_state_dict(tensors)
        except (RuntimeError, KeyError) as error:
            reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
            raise CannotResume(
                f"Part '{name}' of '{folder}' does not fit this run: {reason}.",
                hint="Start a new run folder, or use init_from to take the weights only.",
            ) from error


def check_settings(
    saved: Mapping[str, Any], given: Mapping[str, Any], may_change: Collection[str], defaults: Collection[str] = ()
) -> None:
    """Refuse to go on with another recipe, naming every key that differs.

    Args:
        saved: Settings of the checkpoint.
        given: Settings of this start.
        may_change: Patterns of dotted keys that do not change what is learned, such as `loop.save_every`.
        defaults: Dotted keys that stand at their default; a run from before they existed may lack them.

    Raises:
        CannotResume: Another key differs.
    """
    before, now = flattened(saved), flattened(given)
    missing = object()
    differing = [
        f"{key}: {before.get(key, 'absent')!r} → {now.get(key, 'absent')!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, missing) != now.get(key, missing)
        and not (key in defaults and key not in before)
        and not any(fnmatch(key, pattern) for pattern in may_change)
    ]
    if differing:
        raise CannotResume(
            f"The recipe differs from the one that the run was started with: {'; '.join(differing)}.",
            hint="Change these back, or start a new run folder (with init_from to keep the weights).",
        )


def _remove(folder: Path) -> None:
    """Remove a checkpoint; it loses its manifest first, so that a half-removed one is never read."""
    (folder / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _sha256(file: Path) -> str:
    """Return the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
