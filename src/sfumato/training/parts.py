"""Build the parts of a model from a seed, and move their weights between runs and folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from sfumato.errors import CheckpointError, ConfigError
from sfumato.formats.atomic import atomic_folder
from sfumato.formats.diffusers_config import read_autoencoder_config, write_autoencoder_config
from sfumato.formats.diffusers_weights import modernised, read_weights
from sfumato.formats.network_weights import fill
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.models.autoencoder import Autoencoder
from sfumato.runtime.json_file import naming, read_json
from sfumato.runtime.seeding import derive_seed
from sfumato.training import state as states

AVERAGE = "ema.safetensors"
"""Where a checkpoint holds the moving averages of all of its parts."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_CONFIG, _WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


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


def encoder_hash(autoencoder: Autoencoder) -> str:
    """Return the SHA-256 of what decides the latents: encoder and scale. The decoder may go on learning."""
    config = autoencoder.config
    latents = nn.ModuleList(part for part in (autoencoder.encoder, autoencoder.quant_conv) if part is not None)
    scale = f"{config.scaling_factor!r} {config.shift_factor!r}"
    return hashlib.sha256(f"{weights_hash(latents)} {scale}".encode()).hexdigest()


def save_autoencoder(autoencoder: Autoencoder, folder: Path, size: int) -> Path:
    """Write an autoencoder as a folder in diffusers layout, in float32.

    Args:
        autoencoder: What to write.
        folder: Where.
        size: Side in pixels of the pictures that it was trained on.

    Raises:
        StorageError: The disk is full or not writable.
    """
    with atomic_folder(folder) as stage:
        (stage / _CONFIG).write_text(json.dumps(write_autoencoder_config(autoencoder.config, size), indent=2) + "\n")
        write_safetensors(stage / _WEIGHTS, autoencoder.state_dict())
    return folder


def load_autoencoder(path: Path) -> Autoencoder:
    """Read a frozen autoencoder from its folder, from the run that made it or from a bundle.

    Raises:
        CheckpointError: There is none, or it is not readable.
    """
    places = [path / "autoencoder", path / "vae", path]
    folder = next((place for place in places if (place / _CONFIG).is_file()), None)
    if folder is None:
        raise CheckpointError(
            f"'{path}' holds no finished autoencoder: neither {_CONFIG} nor a folder 'autoencoder' or 'vae' with it.",
            field="autoencoder",
            hint="Name the folder that `sfumato train autoencoder` wrote.",
        )
    file = folder / _CONFIG
    with naming(file):
        autoencoder = Autoencoder(read_autoencoder_config(read_json(file), str(file)))
    source, tensors = read_weights(folder)
    fill(autoencoder, modernised(tensors, {key: t.ndim for key, t in autoencoder.state_dict().items()}), str(source))
    return autoencoder.eval().requires_grad_(False)


def start_weights(init_from: Path, part: str) -> dict[str, Tensor]:
    """Read the weights of one part to start another run with: averages where a run keeps them, as it ships these.

    Args:
        init_from: A run folder, one of its checkpoints, or a bundle.
        part: Name of the part, such as `unet`.

    Raises:
        ConfigError: There are no such weights.
    """
    folder = init_from
    if (init_from / states.CHECKPOINTS).is_dir():
        folder = states.latest(init_from).path or init_from
    if (folder / f"{part}.safetensors").is_file():
        return {**read_safetensors(folder / f"{part}.safetensors"), **_averages(folder, part)}
    inner = folder / ("vae" if part == "autoencoder" and (folder / "vae").is_dir() else part)
    if inner.is_dir():
        return read_weights(inner)[1]
    if part == "autoencoder" and (folder / _CONFIG).is_file():
        return read_weights(folder)[1]
    raise ConfigError(
        f"init_from is '{init_from}', which has no weights of '{part}'; a run, a checkpoint or a bundle was needed.",
        field="init_from",
    )


def _averages(folder: Path, part: str) -> dict[str, Tensor]:
    """Read the moving averages of one part in a checkpoint; nothing where the run keeps none."""
    file, prefix = folder / AVERAGE, f"{part}."
    tensors = read_safetensors(file) if file.is_file() else {}
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Put weights into a module; every one must fit.

    Raises:
        CheckpointError: A tensor is missing, superfluous or of another shape.
    """
    known = modernised(tensors, {key: t.ndim for key, t in module.state_dict().items()})
    try:
        module.load_state_dict(known)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(
            f"The weights of '{origin}' do not fit the {type(module).__name__} of the recipe: {reason}",
            hint="Use the same sizes as the run that the weights come from.",
        ) from error
