"""Words for a learned subject: new embedding rows, or a rare word that the base hardly knows.

New rows are a parameter of their own beside the frozen table ([gal2022] 3): no masking, nothing to restore after a
step, and every old row stays bit-identical whatever the optimizer does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.errors import AdapterError
from sfumato.runtime.seeding import generator

_WORD_END = "</w>"
_RAREST_SHARE = 0.05
_FEWEST_CANDIDATES = 16


class TokenRows(nn.Module):
    """Vectors of one placeholder.

    Args:
        placeholder: The word they stand for, such as `<fox>`.
        rows: Start values, one row per vector.

    Raises:
        AdapterError: There is no row.
    """

    def __init__(self, placeholder: str, rows: Float[Tensor, "n d"]) -> None:
        super().__init__()
        if not len(rows):
            raise AdapterError(f"The placeholder '{placeholder}' has no vectors; it needs at least one.")
        self.placeholder = placeholder
        self.rows = nn.Parameter(rows.clone())


def initial_rows(
    table: Float[Tensor, "vocab d"], token_ids: Sequence[int], num_vectors: int = 1, *, seed: int = 0
) -> Float[Tensor, "{num_vectors} d"]:
    """Choose start values for new rows from a word that the base knows.

    The first rows are those of the word's own pieces, in order; when there are fewer pieces than rows, the rest is the
    mean of the pieces with noise of a tenth of the table's spread, so that equal rows do not learn the same.

    Args:
        table: The base's token table.
        token_ids: Pieces of the initializer, such as the class noun.
        num_vectors: Number of new rows.
        seed: Seed of the noise.

    Returns:
        The rows, detached from the table.

    Raises:
        AdapterError: There are no pieces.
    """
    if not token_ids:
        raise AdapterError(
            "The initializer has no pieces, so new rows have nothing to start from.",
            field="initializer",
            hint="Give a word that says what the subject is.",
        )
    pieces = table.detach()[list(token_ids)]
    mean = pieces.mean(0) if num_vectors < len(token_ids) else None
    if mean is not None:
        return mean.expand(num_vectors, -1) + _jitter(table, num_vectors, seed, skip=1)
    rows = pieces.mean(0).expand(num_vectors, -1) + _jitter(table, num_vectors, seed, skip=len(token_ids))
    rows[: len(token_ids)] = pieces
    return rows


def rare_identifier(vocabulary: Mapping[str, int], *, seed: int = 0, avoid: Sequence[str] = ()) -> str:
    """Pick a short word that the base has hardly seen, to stand before the class noun ([ruiz2023] 3.1).

    The paper draws from rare token ids that decode to at most three characters without blanks. In a byte-pair
    vocabulary an id tells when a piece was joined, so high ids are rare pieces; the draw is among the rarest 5 % (at
    least 16) of the whole-word pieces with two or three Latin letters. Random letter strings would split into
    common pieces.

    Args:
        vocabulary: Id of every piece; whole words end in `</w>`.
        seed: Which of the candidates.
        avoid: Texts whose words are not to be taken, such as captions and the class noun.

    Returns:
        The word, one token of the base.

    Raises:
        AdapterError: The vocabulary has no such piece.
    """
    taken = {word for text in avoid for word in re.findall(r"\w+", text.lower())}
    words = {piece.removesuffix(_WORD_END): index for piece, index in vocabulary.items() if piece.endswith(_WORD_END)}
    short = [word for word in words if re.fullmatch("[a-z]{2,3}", word) and word not in taken]
    if not short:
        raise AdapterError(
            f"The vocabulary of {len(vocabulary)} pieces has no whole word of two or three letters to spare.",
            field="identifier",
            hint="Use new token rows instead.",
        )
    rarest = sorted(short, key=words.__getitem__, reverse=True)
    candidates = rarest[: max(_FEWEST_CANDIDATES, int(len(rarest) * _RAREST_SHARE))]
    return candidates[int(torch.randint(len(candidates), (1,), generator=generator(seed, "identifier")))]


def expand_placeholder(prompt: str, placeholder: str, expansion: str, class_noun: str) -> str:
    """Write what stands behind a placeholder into a prompt.

    Both `a <fox> in the snow` and `a <fox> fox in the snow` become `a sks fox in the snow`.

    Args:
        prompt: The user's text.
        placeholder: Such as `<fox>`; found in any spelling of capitals, not inside longer words.
        expansion: What takes its place, such as `sks fox`.
        class_noun: Swallowed where it follows directly and the expansion ends in it.

    Returns:
        The text for the tokenizer.
    """
    before = r"(?<!\w)" if re.match(r"\w", placeholder) else ""
    after = r"(?!\w)" if re.search(r"\w$", placeholder) else r"(?![_\d])"
    noun = rf"(?:\s+{re.escape(class_noun)}(?!\w))?" if class_noun and expansion.endswith(class_noun) else ""
    pattern = re.compile(before + re.escape(placeholder) + after + noun, re.IGNORECASE)
    return pattern.sub(lambda _: expansion, prompt)


@runtime_checkable
class Spoken(Protocol):
    """A word of the user and what it becomes; see `expand_placeholder`."""

    @property
    def placeholder(self) -> str:
        """Such as `<fox>`."""
        ...

    @property
    def expansion(self) -> str:
        """What takes its place."""
        ...

    @property
    def class_noun(self) -> str:
        """What it is."""
        ...


def identifier_of(word: Spoken) -> str:
    """Return what tells a word from others of its class, such as `sks` of `sks fox`."""
    return word.expansion.removesuffix(word.class_noun).strip() or word.expansion


def expand_words(prompt: str, words: Iterable[Spoken]) -> str:
    """Write out every one of some words, in their order."""
    for word in words:
        prompt = expand_placeholder(prompt, word.placeholder, word.expansion, word.class_noun)
    return prompt


def _jitter(table: Tensor, count: int, seed: int, skip: int) -> Tensor:
    """Noise of a tenth of the table's spread for all but the first `skip` rows."""
    noise = torch.randn(count, table.shape[1], generator=generator(seed, "train/rows")) * (0.1 * table.detach().std())
    noise[:skip] = 0.0
    return noise.to(table)
