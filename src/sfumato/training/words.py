"""The words of a run: what each becomes in a prompt, the vectors that learn for it, and what is said of a picture.

Beside the plain new word ([gal2022] 3) there are the paper's variants: several vectors, vectors that join one after
another, an anchor to the coarse word, and a word of its own for every picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sfumato.adapters.tokens import TokenRows, expand_placeholder, expand_words, initial_rows, rare_identifier
from sfumato.data.templates import TEMPLATES
from sfumato.errors import ConfigError, DataError
from sfumato.formats.bundle import Bundle, Word
from sfumato.models.tokenizer import whole_word
from sfumato.runtime.precision import computing_in
from sfumato.runtime.seeding import generator
from sfumato.tensors import Context
from sfumato.training.cache import TensorCache
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS
from sfumato.training.sample_set import AnySamples, file_numbers

_PICTURE_WORD_CHANCE = 0.25
"""How often a picture's own word is said; the rate of the paper's code."""


class Words:
    """Words of the subjects, attached to the base's tokenizer until `detach`.

    Args:
        config: Which words, and how they learn.
        bundle: The base.
        samples: The subjects' pictures.
        further: Texts of class pictures.
        cache: Where features of texts are kept while nothing on their side learns.

    Raises:
        ConfigError: The method cannot learn such a word, or the tokenizer cannot take it.
        DataError: A text is too long for the base; picture and text are named.
    """

    def __init__(
        self,
        config: LearnConfig,
        bundle: Bundle,
        samples: AnySamples,
        further: Iterable[str] = (),
        cache: TensorCache | None = None,
    ) -> None:
        check_words(config)
        self.config, self.bundle, self.samples = config, bundle, samples
        said = [subject.placeholder for subject in config.subjects]
        if config.chosen_identifier == "rare":
            said = rare_words(config, samples.captions, bundle.tokenizer.vocabulary, bundle.words)
        nouns = [subject.class_noun for subject in config.subjects]
        says_class = _says_class(config) and config.say_class
        self.words = tuple(
            Word(subject.placeholder, f"{word} {noun}" if says_class else word, noun)
            for subject, word, noun in zip(config.subjects, said, nouns, strict=True)
        )
        self._vectors: dict[str, int] = {}
        self._used = config.num_vectors
        self._files = file_numbers(samples) if config.per_image_words else []
        self.rows = self._new_rows() if config.chosen_identifier == "new" else None
        self._start = None if self.rows is None else self.rows.rows.detach().clone()
        self._tokens: dict[tuple[str, int], Tensor] = {}
        self._fixed: dict[str, Context] = {}
        self._cache = TensorCache(None) if cache is None else cache
        self.attach()
        try:
            texts = self._said()
            for text in (*texts, *further, ""):
                self._check_length(text, None if text not in texts else samples.names[texts[text]])
                self._encode(text, config.num_vectors)
        except BaseException:
            self.detach()
            raise

    def attach(self) -> None:
        """Let the tokenizer understand the new words."""
        added: list[str] = []
        try:
            for name, count in self._vectors.items():
                self.bundle.tokenizer.add_placeholder(name, count)
                added.append(name)
        except ConfigError:
            for name in reversed(added):
                self.bundle.tokenizer.remove_placeholder(name)
            raise

    def detach(self) -> None:
        """Let the tokenizer forget them."""
        for name in reversed(self._vectors):
            self.bundle.tokenizer.remove_placeholder(name)

    def excess(self, text: str) -> str | None:
        """Say how many tokens a text has, words written out, and what would be cut; None if it fits."""
        return self.bundle.tokenizer.excess(self._expanded(text))

    def active(self, step: int) -> int:
        """Return how many vectors of a word are in use at a step: one more every `progressive_steps`."""
        config = self.config
        if not config.progressive_steps:
            return config.num_vectors
        return min(config.num_vectors, 1 + step // config.progressive_steps)

    def learned(self, step: int) -> list[Tensor | None]:
        """Return copies of the vectors of each word, those that are in use after `step` steps."""
        if self.rows is None:
            return [None] * len(self.words)
        count, used = self.config.num_vectors, self.active(max(0, step - 1))
        table = self.rows.rows.detach()
        return [table[first : first + used].clone() for first in range(0, len(self.words) * count, count)]

    def captions(self, samples: AnySamples, rows: Sequence[int], draw: int) -> list[str]:
        """Return what is said of some pictures in a draw.

        Args:
            samples: The subjects, or pictures of their classes.
            rows: Which of them.
            draw: Number of the draw; decides among sentences.

        Returns:
            One text each, placeholders not written out.
        """
        if samples is not self.samples:
            return [samples.captions[row] for row in rows]
        said = [samples.captions[row] for row in rows]
        sentences = TEMPLATES[self.config.templates]
        if sentences:
            source = generator(self.config.seed, "train/templates", draw)
            chosen = torch.randint(len(sentences), (len(rows),), generator=source)
            pairs = zip(chosen.tolist(), rows, strict=True)
            said = [sentences[index].format(samples.words[row]) for index, row in pairs]
        if not self.config.per_image_words:
            return said
        chances = torch.rand(len(rows), generator=generator(self.config.seed, "train/picture words", draw))
        named = [self._with_own_word(text, row) for text, row in zip(said, rows, strict=True)]
        return [
            own if chance < _PICTURE_WORD_CHANCE else text
            for text, own, chance in zip(said, named, chances.tolist(), strict=True)
        ]

    def context(self, captions: Sequence[str], step: int, *, text_learns: bool) -> Context:
        """Encode captions; once for the whole run where nothing on the text side learns.

        Args:
            captions: Placeholders not written out.
            step: Decides how many vectors are in use.
            text_learns: The text encoder changes from step to step.

        Returns:
            Features, `(b, l, d)`.
        """
        encoder = self.bundle.text_encoder
        if self.rows is None and not text_learns:
            numbers, device = self.bundle.computes_in, encoder.text_model.embeddings.token_embedding.weight.device
            with torch.no_grad(), computing_in(numbers, device):  # what is kept serves every run on such weights
                for text in set(captions) - self._fixed.keys():
                    self._fixed[text] = self._cached(self._encode(text, 1))
            return torch.cat([self._fixed[text] for text in captions])
        self._used = self.active(step)
        texts = list(dict.fromkeys(captions))  # equal captions are encoded once per step
        tokens = torch.cat([self._encode(text, self._used) for text in texts])
        features: Tensor = encoder(tokens, None if self.rows is None else self.rows.rows).context
        return features[[texts.index(caption) for caption in captions]]

    def _cached(self, tokens: Tensor) -> Context:
        """Encode a text with the encoder as it is, or take its features from the cache."""
        encoder = self.bundle.text_encoder
        key = f"{tokens.tolist()}/{self._cache.identity(encoder)}/{self.bundle.computes_in}/{encoder.config}"
        return self._cache.get("texts", key, lambda: {"context": encoder(tokens).context})["context"]

    def anchor(self) -> Tensor | None:
        """Return how far the vectors have moved, squared, in units of the token table's variance; None: not wanted.

        It is the mean over those of the subjects' words that were in use when captions were last encoded (`context`):
        vectors that join later have not moved yet, and the words of single pictures take up what the others shall not.
        """
        if self.rows is None or self._start is None or not self.config.anchor_weight:
            return None
        table = self.bundle.text_encoder.text_model.embeddings.token_embedding.weight
        count = self.config.num_vectors
        of_words = (self.rows.rows - self._start)[: len(self.words) * count].unflatten(0, (-1, count))
        anchor: Tensor = of_words[:, : self._used].square().mean() / table.var()
        return anchor

    # ── private ──────────────────────────────────────────────────────────────────────────────────

    def _new_rows(self) -> TokenRows:
        """Make vectors for every word, started from the initializer or the class noun."""
        config, tokenizer = self.config, self.bundle.tokenizer
        table = self.bundle.text_encoder.text_model.embeddings.token_embedding.weight
        start: list[Tensor] = []
        for subject in config.subjects:
            pieces = [piece.id for piece in tokenizer.pieces(config.initializer or subject.class_noun)]
            start.append(initial_rows(table, pieces, config.num_vectors, seed=config.seed))
            self._vectors[subject.placeholder] = config.num_vectors
        nouns = {subject.placeholder: subject.class_noun for subject in config.subjects}
        for number, word in zip(self._files, self.samples.words if self._files else (), strict=True):
            if _picture_word(number) in self._vectors:
                continue
            pieces = [piece.id for piece in tokenizer.pieces(nouns[word])]
            start.append(initial_rows(table, pieces, 1, seed=config.seed))
            self._vectors[_picture_word(number)] = 1
        return TokenRows(config.placeholder, torch.cat(start))

    def _with_own_word(self, text: str, row: int) -> str:
        """Say the word of a picture's file beside that of its subject, behind the noun or `style` where it has one."""
        word = self.samples.words[row]
        noun = next(own.class_noun for own in self.words if own.placeholder == word)
        nouns = "|".join(re.escape(one) for one in (noun, "style") if one)
        said = re.compile(rf"{whole_word(word)}(?:\s+(?:{nouns})(?!\w))?", re.IGNORECASE)
        return said.sub(lambda found: f"{found[0]} with {_picture_word(self._files[row])}", text)

    def _said(self) -> dict[str, int]:
        """Return everything that may be said of the subjects' pictures, each with the first of these pictures."""
        samples, sentences = self.samples, TEMPLATES[self.config.templates]
        said: dict[str, int] = {}
        for row, caption in enumerate(samples.captions):
            for text in [sentence.format(samples.words[row]) for sentence in sentences] or [caption]:
                said.setdefault(text, row)
                if self.config.per_image_words:
                    said.setdefault(self._with_own_word(text, row), row)
        return said

    def _check_length(self, text: str, picture: str | None) -> None:
        """Refuse a text that is too long for the base; `picture` is None for those of class pictures."""
        excess = self.excess(text)
        if excess is None:
            return
        if picture is None:
            what = "What class pictures are asked by"
            hint = "Shorten the class noun, or the caption that it stands in."
        elif self.config.templates != "none":
            what, hint = f"A sentence said of '{picture}'", "Choose a shorter word, or leave templates out."
        else:
            what = f"The caption of '{picture}'"
            hint = "Shorten it: in its text file, in metadata.jsonl or in the name of its folder."
        if picture is not None and self.config.num_vectors > 1:
            hint += f" Its word alone takes {self.config.num_vectors} tokens (num_vectors)."
        raise DataError(f"{what}, {text!r}, has {excess}.", field="folder", hint=hint)

    def _expanded(self, text: str) -> str:
        """Write out the words of the lesson, and those that the base has learned before."""
        return expand_words(text, (*self.words, *self.bundle.words))

    def _encode(self, text: str, used: int) -> Tensor:
        """Turn a text into token ids, placeholders written out, vectors that are not in use yet left out."""
        key = (text, used)
        if key not in self._tokens:
            tokens: Tensor = self.bundle.tokenizer.encode([self._expanded(text)])
            spoken: Mapping[str, tuple[int, ...]] = self.bundle.tokenizer.placeholders
            unused = {index for ids in spoken.values() for index in ids[used:]}
            self._tokens[key] = _without(tokens, unused, self.bundle.tokenizer.pad_id)
        return self._tokens[key]


