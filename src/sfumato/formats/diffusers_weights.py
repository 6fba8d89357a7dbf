"""Weights of one part of a diffusers folder: whole or sharded, and older key names brought up to date."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from sfumato.errors import CheckpointError
from sfumato.formats.safe_io import PICKLE_SUFFIXES, read_safetensors, refuse_pickle
from sfumato.runtime.json_file import naming, read_json

_STEMS = ("diffusion_pytorch_model", "model")
_VARIANTS = ("", ".fp16", ".non_ema")
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")
_BUFFERS = ("text_model.embeddings.position_ids", "embeddings.position_ids")
_TEXT_MODEL = "text_model."


def read_weights(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Read the tensors of one part.

    Args:
        folder: A folder such as `unet`, with one safetensors file or an index of several.

    Returns:
        The file (or index), and the tensors as they are stored.

    Raises:
        CheckpointError: There is no safetensors file, or it is damaged.
        UnsafeFile: The weights are only there as a pickle.
    """
    kinds = [(stem, variant) for variant in _VARIANTS for stem in _STEMS]
    candidates = [folder / f"{stem}{variant}.safetensors" for stem, variant in kinds]
    for path, (stem, variant) in zip(candidates, kinds, strict=True):
        if path.is_file():
            return path, read_safetensors(path)
        index = folder / f"{stem}.safetensors.index{variant}.json"
        if index.is_file():
            with naming(index):
                shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            tensors: dict[str, Tensor] = {}
            for shard in shards:
                tensors |= read_safetensors(folder / Path(str(shard)).name)
            return index, tensors
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLE_SUFFIXES:
            refuse_pickle(path)
    raise CheckpointError(
        f"'{folder}' holds no weights.", hint=f"Needed is {candidates[0].name} or {candidates[1].name}."
    )


def modernised(tensors: Mapping[str, Tensor], dimensions: Mapping[str, int]) -> dict[str, Tensor]:
    """Bring names and shapes of early releases up to date.

    Early autoencoders call attention layers `query`, `key`, `value`, `proj_attn`, and early text encoders store the
    list of positions. Text encoders that today's libraries convert from a single file lack the first name,
    `text_model`. 1×1 convolutions and linear layers hold the same numbers, so one is read as the other.

    Args:
        tensors: As stored.
        dimensions: Number of dimensions of every tensor of the model.

    Returns:
        Tensors with today's names and numbers of dimensions.
    """
    current: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key in _BUFFERS:
            continue
        old = _OLD_NAME.fullmatch(key)
        name = f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else key
        if name not in dimensions and f"{_TEXT_MODEL}{name}" in dimensions:
            name = f"{_TEXT_MODEL}{name}"
        if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and dimensions.get(name) == 2:
            tensor = tensor[:, :, 0, 0]
        elif tensor.ndim == 2 and dimensions.get(name) == 4:
            tensor = tensor[:, :, None, None]
        current[name] = tensor
    return current
