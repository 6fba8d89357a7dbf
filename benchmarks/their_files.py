"""Read what diffusers' training scripts write as a concept of ours, so that one pipeline draws both sides."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from sfumato.adapters.config import LoRAConfig
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, LearnedWord
from sfumato.formats.safe_io import read_safetensors

LORA_FILE, EMBEDDING_FILE = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
_KEY = re.compile(
    r"(?P<part>unet|text_encoder)\.(?:text_model\.)?(?P<module>.+?)\."
    r"(?:lora(?:_linear_layer)?\.(?P<older>down|up)|lora_(?P<newer>[AB]))\.weight"
)
_OURS = {"A": "down", "B": "up", "down": "down", "up": "up"}


def read_lora(path: Path, bundle: Bundle, word: LearnedWord) -> Concept:
    """Read low-rank factors whose scale is 1, as `train_dreambooth_lora.py` writes them.

    Args:
        path: The file.
        bundle: The base that they were learned on.
        word: What stands for the subject, and what it becomes in a prompt.

    Raises:
        SystemExit: The file holds something else.
        SfumatoError: It cannot be read.
    """
    factors: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_safetensors(path).items():
        found = _KEY.fullmatch(key)
        if found is None:
            raise SystemExit(f"{path} holds '{key}'; needed: low-rank factors of diffusers without a scale.")
        part, own = found["part"], _OURS[found["older"] or found["newer"]]
        module = f"text_model.{found['module']}" if part == "text_encoder" else found["module"]
        factors.setdefault(part, {})[f"{module}.{own}"] = tensor.float().clone()
    configs = {}
    for part, tensors in factors.items():
        names = tuple(name.removesuffix(".down") for name in tensors if name.endswith(".down"))
        configs[part] = LoRAConfig(len(tensors[f"{names[0]}.down"]), targets=names)
    return Concept((word,), factors, configs, bundle.name, bundle.base_hash)


def read_embedding(path: Path, bundle: Bundle, word: LearnedWord) -> Concept:
    """Read the vectors of a new word, as `textual_inversion.py` writes them.

    Args:
        path: The file.
        bundle: The base that they were learned on.
        word: What they stand for.

    Raises:
        SystemExit: The file holds another word.
        SfumatoError: It cannot be read.
    """
    tensors = read_safetensors(path)
    if list(tensors) != [word.placeholder]:
        raise SystemExit(f"{path} holds {', '.join(tensors)}; needed: {word.placeholder}.")
    rows = tensors[word.placeholder].float().clone()
    learned = LearnedWord(word.placeholder, word.class_noun, word.placeholder, rows)
    return Concept((learned,), {}, {}, bundle.name, bundle.base_hash)