def rare_words(
    config: LearnConfig, captions: Iterable[str], vocabulary: Mapping[str, int], known: Iterable[Word] = ()
) -> list[str]:
    """Choose what is said of each subject where it gets no vectors of its own: the word that is given, or a rare one.

    Args:
        config: The subjects, the seed, and the word if one is given.
        captions: Those of all pictures; their words are not taken.
        vocabulary: Id of every piece that the base knows.
        known: Words that the base has learned; they are not taken either.

    Returns:
        A word for each subject, no two alike.

    Raises:
        AdapterError: The vocabulary has none to spare.
    """
    avoid = [*captions, *(subject.class_noun for subject in config.subjects)]
    avoid += [text for word in known for text in (word.placeholder, word.expansion)]
    found: list[str] = []
    for number in range(len(config.subjects)):
        given = config.word if number == 0 else None
        found.append(given or rare_identifier(vocabulary, seed=config.seed + number, avoid=(*avoid, *found)))
    return found


def check_words(config: LearnConfig) -> None:
    """Refuse words that the method cannot learn, and words that would act where others are meant.

    Args:
        config: The lesson.

    Raises:
        ConfigError: The method does not learn such words, two subjects share one, or a word stands in a class noun or
            in the word of another subject.
    """
    method, identifier = METHODS[config.method], config.chosen_identifier
    if identifier != method.identifier and method.rows != "wanted":
        does = "learns" if method.rows == "always" else "does not learn"
        raise ConfigError(
            f"identifier is '{identifier}' but the method '{config.method}' {does} vectors of a new word.",
            field="identifier",
            hint=f"Use identifier '{method.identifier}', or the method 'lora'.",
        )
    names = [subject.placeholder for subject in config.subjects]
    for number, name in enumerate(names):
        if name.lower() in map(str.lower, names[:number]):
            raise ConfigError(
                f"'{name}' stands for two subjects; capitals do not count.",
                field="further",
                hint="Give each its own word.",
            )
    for number, name in enumerate(names):
        field = "further" if number else "placeholder"
        for other, subject in enumerate(config.subjects):
            _check_apart(name, f"the class noun '{subject.class_noun}'", subject.class_noun, field)
            if other != number:
                _check_apart(name, f"'{subject.placeholder}', the word of another subject", subject.placeholder, field)
    if config.word is not None:
        _check_given(config, config.word)


