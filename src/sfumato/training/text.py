"""The text side of a run: a tokenizer learned from the captions, and an encoder that fits it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from sfumato.errors import CannotResume, ConfigError
from sfumato.formats.atomic import atomic_folder
from sfumato.models.text_encoder import TextEncoderConfig
from sfumato.models.tokenizer import Tokenizer
from sfumato.training.pictures import PictureBatches
from sfumato.training.recipe_file import DenoiserRecipe, DualEncoderRecipe, TextEncoderTable, TokenizerTable
from sfumato.training.state import has_checkpoints
from sfumato.training.stream import Prefetched

_CAPTION_BATCH = 64
_SAYS_ALL = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")


def learned_tokenizer(recipe: DenoiserRecipe | DualEncoderRecipe, run_dir: Path) -> Tokenizer | None:
    """Return the tokenizer of a run: the one given, that of the run or of `init_from`, else one learned from captions.

    Args:
        recipe: The recipe.
        run_dir: Folder of the run, where its tokenizer is kept; what a start without a checkpoint left there does not
            count, since the recipe may have changed.

    Returns:
        The tokenizer, or `None` when the recipe has no text encoder.

    Raises:
        CannotResume: The run has another tokenizer than the one given.
        StorageError: The folder cannot be written.
    """
    if recipe.text_encoder is None:
        return None
    table, kept = recipe.tokenizer, run_dir / "tokenizer"
    is_kept = kept.is_dir() and has_checkpoints(run_dir)
    if is_kept and table.folder is None:
        return Tokenizer.load(kept)
    place = table.folder or next((place for place in _origins(recipe) if place.is_dir()), None)
    if place is not None:
        tokenizer = Tokenizer.load(place)
        if not is_kept:  # a run that has begun goes on as it began
            _check_length(tokenizer, table, place)
    else:
        tokenizer = Tokenizer.train(_captions(recipe), table.vocab_size, table.context_length)
    if is_kept:
        _check_same(tokenizer, recipe, kept)
        return tokenizer
    with atomic_folder(kept) as stage:
        tokenizer.save(stage)
    return tokenizer


def _check_length(tokenizer: Tokenizer, table: TokenizerTable, place: Path) -> None:
    """Refuse a length of texts that the tokenizer which is taken does not have."""
    found = tokenizer.context_length
    if "context_length" in table.model_fields_set and table.context_length != found:
        raise ConfigError(
            f"tokenizer.context_length is {table.context_length}, but the tokenizer of '{place}' reads {found}.",
            field="tokenizer.context_length",
            hint="Leave it out: a text encoder that has been trained reads as long texts as it did.",
        )


def _check_same(tokenizer: Tokenizer, recipe: DenoiserRecipe | DualEncoderRecipe, kept: Path) -> None:
    """Refuse to go on with another tokenizer than the one that a run began with."""
    with TemporaryDirectory() as place:
        tokenizer.save(place)
        if _read_alike(Path(place)) != _read_alike(kept):
            raise CannotResume(
                f"'{recipe.tokenizer.folder}' holds another tokenizer than '{kept}', with which the run began.",
                field="tokenizer.folder",
                hint="Leave it out, or start a new run folder.",
            )


def _read_alike(folder: Path) -> dict[str, object]:
    """Return what a tokenizer's folder says, whatever library and system wrote it."""
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in _SAYS_ALL}
    return {name: json.loads(text) if name.endswith(".json") else text.splitlines() for name, text in texts.items()}


def tokenizer_hash(folder: Path) -> str:
    """Return the SHA-256 of the files of a tokenizer; what file managers leave in its folder is none of them."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and not file.name.startswith("."):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def text_encoder_config(table: TextEncoderTable, tokenizer: Tokenizer) -> TextEncoderConfig:
    """Return the configuration of an encoder that reads what a tokenizer writes."""
    return TextEncoderConfig(
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.context_length,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        pad_id=tokenizer.pad_id,
        **table.model_dump(),
    )


def _origins(recipe: DenoiserRecipe | DualEncoderRecipe) -> tuple[Path, ...]:
    """Return where the tokenizer of the first weights may lie: in a run or bundle, or above one of its checkpoints."""
    start = recipe.init_from
    return () if start is None else (start / "tokenizer", start.parent.parent / "tokenizer")


def _captions(recipe: DenoiserRecipe | DualEncoderRecipe) -> Iterator[str]:
    """Yield captions: of pictures that the run does not train on, but of a folder those of its training pictures."""
    batches = PictureBatches(recipe.data, _CAPTION_BATCH, "captions")
    with Prefetched(batches, recipe.data.workers) as pictures:
        for index in range(-(-recipe.tokenizer.captions // _CAPTION_BATCH)):
            yield from pictures.get(index).captions
