"""CLIP's tokenizer as files: pieces, merges, special tokens, and the machine that runs them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from sfumato.errors import CheckpointError, UnknownFormat
from sfumato.runtime.json_file import read_json

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
WORDS = rf"{re.escape(BOS)}|{re.escape(EOS)}|'s|'t|'re|'ve|'m|'ll|'d|[\p{{L}}]+|[\p{{N}}]|[^\s\p{{L}}\p{{N}}]+"
_USUAL_LENGTH, _NO_LIMIT = 77, 1_000_000

Merges = list[tuple[str, str]]


def clip_backend(vocab: dict[str, int], merges: Merges) -> Tokenizer:
    """Build CLIP's splitting: normal form, words, bytes, merges.

    Args:
        vocab: Id of every piece; empty for a tokenizer that is still to be trained.
        merges: Pairs of pieces, most important first.

    Returns:
        The machine, without special tokens.
    """
    model = BPE(
        vocab=vocab,
        merges=merges,
        continuing_subword_prefix="",
        end_of_word_suffix=WORD_END,
        unk_token=EOS,
        fuse_unk=False,
    )
    machine = Tokenizer(model)
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    machine.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    machine.pre_tokenizer = pre_tokenizers.Sequence([words, byte_level])
    machine.decoder = decoders.ByteLevel()
    if vocab:
        ends = (EOS, vocab[EOS]), (BOS, vocab[BOS])
        machine.post_processor = processors.RobertaProcessing(*ends, trim_offsets=False, add_prefix_space=False)
    return machine


def special_token(text: str) -> AddedToken:
    """Return a token that is found in a text before anything else is done to it."""
    return AddedToken(text, normalized=False, special=True)


def read_pieces(folder: Path) -> tuple[dict[str, int], Merges]:
    """Read vocabulary and merges of a tokenizer folder.

    Args:
        folder: Holds `vocab.json` and `merges.txt`, or `tokenizer.json`.

    Returns:
        Id of every piece, and the pairs in order.

    Raises:
        UnknownFormat: The folder holds neither.
        CheckpointError: A file cannot be read as what its name says, or merges are missing.
    """
    vocab_file, merges_file, whole_file = (folder / name for name in ("vocab.json", "merges.txt", "tokenizer.json"))
    if vocab_file.is_file() and merges_file.is_file():
        lines = _read_text(merges_file).split("\n")
        pairs = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
        vocab, source = read_json(vocab_file), merges_file
    elif whole_file.is_file():
        model = read_json(whole_file).get("model", {})
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])]
        vocab, source = model.get("vocab", {}), whole_file
    else:
        raise UnknownFormat(
            f"{folder} holds no tokenizer.", hint="Needed are vocab.json and merges.txt, or tokenizer.json."
        )
    merges: Merges = []
    for number, pair in enumerate(pairs):
        if len(pair) != 2 or any(piece not in vocab for piece in (*pair, "".join(pair))):
            raise CheckpointError(
                f"Merge {number} of {source} is {pair!r}: not two pieces of the vocabulary whose joint is one too.",
                hint="The files do not belong together or are damaged.",
            )
        merges.append((pair[0], pair[1]))
    if BOS in vocab:  # else it is no vocabulary of CLIP, which the tokenizer says
        _check_complete(vocab, merges, folder, source)
    return vocab, merges


def _read_text(file: Path) -> str:
    """Read a text file; one that is none is named."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{file}' cannot be read as text: {error}.", hint="Fetch the file again.") from error


def _check_complete(vocab: dict[str, int], merges: Merges, folder: Path, source: Path) -> None:
    """Refuse merges that do not make every piece: with some of them gone, texts would silently fall into other pieces.

    Every piece is a byte, alone or at the end of a word, a special token, or what a merge makes. Two merges may make
    the same piece, so the number of merges alone says nothing.
    """
    made = {left + right for left, right in merges}
    unmade = [piece for piece in vocab if piece not in made and len(piece.removesuffix(WORD_END)) > 1]
    unmade = [piece for piece in unmade if piece not in (BOS, EOS)]
    if unmade:
        special = read_added(folder).keys() | _special_tokens(folder)
        unmade = [piece for piece in unmade if piece not in special]
    if unmade:
        raise CheckpointError(
            f"{source} holds {len(merges):,} merges; the {len(vocab):,} pieces of the vocabulary need at least "
            f"{len(merges) + len(unmade):,}: no merge makes {unmade[0]!r}.",
            hint="The file is cut short or belongs to another vocabulary: fetch it again.",
        )


def _special_tokens(folder: Path) -> set[str]:
    """Return the tokens that a folder names as start, end, padding and the like."""
    named: set[str] = set()
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in read_json(folder / file, {}).items():
            if key.endswith(("_token", "_tokens")):
                tokens = value if isinstance(value, list) else [value]
                named |= {str(token.get("content") if isinstance(token, dict) else token) for token in tokens}
    return named


def read_added(folder: Path) -> dict[str, int]:
    """Read the whole words that were given ids of their own, wherever the folder lists them.

    Args:
        folder: A tokenizer folder.

    Returns:
        Id of every such word, special tokens among them.

    Raises:
        CheckpointError: A file cannot be read as JSON.
    """
    listed = read_json(folder / "tokenizer.json", {}).get("added_tokens", [])
    added = {token["content"]: int(token["id"]) for token in listed}
    by_id = read_json(folder / "tokenizer_config.json", {}).get("added_tokens_decoder", {})
    added |= {token["content"]: int(index) for index, token in by_id.items()}
    return added | read_json(folder / "added_tokens.json", {})


def length_of(config: dict[str, Any], file: Path) -> int:
    """Return how long an encoded text is.

    Args:
        config: Content of `tokenizer_config.json`.
        file: Where it lies, for messages.

    Returns:
        Tokens, start and end included; 77 where the file does not say it or, as the transformers library writes it,
        names no limit.

    Raises:
        CheckpointError: It is no number.
    """
    length = config.get("model_max_length", _USUAL_LENGTH)
    if not isinstance(length, int | float) or isinstance(length, bool):
        raise CheckpointError(
            f"'{file}' has 'model_max_length' = {length!r}; a number of tokens is needed.",
            hint=f"Fetch the file again, or write the length there: that of Stable Diffusion is {_USUAL_LENGTH}.",
        )
    return int(length) if length < _NO_LIMIT else _USUAL_LENGTH


def write_json(path: Path, content: dict[str, Any], indent: int | None = None) -> None:
    """Write a JSON object."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")
