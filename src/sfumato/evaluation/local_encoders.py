"""CLIP, DINO and DINOv2 of transformers from a folder of this machine; nothing is ever downloaded.

Pictures are scaled, cropped and normalised as `preprocessor_config.json` says. Where the file is missing they are
scaled to the model's own square and normalised as its family was trained. Weights must be safetensors, complete, and of
a kind that is known here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from sfumato.data.images import to_tensor
from sfumato.errors import CheckpointError, ConfigError, MissingKeys, UnknownFormat

Picture = UInt8[np.ndarray, "H W 3"]
Features = Float[Tensor, "n d"]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

# What a `model_type` is called, the class of transformers that reads it, and how its family normalises pictures.
_KINDS = {
    "clip": ("CLIP", "CLIPModel", _CLIP),
    "vit": ("DINO", "ViTModel", _IMAGENET),
    "dinov2": ("DINOv2", "Dinov2Model", _IMAGENET),
}
_ASKED = ("clip", "vit")  # they fit their positions to another side if asked; DINOv2 always does
_UNUSED = ("pooler.",)
_BATCH = 8


class LocalEncoder:
    """Unit features of pictures: the class token of DINO and DINOv2 after the last normalisation, CLIP's projection.

    Args:
        folder: Where the model lies.
        kind: Key of its family.
        model: The model of transformers, frozen.
    """

    def __init__(self, folder: Path, kind: str, model: Any) -> None:
        self.folder, self.kind, self.model = folder.absolute(), kind, model
        self.name = self.named(1)
        vision = model.config.vision_config if kind == "clip" else model.config
        trained, given = int(vision.image_size), _preprocessor(folder)
        self.shortest, self.side = _sides(given, trained)
        self.mean, self.std = _normalisation(given, _KINDS[kind][2])
        self._options = {"interpolate_pos_encoding": True} if kind in _ASKED and self.side != trained else {}

    def named(self, parts: int) -> str:
        """Return the family with the last parts of the folder's path."""
        return f"{_KINDS[self.kind][0]} ({'/'.join(self.folder.parts[-parts:])})"

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture]) -> Features:
        """Return one row of length 1 a picture."""
        rows = []
        for first in range(0, len(pictures), _BATCH):
            images = torch.cat([self._prepared(picture) for picture in pictures[first : first + _BATCH]])
            if self.kind == "clip":
                seen = self.model.vision_model(images, **self._options).pooler_output
                rows.append(self.model.visual_projection(seen))
            else:
                rows.append(self.model(images, **self._options).last_hidden_state[:, 0])
        return F.normalize(torch.cat(rows), dim=1)

    def _prepared(self, picture: Picture) -> Float[Tensor, "1 3 S S"]:
        """Scale a picture, take its middle square if it is to be cropped, and normalise it."""
        image = (to_tensor(picture)[None] + 1) / 2
        size = (self.side, self.side)
        if self.shortest is not None:
            height, width = image.shape[-2:]
            size = (self.shortest * height // min(height, width), self.shortest * width // min(height, width))
        image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        return (image[..., top : top + self.side, left : left + self.side] - self.mean) / self.std


class LocalTextEncoder(LocalEncoder):
    """CLIP, which knows texts too.

    Args:
        folder: Where the model lies.
        model: The model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, folder: Path, model: Any, tokenizer: Any) -> None:
        super().__init__(folder, "clip", model)
        self.tokenizer = tokenizer

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Features:
        """Return one row of length 1 a text; longer texts than CLIP reads are cut, as its authors do."""
        length = int(self.model.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        states = self.model.text_model(tokens["input_ids"], tokens["attention_mask"])
        return F.normalize(self.model.text_projection(states.pooler_output), dim=1)


def load_local(folder: Path) -> LocalEncoder:
    """Load an encoder from a folder in the layout of transformers.

    Args:
        folder: Holds `config.json`, `model.safetensors`, and a tokenizer for CLIP.

    Returns:
        The encoder; a `LocalTextEncoder` for CLIP.

    Raises:
        ConfigError: transformers is not installed.
        CheckpointError: The folder or its configuration is missing, or the weights cannot be read.
        UnknownFormat: The model is of another kind.
        MissingKeys: The weights lack tensors that the model needs.
    """
    kind = _kind(folder)
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"The encoder in '{folder}' needs the package transformers, which is not installed.",
            field="encoder",
            hint="Run in the repository: pip install --editable '.[encoders]', or use the embedded encoder.",
        ) from error
    reader = getattr(transformers, _KINDS[kind][1])
    try:
        model, info = reader.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = (
            transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True) if kind == "clip" else None
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"The encoder in '{folder}' cannot be read: {str(error).strip().splitlines()[0]}",
            hint="The folder needs config.json, model.safetensors and, for CLIP, the files of its tokenizer.",
        ) from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_UNUSED))
    if missing:
        raise MissingKeys(
            f"The encoder in '{folder}' lacks {len(missing)} tensors, the first is '{missing[0]}'.",
            hint="Copy the folder again; with these left random every score would be wrong.",
        )
    model.eval().requires_grad_(False)
    return LocalEncoder(folder, kind, model) if tokenizer is None else LocalTextEncoder(folder, model, tokenizer)


def _kind(folder: Path) -> str:
    """Read of which kind the model in a folder is."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"'{folder}' is no folder of an encoder: config.json with a model_type is missing or unreadable.",
            field="encoder",
            hint="Name a folder that save_pretrained of transformers wrote.",
        ) from error
    if kind not in _KINDS:
        raise UnknownFormat(
            f"'{folder}' holds a model of type '{kind}'; needed: {', '.join(sorted(_KINDS))}.", field="encoder"
        )
    return str(kind)


def _preprocessor(folder: Path) -> Mapping[str, Any]:
    """Read how pictures are prepared; nothing where the file is missing."""
    file = folder / "preprocessor_config.json"
    given: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return given


def _sides(given: Mapping[str, Any], trained: int) -> tuple[int | None, int]:
    """Return the length of the shorter side from which the middle square is taken, and the side of that square.

    Args:
        given: The preprocessor.
        trained: Side that the model was made for, where nothing else is said.

    Returns:
        The first is None where the picture is scaled to the square as a whole.
    """
    size = _edge(given.get("size"))
    crop = _edge(given.get("crop_size")) if given.get("do_center_crop", True) else None
    if crop is None:
        return None, size or trained
    return max(size or crop, crop), crop


def _edge(value: object) -> int | None:
    """Read a size: a number, or a table with the shortest edge or with height and width."""
    if isinstance(value, Mapping):
        value = value.get("shortest_edge") or value.get("height")
    return value if isinstance(value, int) and value > 0 else None


def _normalisation(given: Mapping[str, Any], usual: tuple[Any, Any]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the channels, `(3, 1, 1)` each."""
    mean, std = given.get("image_mean", usual[0]), given.get("image_std", usual[1])
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
