"""A concept in the layout of kohya's trainer and LyCORIS, which A1111, Forge and ComfyUI read.

`lora_unet_<module>` and `lora_te_<module>` with `_` for every dot, then `.lora_down.weight`, `.lora_up.weight` and
`.alpha`; LoHa, LoKr and full differences have the same names after the module as in our file. The scale is
`alpha / rank` there, and 1 for a LoKr of two whole matrices, so that the file holds that scale in the first of them.
Vectors of a word are a file of their own, as these programs want them: `emb_params`, and its name is the word of a
prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sfumato.adapters.config import LoRAConfig
from sfumato.errors import AdapterError, ConfigError
from sfumato.formats.concept import Concept, LearnedWord, file_header
from sfumato.formats.safe_io import write_safetensors
from sfumato.runtime.file_stem import file_stem

_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
_LORA = {"down": "lora_down.weight", "up": "lora_up.weight"}
_MODULES = {"lora": "networks.lora", "loha": "lycoris.kohya", "lokr": "lycoris.kohya", "full": "lycoris.kohya"}
_VERSIONS = {"stable-diffusion-v1": "sd_v1", "stable-diffusion-v2-512": "sd_v2", "stable-diffusion-v2-768-v": "sd_v2_v"}


def save_kohya(concept: Concept, path: Path, dtype: torch.dtype = torch.float16) -> dict[Path, str]:
    """Write a concept for programs that read kohya's files.

    Args:
        concept: What to write.
        path: File of the factors; ends in `.safetensors`. Vectors of words lie beside it.
        dtype: Storage precision.

    Returns:
        What was written, and what each is: `lora`, or the word of a prompt that a file of vectors stands for.

    Raises:
        ConfigError: The file name has another ending.
        AdapterError: A kind of factors that these programs read as something else, or not at all.
        StorageError: A file could not be written.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(f"The name '{path.name}' was given; needed: one that ends in .safetensors.", field="output")
    written: dict[Path, str] = {}
    tensors = kohya_tensors(concept)
    names = word_names(concept)
    for word in concept.words:
        if word.rows is not None:
            file = path.with_name(f"{names[word.placeholder]}.safetensors")
            write_safetensors(file, {"emb_params": word.rows.to(dtype)})
            written[file] = names[word.placeholder]
    if tensors:
        stored = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        write_safetensors(path, stored, _header(concept, names))
        written[path] = "lora"
    return written


def kohya_tensors(concept: Concept) -> dict[str, Tensor]:
    """Return what was learned beside the weights, by the names of kohya's files; empty for a word alone.

    Args:
        concept: The concept.

    Raises:
        AdapterError: See `save_kohya`.
    """
    tensors: dict[str, Tensor] = {}
    for part, factors in concept.factors.items():
        config = concept.configs[part]
        _check_kind(config)
        for name, tensor in factors.items():
            module, _, own = name.rpartition(".")
            if module.endswith("_embedding"):
                raise AdapterError(
                    f"The concept changes the table '{module}', which kohya's layout has no name for.",
                    field="targets",
                    hint="Learn it again without this layer.",
                )
            prefix = f"{_PREFIXES[part]}{module.replace('.', '_')}"
            tensors[f"{prefix}.{_LORA.get(own, own)}"] = tensor * config.scale if own == "lokr_w1" else tensor
            if config.kind != "full":
                tensors[f"{prefix}.alpha"] = _alpha(config, factors, module)
    return tensors


def word_names(concept: Concept) -> dict[str, str]:
    """Return the name of each word's file, which is what a prompt says for it there."""
    return {
        word.placeholder: f"{file_stem(word.placeholder) or 'new'}-word"
        for word in concept.words
        if word.rows is not None
    }


def trigger_phrase(word: LearnedWord, names: Mapping[str, str]) -> str:
    """Return what a prompt says for a word in programs that take the name of a file for its vectors."""
    return word.expansion.replace(word.placeholder, names.get(word.placeholder, word.placeholder))


def _check_kind(config: LoRAConfig) -> None:
    """Refuse what is read as something else."""
    if config.kind == "dora":
        raise AdapterError(
            "The concept is a DoRA, whose lengths go by outputs; programs that read kohya's files take them by inputs.",
            field="adapter",
            hint="Learn it again with --adapter lora.",
        )


def _alpha(config: LoRAConfig, factors: Mapping[str, Tensor], module: str) -> Tensor:
    """Return the alpha that gives the scale once more, by the rank that a reader finds in the shapes."""
    if config.kind == "lokr":  # the scale lies in the first matrix
        inner = factors.get(f"{module}.lokr_w2_b")
        return torch.tensor(float(config.rank if inner is None else len(inner)))
    rank = len(factors[f"{module}.down" if config.kind == "lora" else f"{module}.hada_w1_b"])
    return torch.tensor(float(config.scale * rank))


def _header(concept: Concept, names: Mapping[str, str]) -> dict[str, str]:
    """Write the header that catalogues and programs look at."""
    own = file_header(concept)
    config = next(iter(concept.configs.values()))
    version = _VERSIONS.get(concept.base_architecture)
    return {
        **{key: text for key, text in own.items() if key.startswith("modelspec.")},
        "modelspec.trigger_phrase": ", ".join(trigger_phrase(word, names) for word in concept.words),
        "ss_network_module": _MODULES[config.kind],
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": f"{config.scale * config.rank:g}",
        "ss_network_args": json.dumps({} if config.kind == "lora" else {"algo": config.kind}),
        "ss_v2": str(concept.base_architecture.startswith("stable-diffusion-v2")),
        **({} if version is None else {"ss_base_model_version": version}),
    }
