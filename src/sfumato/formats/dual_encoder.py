"""The folder of a dual encoder: `config.json`, `model.safetensors` in half precision, `tokenizer/` in CLIP's format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sfumato.errors import CheckpointError, ConfigError, UnknownFormat
from sfumato.formats import embedded
from sfumato.formats.atomic import atomic_folder
from sfumato.formats.network_weights import fill
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.formats.strict_json import Json
from sfumato.models.dual_encoder import DualEncoder, DualEncoderConfig, ImageTextEncoder
from sfumato.models.efficientnet import EfficientNetLite0
from sfumato.models.eye import Eye, EyeConfig
from sfumato.models.text_encoder import TextEncoderConfig
from sfumato.models.tokenizer import Tokenizer
from sfumato.runtime.empty_weights import empty_weights
from sfumato.runtime.json_file import naming, read_json
from sfumato.runtime.suggestions import did_you_mean

EMBEDDED_DUAL_ENCODER = embedded.BASES / "dual-encoder"
_FORMAT = "sfumato-dual-encoder/1"
_CONFIG, _WEIGHTS, _TOKENIZER = "config.json", "model.safetensors", "tokenizer"


def save_dual_encoder(
    network: DualEncoder, tokenizer: Tokenizer, folder: Path, *, files: Mapping[str, str] | None = None
) -> Path:
    """Write a dual encoder as a whole or not at all; weights are rounded to half precision.

    Args:
        network: The trained part.
        tokenizer: The tokenizer that it was trained with.
        folder: Target; an existing one is replaced.
        files: Further text files, such as a model card, by relative path.

    Raises:
        StorageError: The folder could not be written; the old one stays.
    """
    content: Json = {"format": _FORMAT, **asdict(network.config)}
    with atomic_folder(folder) as stage:
        (stage / _CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        tokenizer.save(stage / _TOKENIZER)
        write_safetensors(stage / _WEIGHTS, {key: tensor.half() for key, tensor in network.state_dict().items()})
        for name, text in (files or {}).items():
            (stage / name).write_text(text, encoding="utf-8")
    return folder


def load_dual_encoder(network: EfficientNetLite0 | None = None, *, folder: Path | None = None) -> ImageTextEncoder:
    """Read a dual encoder, ready to use.

    Args:
        network: The network to look through, if it is at hand; by default it is opened.
        folder: Its folder, or the run that made it; by default the one inside the package.

    Raises:
        CheckpointError: There is none, a file is damaged, or the weights do not fit the configuration.
        UnknownFormat: The configuration is not one that this version reads.
    """
    place = EMBEDDED_DUAL_ENCODER if folder is None else folder
    inner = place / "dual-encoder"
    place = inner if (inner / _CONFIG).is_file() else place
    if not (place / _CONFIG).is_file():
        raise CheckpointError(
            f"'{place}' holds no dual encoder: {_CONFIG} is missing.",
            hint="Install sfumato from a release."
            if folder is None
            else "Name the folder that `sfumato train dual-encoder` wrote.",
        )
    config = read_dual_encoder_config(read_json(place / _CONFIG), str(place / _CONFIG))
    with naming(place / _CONFIG), empty_weights():
        trained = DualEncoder(config)
    fill(trained, read_safetensors(place / _WEIGHTS), str(place / _WEIGHTS))
    return ImageTextEncoder(trained, Tokenizer.load(place / _TOKENIZER), Eye(config.eye, network))


def read_dual_encoder_config(content: Json, source: str) -> DualEncoderConfig:
    """Read a configuration; every key must be known and there.

    Args:
        content: The JSON object.
        source: Name of the file, for messages.

    Raises:
        UnknownFormat: Another format, an unknown or missing key, or a value that is not possible.
    """
    given = dict(content)
    if given.pop("format", None) != _FORMAT:
        raise UnknownFormat(
            f"'{source}' has format {content.get('format')!r}; this version reads {_FORMAT!r}.", field="format"
        )
    given["eye"] = _table(EyeConfig, given.get("eye"), f"{source}: eye")
    given["text"] = _table(TextEncoderConfig, given.get("text"), f"{source}: text")
    config: DualEncoderConfig = _table(DualEncoderConfig, given, source)
    return config


def _table(kind: type, content: Any, source: str) -> Any:
    """Build a configuration from an object with exactly its keys."""
    if not isinstance(content, dict):
        raise UnknownFormat(f"'{source}' is {content!r}; an object is needed.")
    known = [item.name for item in fields(kind)]
    for key in content:
        if key not in known:
            raise UnknownFormat(f"'{source}' has the unknown key '{key}'.", field=key, hint=did_you_mean(key, known))
    for key in known:
        if key not in content:
            raise UnknownFormat(f"'{source}' lacks the key '{key}'.", field=key)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    try:
        return kind(**values)
    except (ConfigError, TypeError) as error:
        raise UnknownFormat(f"'{source}' is not usable: {error}") from error
