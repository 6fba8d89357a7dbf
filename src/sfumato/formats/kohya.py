"""A concept in the layout of kohya's trainer and LyCORIS, which A1111, Forge and ComfyUI read.

`lora_unet_<module>` and `lora_te_<module>` with `_` for every dot, then `.lora_down.weight`, `.lora_up.weight` and
`.alpha`; LoHa, LoKr and full differences have the same names after the module as in our file. The scale is
`alpha / rank` there, and 1 for a LoKr of two whole matrices, so that the file holds that scale in the first of them.
Vectors of a word are a file of their own, as these programs want them: `emb_params`, and its name is the word of a
prompt. That name begins like the one of the file of factors, so that two concepts with one word stay apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path

import torch
from torch import Tensor

from sfumato.adapters.config import LoRAConfig
from sfumato.errors import AdapterError, CheckpointError, ConfigError
from sfumato.formats.concept import Concept, LearnedWord, file_header
from sfumato.formats.network_weights import for_storage
from sfumato.formats.safe_io import first_difference, read_safetensors, write_safetensors
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
        What was written, see `kohya_files`.

    Raises:
        ConfigError: See `kohya_files`.
        AdapterError: A kind of factors that these programs read as something else, or not at all.
        CheckpointError: A number is too large for the precision, or a file does not hold what was written into it.
        StorageError: A file could not be written.
    """
    files, names, tensors = kohya_files(concept, path), word_names(concept, path), kohya_tensors(concept)
    for word in concept.words:
        if word.rows is not None:
            file = path.with_name(f"{names[word.placeholder]}.safetensors")
            _write_proven(file, {"emb_params": for_storage(word.rows, dtype)}, {})
    if tensors:
        kept = {name: torch.float32 if name.endswith(".alpha") else dtype for name in tensors}
        stored = {name: for_storage(tensor, kept[name]) for name, tensor in tensors.items()}
        _write_proven(path, stored, _header(concept, names))
    return files


def kohya_files(concept: Concept, path: Path) -> dict[Path, str]:
    """Return the files that `save_kohya` writes, and what each is: the word of a prompt for vectors, or `lora`.

    Args:
        concept: What to write.
        path: File of the factors.

    Raises:
        ConfigError: The file name has another ending; a file would take the place of the concept itself, of a folder or
            of another one of them.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(f"The name '{path.name}' was given; needed: one that ends in .safetensors.", field="output")
    files = {path.with_name(f"{name}.safetensors"): name for name in word_names(concept, path).values()}
    files |= {path: "lora"} if concept.factors else {}
    taken = {} if concept.source is None else {concept.source.resolve(): "the concept itself"}
    for file in dict.fromkeys((path, *files)):
        place = file.resolve()
        is_what = "a folder" if place.is_dir() else taken.get(place)
        if is_what is not None:
            part = "" if file == path else ", where the vectors of a word go,"
            raise ConfigError(f"'{file}'{part} is {is_what}.", field="output", hint="Choose another name.")
        taken[place] = f"where '{file.name}' goes too"
    return files


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
            if _is_table(module):
                _check_table(concept, module)
                continue
            prefix = f"{_PREFIXES[part]}{module.replace('.', '_')}"
            tensors[f"{prefix}.{_LORA.get(own, own)}"] = tensor * config.scale if own == "lokr_w1" else tensor
            if config.kind != "full":
                tensors[f"{prefix}.alpha"] = _alpha(config, factors, module)
    return tensors


def left_out(concept: Concept) -> dict[str, float]:
    """Return the tables of embeddings that a file in this layout lacks, which has no names for them.

    Args:
        concept: One that `kohya_tensors` takes.

    Returns:
        Each table with its share of the squared change that the factors of its part hold.
    """
    shares: dict[str, float] = {}
    for factors in concept.factors.values():
        modules = dict.fromkeys(name.rpartition(".")[0] for name in factors)
        tables = [module for module in modules if _is_table(module)]
        if tables:
            whole = sum(_squared_change(factors, module) for module in modules)
            shares |= {module: _squared_change(factors, module) / whole if whole else 0.0 for module in tables}
    return shares


def word_names(concept: Concept, path: Path) -> dict[str, str]:
    """Return the name of each word's file, which is what a prompt says for it there.

    Args:
        concept: The concept.
        path: File of the factors; the names begin as its own does, and with several words say each.
    """
    stem = file_stem(path.stem.removesuffix("-kohya")) or "new"
    words = [word.placeholder for word in concept.words if word.rows is not None]
    names: dict[str, str] = {}
    for word in words:
        own = f"{stem}-{file_stem(word) or 'new'}" if len(words) > 1 else stem
        numbered = (f"{own}{number}-word" for number in chain([""], (f"-{n}" for n in count(2))))
        names[word] = next(name for name in numbered if name not in names.values())
    return names


def trigger_phrase(word: LearnedWord, names: Mapping[str, str]) -> str:
    """Return what a prompt says for a word in programs that take the name of a file for its vectors."""
    return word.expansion.replace(word.placeholder, names.get(word.placeholder, word.placeholder))


def _write_proven(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a file, read it back and compare it bit for bit."""
    write_safetensors(path, tensors, header)
    differing = first_difference(tensors, read_safetensors(path))
    if differing is not None:
        raise CheckpointError(
            f"'{path}' was written but does not hold what was to be exported: '{differing}' differs.",
            hint="Export it again; if this repeats, the disk or the memory is failing.",
        )


def _check_kind(config: LoRAConfig) -> None:
    """Refuse what is read as something else."""
    if config.kind == "dora":
        raise AdapterError(
            "The concept is a DoRA, whose lengths are those of the changed weights; programs that read kohya's files "
            "reckon with them in other ways.",
            field="adapter",
            hint="Learn it again with --adapter lora.",
        )


def _check_table(concept: Concept, module: str) -> None:
    """Refuse a table that was chosen to learn; what stands for the change of all weights goes on without it."""
    if "change_held" not in concept.lineage:
        raise AdapterError(
            f"The concept changes the table '{module}', which kohya's layout has no name for.",
            field="targets",
            hint="Learn it again without this layer.",
        )


def _is_table(module: str) -> bool:
    """Tell whether a module is a table of embeddings."""
    return module.endswith("_embedding")


def _squared_change(factors: Mapping[str, Tensor], module: str) -> float:
    """Return the sum of squares of a change, `|U D|² = tr(UᵀU DDᵀ)`, without the change itself."""
    up, down = (factors[f"{module}.{side}"].double().flatten(1) for side in ("up", "down"))
    return float(((up.t() @ up) * (down @ down.t())).sum())


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
        "ss_network_args": json.dumps(_arguments(concept, config)),
        "ss_v2": str(concept.base_architecture.startswith("stable-diffusion-v2")),
        **({} if version is None else {"ss_base_model_version": version}),
    }


def _arguments(concept: Concept, config: LoRAConfig) -> dict[str, str]:
    """Return what kohya's trainer would have been told beside rank and alpha; values are texts there."""
    if config.kind != "lora":
        return {"algo": config.kind}
    down = (
        tensor for factors in concept.factors.values() for name, tensor in factors.items() if name.endswith(".down")
    )
    if any(tensor.ndim == 4 and tensor.shape[-1] > 1 for tensor in down):
        return {"conv_dim": str(config.rank), "conv_alpha": f"{config.scale * config.rank:g}"}
    return {}