def _check_given(config: LearnConfig, word: str) -> None:
    """Refuse a word of the user's choice that would be read in a class noun, or is the placeholder again."""
    for subject in config.subjects:
        _check_apart(word, f"the class noun '{subject.class_noun}'", subject.class_noun, "word")
        _check_apart(subject.placeholder, f"the word '{word}', which it is written out as", word, "word")


def _says_class(config: LearnConfig) -> bool:
    """Say whether the class noun follows a word unless that is switched off."""
    return METHODS[config.method].says_class and config.kind == "subject"


def _picture_word(number: int) -> str:
    """Return the word of one file."""
    return f"<picture-{number + 1}>"


def _without(tokens: Tensor, ids: set[int], pad: int) -> Tensor:
    """Take ids out of one row of tokens; padding takes their place at the end."""
    kept = [index for index in tokens[0].tolist() if index not in ids]
    return torch.tensor([kept + [pad] * (tokens.shape[1] - len(kept))], dtype=tokens.dtype)


def _check_apart(name: str, what: str, text: str, field: str) -> None:
    """Refuse a word that would be written out within another text."""
    if expand_placeholder(text, name, "", "") != text:
        raise ConfigError(
            f"The word '{name}' stands in {what}, and would be read there too; needed is one that stands in no other.",
            field=field,
            hint=f"Choose another word, such as '<my-{'-'.join(name.strip('<>').split())}>'.",
        )
