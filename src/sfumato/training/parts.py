"""Build the parts of a model from a seed, and move their weights between runs and folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from sfumato.errors import CheckpointError, ConfigError
from sfumato.formats.atomic import atomic_folder
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.models.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.runtime.seeding import derive_seed
from sfumato.training import state as states

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_CONFIG, _WEIGHTS = "config.json", "model.safetensors"


def seeded(seed: int, part: str, build: Callable[[], ModuleT]) -> ModuleT:
    """Build a module whose first weights depend on the seed and its own name alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, f"weights/{part}"))
        return build()


def weights_hash(module: nn.Module) -> str:
    """Return the SHA-256 of all weights of a module, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_autoencoder(autoencoder: Autoencoder, folder: Path) -> Path:
    """Write an autoencoder as a folder with its configuration and weights.

    Raises:
        StorageError: The disk is full or not writable.
    """
    with atomic_folder(folder) as stage:
        (stage / _CONFIG).write_text(json.dumps(asdict(autoencoder.config), indent=1))
        write_safetensors(stage / _WEIGHTS, autoencoder.state_dict())
    return folder


def load_autoencoder(path: Path) -> Autoencoder:
    """Read an autoencoder from its folder or from the folder of the run that made it.

    Raises:
        CheckpointError: There is none, or it is not readable.
    """
    folder = path / "autoencoder" if (path / "autoencoder" / _CONFIG).is_file() else path
    try:
        content = json.loads((folder / _CONFIG).read_text())
        config = TypeAdapter(AutoencoderConfig).validate_python(content)
    except (OSError, ValueError, ValidationError) as error:
        raise CheckpointError(
            f"'{path}' holds no finished autoencoder: {folder / _CONFIG} is missing or unreadable.",
            hint="Name the folder that `sfumato train autoencoder` wrote.",
        ) from error
    autoencoder = Autoencoder(config)
    load_weights(autoencoder, read_safetensors(folder / _WEIGHTS), str(folder / _WEIGHTS))
    return autoencoder.eval().requires_grad_(False)


def start_weights(init_from: Path, part: str) -> dict[str, Tensor]:
    """Read the weights of one part from a run folder or one of its checkpoints, to start another run with.

    Args:
        init_from: The folder.
        part: Name of the part, such as `unet`.

    Raises:
        ConfigError: There are no such weights.
    """
    folder = init_from
    if (init_from / states.CHECKPOINTS).is_dir():
        folder = states.latest(init_from).path or init_from
    file = folder / f"{part}.safetensors"
    if not file.is_file():
        raise ConfigError(
            f"init_from is '{init_from}', which has no weights of '{part}'; a run folder or a checkpoint was needed.",
            field="init_from",
        )
    return read_safetensors(file)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Put weights into a module; every one must fit.

    Raises:
        CheckpointError: A tensor is missing, superfluous or of another shape.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"The weights of '{origin}' do not fit the {type(module).__name__} of the recipe: {reason}",
            hint="Use the same sizes as the run that the weights come from.",
        ) from error
