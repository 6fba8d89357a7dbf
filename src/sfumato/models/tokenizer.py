"""Byte-pair tokenizer in CLIP's file format ([radford2021] 2.4, [sennrich2016]).

Text is put into Unicode normal form C, white space becomes single blanks, letters become small. Words, single
digits and runs of other signs are then split into learned pieces of their bytes; the last piece of a word ends
in `</w>`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from sfumato.errors import CheckpointError, ConfigError, DataError
from sfumato.models.tokenizer_files import (
    BOS,
    EOS,
    WORD_END,
    Merges,
    clip_backend,
    length_of,
    read_added,
    read_pieces,
    special_token,
    write_json,
)
from sfumato.runtime.json_file import naming, read_json
from sfumato.tensors import Tokens

SMALLEST_VOCABULARY = 2 * 256 + 2


@dataclass(frozen=True)
class Piece:
    """One token of a text and where it stands there."""

    id: int
    start: int
    end: int


class Tokenizer:
    """Turn texts into token ids of a fixed length.

    Args:
        vocab: Id of every piece, start and end token included.
        merges: Pairs of pieces that are joined, most important first.
        context_length: Length of every encoded text, start and end included.
        pad: Piece that fills the rest behind the end; Stable Diffusion 1 uses the end token, 2 uses `!`.
        added: Whole words with ids of their own, in front of all splitting.

    Raises:
        CheckpointError: A special piece is missing or the ids are not 0, 1, 2 ….
    """

    def __init__(
        self,
        vocab: Mapping[str, int],
        merges: Merges,
        context_length: int,
        *,
        pad: str = EOS,
        added: Mapping[str, int] | None = None,
    ) -> None:
        self._vocab, self._merges, self._added = dict(vocab), list(merges), dict(added or {})
        everything = self._vocab | self._added
        for name in (BOS, EOS, pad):
            if name not in everything:
                raise CheckpointError(f"The vocabulary has no {name!r}.", hint="Is it a CLIP tokenizer?")
        if sorted(everything.values()) != list(range(len(everything))):
            raise CheckpointError(
                f"The {len(everything)} token ids are not 0 … {len(everything) - 1}.",
                hint="vocab.json and the added tokens do not belong together.",
            )
        if context_length < 3:
            raise ConfigError(
                f"context_length is {context_length}; start, end and a word need 3.", field="context_length"
            )
        self.context_length = context_length
        self.vocab_size = self.first_free_id = len(everything)
        self.bos_id, self.eos_id, self.pad_id = everything[BOS], everything[EOS], everything[pad]
        self._pad = pad
        self._placeholders: dict[str, tuple[int, ...]] = {}
        self._listen()
        self._backend = clip_backend(self._vocab, self._merges)
        known = [name for name in (BOS, EOS, pad) if name not in self._added]
        self._backend.add_special_tokens([special_token(name) for name in known])
        for name in sorted(self._added, key=self._added.__getitem__):  # what is new gets the next id
            if name in (BOS, EOS, pad):
                self._backend.add_special_tokens([special_token(name)])
            else:
                self._backend.add_tokens([name])

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, context_length: int = 77) -> Tokenizer:
        """Learn the pieces of a language.

        Every byte is a piece, alone and at the end of a word, so no text is unknown. The layout is CLIP's: 256
        bytes, 256 bytes with `</w>`, joined pieces, start, end.

        Args:
            texts: The corpus.
            vocab_size: Most pieces, at least 514; fewer when the corpus has no more pairs that occur twice.
            context_length: Length of every encoded text.

        Returns:
            The tokenizer; its `vocab_size` is what was learned.

        Raises:
            ConfigError: `vocab_size` is too small.
        """
        if vocab_size < SMALLEST_VOCABULARY:
            raise ConfigError(
                f"vocab_size is {vocab_size}; 256 bytes, 256 bytes at a word's end and 2 special tokens need "
                f"{SMALLEST_VOCABULARY}.",
                field="vocab_size",
            )
        alphabet = sorted(ByteLevel.alphabet())
        learner = clip_backend({}, [])
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            initial_alphabet=alphabet,
            end_of_word_suffix=WORD_END,
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        pieces = dict.fromkeys([*alphabet, *(letter + WORD_END for letter in alphabet)])
        merges: Merges = []
        for left, right in json.loads(learner.to_str())["model"]["merges"]:
            if len(pieces) == vocab_size - 2:
                break
            pieces[left + right] = None
            merges.append((left, right))
        vocab = {piece: index for index, piece in enumerate([*pieces, BOS, EOS])}
        return cls(vocab, merges, context_length)

    @classmethod
    def load(cls, folder: Path | str) -> Tokenizer:
        """Read a tokenizer folder of Stable Diffusion or of `save`.

        Args:
            folder: Holds `vocab.json` and `merges.txt`, or `tokenizer.json`; `tokenizer_config.json` if there is
                one gives the length (else 77) and the padding.

        Returns:
            The tokenizer.

        Raises:
            UnknownFormat: The folder holds no tokenizer.
            CheckpointError: A file cannot be read as what its name says.
        """
        folder = Path(folder)
        with naming(folder):
            vocab, merges = read_pieces(folder)
            file = folder / "tokenizer_config.json"
            config = read_json(file, {})
            specials = read_json(folder / "special_tokens_map.json", {})
            pad = specials.get("pad_token") or config.get("pad_token") or EOS
            return cls(
                vocab,
                merges,
                length_of(config, file),
                pad=pad["content"] if isinstance(pad, dict) else pad,
                added={text: index for text, index in read_added(folder).items() if text not in vocab},
            )

    def save(self, folder: Path | str) -> None:
        """Write the folder that `load` and the transformers `CLIPTokenizer` read.

        Placeholders are left out: they belong to a concept, not to the language.

        Args:
            folder: Made if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        names = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": self._pad}
        added = {text: self._id_of(text) for text in dict.fromkeys((BOS, EOS, self._pad, *self._added))}
        details = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
        config: dict[str, Any] = {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": self.context_length,
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "added_tokens_decoder": {
                str(index): {"content": text, **details, "special": text not in self._added}
                for text, index in sorted(added.items(), key=lambda item: item[1])
            },
            **names,
        }
        write_json(folder / "vocab.json", self._vocab)
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in self._merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        write_json(folder / "tokenizer_config.json", config, indent=2)
        write_json(folder / "special_tokens_map.json", names, indent=2)
        whole = self._backend.to_str(pretty=True)  # its own `save` says of a full disk what is no OSError
        (folder / "tokenizer.json").write_text(whole, encoding="utf-8", newline="\n")

    def knows(self, text: str) -> bool:
        """Say whether a text is one piece, in this spelling or in small letters."""
        return any(word in table for word in (text, text.lower()) for table in (self._vocab, self._added))

    def _id_of(self, piece: str) -> int:
        """Return the id of a piece or added word."""
        return self._vocab[piece] if piece in self._vocab else self._added[piece]

    def pieces(self, text: str) -> list[Piece]:
        """Split a text, without start, end, padding and limit.

        Args:
            text: Any text; placeholders stand for all their ids.

        Returns:
            The tokens in order, with their places in the text.
        """
        found, position = [], 0
        for match in self._pattern.finditer(text) if self._placeholders else ():
            found += self._learned_pieces(text, position, match.start())
            ids = self._spoken[self._names[(match.lastindex or 1) - 1]]
            found += [Piece(index, match.start(), match.end()) for index in ids]
            position = match.end()
        return found + self._learned_pieces(text, position, len(text))

    def _learned_pieces(self, text: str, start: int, end: int) -> list[Piece]:
        """Split a part of a text that holds no placeholder."""
        encoding = self._backend.encode(text[start:end], add_special_tokens=False)
        return [
            Piece(index, start + left, start + right)
            for index, (left, right) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> Tokens:
        """Turn texts into rows of ids: start, pieces, end, padding.

        Args:
            texts: One text per row.
            truncate: Cut what is too long instead of refusing it.

        Returns:
            Ids, `(len(texts), context_length)`.

        Raises:
            DataError: A text is too long; the message names the words that would be cut.
        """
        room = self.context_length - 2
        tokens = torch.full((len(texts), self.context_length), self.pad_id)
        for row, text in enumerate(texts):
            pieces = self.pieces(text)
            excess = None if truncate else self._excess(text, pieces)
            if excess is not None:
                raise DataError(
                    f"{'The text' if len(texts) == 1 else f'Text {row}'} has {excess}.",
                    field="texts",
                    hint="Shorten it: no text is cut unasked (Python: Tokenizer.encode with truncate=True cuts).",
                )
            ids = [self.bos_id, *(piece.id for piece in pieces[:room]), self.eos_id]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens

    def excess(self, text: str) -> str | None:
        """Say how many tokens a text has and which words `encode` would have to cut; `None` if it fits."""
        return self._excess(text, self.pieces(text))

    def _excess(self, text: str, pieces: Sequence[Piece]) -> str | None:
        """See `excess`; the pieces are those of the text."""
        room = self.context_length - 2
        if len(pieces) <= room:
            return None
        cut = cut_words(text, pieces[room].start)
        return (
            f"{len(pieces) + 2} tokens with start and end, the limit is {self.context_length}; "
            f"this would be cut: {cut!r}"
        )

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, in the tokenizer's spelling, without start, end and padding."""
        words: list[str] = []
        known: list[int] = []
        for index in ids:
            if index >= self.first_free_id:
                words += [self._decode_known(known), self._vector_name(index)]
                known = []
            elif index not in (self.bos_id, self.eos_id, self.pad_id):
                known.append(index)
        return " ".join(word for word in [*words, self._decode_known(known)] if word)

    def _vector_name(self, index: int) -> str:
        """Return the name of one vector of a placeholder."""
        for name, ids in self._placeholders.items():
            if index in ids:
                return vector_names(name, len(ids))[index - ids[0]]
        raise DataError(f"Token id {index} belongs to no piece and no placeholder.", field="ids")

    def _decode_known(self, ids: list[int]) -> str:
        """Return the text of ids of the vocabulary."""
        return str(self._backend.decode(ids, skip_special_tokens=False)).replace(WORD_END, " ").strip()

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Ids of all learned pieces; a piece that ends a word ends in `</w>`."""
        return dict(self._vocab)

    @property
    def placeholders(self) -> Mapping[str, tuple[int, ...]]:
        """Ids of every placeholder, oldest first."""
        return dict(self._placeholders)

    def add_placeholder(self, text: str, n: int = 1) -> tuple[int, ...]:
        """Let a new word stand for new ids, which the text encoder reads from its extra rows.

        The word is found in any spelling of capitals, and not inside other words. With `n > 1`, the vectors can
        also be written one by one: `<fox>_1`, `<fox>_2` … ([gal2022]; the names that diffusers uses).

        Args:
            text: The word, such as `<fox>`.
            n: Number of vectors.

        Returns:
            The new ids: consecutive, the first after all that exist, `first_free_id` at least.

        Raises:
            ConfigError: The word is empty, has blanks, exists already or is one known token.
        """
        name = text.lower()
        if n < 1:
            raise ConfigError(f"The placeholder {text!r} has {n} vectors; at least 1 is needed.", field="n")
        if not name or re.search(r"\s", name):
            raise ConfigError(f"The placeholder {text!r} is not one word.", field="placeholder")
        for taken in self._spoken.keys() & set(vector_names(name, n)):
            raise ConfigError(
                f"The placeholder {taken!r} exists already.", field="placeholder", hint="Choose another word."
            )
        if len(self.pieces(text)) == 1:
            raise ConfigError(
                f"The placeholder {text!r} is one token that the model knows.",
                field="placeholder",
                hint=f"Choose a word that it does not know, such as '<{name}>'.",
            )
        first = self.first_free_id + sum(len(ids) for ids in self._placeholders.values())
        self._placeholders[name] = tuple(range(first, first + n))
        self._listen()
        return self._placeholders[name]

    def remove_placeholder(self, text: str) -> None:
        """Forget the placeholder that was added last; the ids of the others stay as they are.

        Args:
            text: The word given to `add_placeholder`.

        Raises:
            ConfigError: The word is no placeholder, or not the last one.
        """
        if not self._placeholders or text.lower() != next(reversed(self._placeholders)):
            raise ConfigError(
                f"{text!r} is not the placeholder that was added last; there are {list(self._placeholders)}.",
                field="placeholder",
                hint="Remove placeholders in the reverse order of adding them.",
            )
        del self._placeholders[text.lower()]
        self._listen()

    def _listen(self) -> None:
        """Prepare the search for placeholders: longest names first, not inside longer words."""
        self._spoken = dict(self._placeholders)
        for name, ids in self._placeholders.items():
            for vector, index in zip(vector_names(name, len(ids))[1:], ids[1:], strict=True):
                self._spoken[vector] = (index,)
        self._names = sorted(self._spoken, key=len, reverse=True)
        self._pattern = re.compile("|".join(f"({whole_word(name)})" for name in self._names), re.IGNORECASE)


def vector_names(name: str, n: int) -> list[str]:
    """Return the names of the vectors of a placeholder: `<fox>`, `<fox>_1`, `<fox>_2` …"""
    return [name, *(f"{name}_{index}" for index in range(1, n))]


def whole_word(name: str) -> str:
    """Return a pattern that finds a name, but not inside a longer word."""
    before = r"(?<!\w)" if re.match(r"\w", name) else ""
    after = r"(?!\w)" if re.search(r"\w$", name) else ""
    return before + re.escape(name) + after


def cut_words(text: str, start: int) -> str:
    """Return the end of a text from the word that holds a position."""
    blank = max((index for index in range(start) if text[index].isspace()), default=start - 1)
    return text[blank + 1 :].strip()
