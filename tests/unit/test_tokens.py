"""New words: rows that learn apart from the table, rare words, placeholders in prompts."""

from __future__ import annotations

import pytest
import torch

from sfumato.adapters.tokens import TokenRows, expand_placeholder, initial_rows, rare_identifier
from sfumato.errors import AdapterError
from tiny import tiny_bundle, tiny_tokenizer

TABLE = torch.arange(20.0).reshape(5, 4)


def test_old_rows_stay_bit_identical_while_new_rows_learn() -> None:
    bundle = tiny_bundle()
    encoder, tokenizer = bundle.text_encoder, bundle.tokenizer
    table = encoder.text_model.embeddings.token_embedding.weight
    before = table.clone()
    words = TokenRows("<fox>", initial_rows(table, [piece.id for piece in tokenizer.pieces("fox")]))
    start = words.rows.detach().clone()
    tokenizer.add_placeholder("<fox>")
    tokens = tokenizer.encode(["a <fox> in the snow"])
    optimizer = torch.optim.AdamW(words.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        encoder(tokens, words.rows).context.square().sum().backward()
        optimizer.step()
    assert torch.equal(table, before)
    assert not torch.equal(words.rows, start)


def test_new_word_starts_as_the_class_noun() -> None:
    bundle = tiny_bundle()
    tokenizer, encoder = bundle.tokenizer, bundle.text_encoder
    pieces = [piece.id for piece in tokenizer.pieces("fox")]
    rows = initial_rows(encoder.text_model.embeddings.token_embedding.weight, pieces, len(pieces))
    plain = encoder(tokenizer.encode(["a fox"])).context
    tokenizer.add_placeholder("<fox>", len(pieces))
    assert torch.equal(encoder(tokenizer.encode(["a <fox>"]), rows).context, plain)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_start_values(count: int) -> None:
    rows = initial_rows(TABLE, [1, 3], count, seed=4)
    assert rows.shape == (count, 4)
    assert torch.equal(rows, initial_rows(TABLE, [1, 3], count, seed=4))
    if count == 1:
        assert torch.equal(rows[0], (TABLE[1] + TABLE[3]) / 2)
    else:
        assert torch.equal(rows[:2], TABLE[[1, 3]])
        assert len({tuple(row.tolist()) for row in rows}) == count
        spread = 0.1 * TABLE.std()
        assert (rows[2:] - TABLE[[1, 3]].mean(0)).abs().sum() <= 5 * spread * rows[2:].numel()


def test_rows_need_a_start() -> None:
    with pytest.raises(AdapterError, match="The initializer has no pieces"):
        initial_rows(TABLE, [])
    with pytest.raises(AdapterError, match="'<fox>' has no vectors"):
        TokenRows("<fox>", torch.zeros(0, 4))


def test_rare_word_is_one_short_late_token() -> None:
    vocabulary = {f"{a}{b}</w>": 26 * i + j for i, a in enumerate("abcdefgh") for j, b in enumerate("abcdefghijklm")}
    vocabulary |= {"longword</w>": 10_000, "xy": 10_001, "9a</w>": 10_002}
    words = {rare_identifier(vocabulary, seed=seed) for seed in range(40)}
    assert len(words) > 5
    short = sorted((index for piece, index in vocabulary.items() if len(piece) == 6 and piece[0] != "9"), reverse=True)
    assert {vocabulary[f"{word}</w>"] for word in words} <= set(short[:16])
    assert rare_identifier(vocabulary, seed=3) == rare_identifier(vocabulary, seed=3)
    first = rare_identifier(vocabulary, seed=3)
    assert rare_identifier(vocabulary, seed=3, avoid=(f"a {first.upper()}, asleep",)) != first


def test_rare_word_of_a_real_tokenizer_is_one_token() -> None:
    tokenizer = tiny_tokenizer()
    word = rare_identifier(tokenizer.vocabulary, avoid=("a fox",))
    assert len(tokenizer.pieces(word)) == 1
    assert word != "fox"


def test_vocabulary_without_short_words() -> None:
    with pytest.raises(AdapterError, match="The vocabulary of 2 pieces has no whole word"):
        rare_identifier({"a</w>": 0, "bb": 1})
    with pytest.raises(AdapterError, match="The vocabulary of 1 pieces"):
        rare_identifier({"fox</w>": 0}, avoid=["a fox"])


@pytest.mark.parametrize(
    ("prompt", "expanded"),
    [
        ("a <fox> in the snow", "a sks fox in the snow"),
        ("a <FOX> fox in the snow", "a sks fox in the snow"),
        ("<fox>, <fox>'s hat", "sks fox, sks fox's hat"),
        ("a <fox> foxglove", "a sks fox foxglove"),
        ("a <foxy> fox", "a <foxy> fox"),
        ("no such word", "no such word"),
    ],
)
def test_placeholder_is_written_out(prompt: str, expanded: str) -> None:
    assert expand_placeholder(prompt, "<fox>", "sks fox", "fox") == expanded


def test_placeholder_without_brackets_is_not_found_inside_words() -> None:
    assert expand_placeholder("zot zots azot ZOT", "zot", r"ab", "") == r"ab zots azot ab"
