"""Say what a file or folder is, by what it holds and not by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sfumato.errors import CheckpointError
from sfumato.formats.safe_io import Header, read_header, refuse_pickle
from sfumato.runtime.suggestions import did_you_mean

BUNDLE = "a diffusers folder"
CONCEPT = "a sfumato concept"
COMPVIS = "a single-file Stable Diffusion checkpoint (CompVis layout)"
KOHYA_LORA = "a LoRA file in kohya layout"
DIFFUSERS_LORA = "a LoRA file in diffusers layout"
PEFT_LORA = "a LoRA file in PEFT layout"
EMBEDDING = "a Textual Inversion embedding"
UNKNOWN = "of no known layout"

_BY_KEY: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda key: key.startswith("model.diffusion_model."), COMPVIS),
    (lambda key: key.startswith(("lora_unet_", "lora_te")), KOHYA_LORA),
    (lambda key: key.startswith("base_model.model."), PEFT_LORA),
    (lambda key: key.startswith(("unet.", "text_encoder.")) and ".lora" in key, DIFFUSERS_LORA),
    (lambda key: key in ("emb_params", "clip_l", "clip_g"), EMBEDDING),
)


def detect(path: Path) -> str:
    """Recognise a file or folder of weights.

    Args:
        path: A file or folder.

    Returns:
        One of the descriptions of this module, ready for a message.

    Raises:
        CheckpointError: It does not exist, or is no sound safetensors file.
        UnsafeFile: It is a pickle.
    """
    path = Path(path)
    if path.is_dir():
        return BUNDLE if (path / "model_index.json").is_file() else UNKNOWN
    refuse_pickle(path)
    if not path.exists():
        names = sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []
        raise CheckpointError(
            f"'{path}' does not exist.",
            hint=did_you_mean(path.name, names) if names else "Check the path for a typing mistake.",
        )
    return detect_header(read_header(path))


def detect_header(header: Header) -> str:
    """Recognise a safetensors file by its header.

    Args:
        header: What `read_header` returned.

    Returns:
        One of the descriptions of this module.
    """
    if "sfumato.concept" in header.metadata:
        return CONCEPT
    for fits, kind in _BY_KEY:
        if any(fits(key) for key in header.tensors):
            return kind
    if len(header.tensors) == 1 and len(next(iter(header.tensors.values())).shape) <= 2:
        return EMBEDDING
    return UNKNOWN


def to_use_it(kind: str) -> str | None:
    """Say what to do with something that was given as a base and is none."""
    if kind == COMPVIS:
        return (
            "Convert it once, with diffusers: StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)."
        )
    return "Give it as --concept." if "LoRA" in kind or "concept" in kind else None
