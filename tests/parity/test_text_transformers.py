"""The same ids and the same features as the CLIP classes of transformers, through saved folders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sfumato.models.text_encoder import Activation, TextEncoder, TextEncoderConfig
from sfumato.models.tokenizer import Tokenizer

transformers.utils.logging.disable_progress_bar()

CORPUS = [
    "a red fox on a blue background",
    "the icon of a dog's house, flat style, 3 colours",
    "a drawn character with a green hat waves at two cats",
    "two red foxes and a blue bird, outlined",
] * 4
TEXTS = [
    *CORPUS,
    "",
    "   ",
    "Hello!  WORLD\n\t end...",
    "it's we're I'll they'd won't",
    "naïve café e\u0301 \u00c5ngström ﬁne",
    "你好,世界 🙂👩‍👩‍👧 1234",
    "a <|endoftext|> b <|STARTOFTEXT|>",
    "under_score-dash/slash \\ back #tag @me",
    "İstanbul straße ΣΊΣΥΦΟΣ",
    "zero\u200bwidth \ufeffbom \x00 \x1f control",
]
LENGTH = 24


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, 640, LENGTH)


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return CLIPTokenizer.from_pretrained(folder)


def their_ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, padding="max_length", truncation=True)["input_ids"]
    return ids


@pytest.mark.parametrize("text", TEXTS)
def test_sample_texts_have_the_ids_of_transformers(tokenizer: Tokenizer, theirs: CLIPTokenizer, text: str) -> None:
    assert tokenizer.encode([text], truncate=True)[0].tolist() == their_ids(theirs, text)


@settings(max_examples=25)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_has_the_ids_of_transformers(tokenizer: Tokenizer, theirs: CLIPTokenizer, text: str) -> None:
    assert tokenizer.encode([text], truncate=True)[0].tolist() == their_ids(theirs, text)


@given(st.lists(st.sampled_from(["fox", "Foxes", "  ", "'s", "!", "7", "é", "<|endoftext|>", "🙂", "\n"]), max_size=9))
def test_mixed_words_have_the_ids_of_transformers(
    tokenizer: Tokenizer, theirs: CLIPTokenizer, words: list[str]
) -> None:
    text = "".join(words)
    assert tokenizer.encode([text], truncate=True)[0].tolist() == their_ids(theirs, text)


@pytest.mark.parametrize("left_out", [("tokenizer.json",), ("vocab.json", "merges.txt"), ("special_tokens_map.json",)])
def test_either_form_of_the_folder_is_enough(tokenizer: Tokenizer, tmp_path: Path, left_out: tuple[str, ...]) -> None:
    tokenizer.save(tmp_path)
    for name in left_out:
        (tmp_path / name).unlink()
    ours, theirs = Tokenizer.load(tmp_path), CLIPTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        ids = tokenizer.encode([text], truncate=True)[0].tolist()
        assert ours.encode([text], truncate=True)[0].tolist() == ids
        assert their_ids(theirs, text) == ids
    assert theirs.model_max_length == ours.context_length == LENGTH


def test_a_folder_saved_by_transformers_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    theirs.add_tokens(["<cat>", "<cat>_1"])
    theirs.save_pretrained(tmp_path / "saved")
    ours = Tokenizer.load(tmp_path / "saved")
    assert ours.vocab_size == tokenizer.vocab_size + 2
    for text in ["a <cat> and <cat>_1 in a house", *TEXTS]:
        assert ours.encode([text], truncate=True)[0].tolist() == their_ids(theirs, text)
    ours.save(tmp_path / "again")
    again = CLIPTokenizer.from_pretrained(tmp_path / "again")
    assert their_ids(again, "a <cat> !") == their_ids(theirs, "a <cat> !")


def test_other_padding_is_kept(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        content = json.loads((tmp_path / name).read_text()) | {"pad_token": "!"}
        (tmp_path / name).write_text(json.dumps(content))
    ours, theirs = Tokenizer.load(tmp_path), CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("a red fox", "stop! now!!"):
        assert ours.encode([text])[0].tolist() == their_ids(theirs, text)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_text_features_equal_transformers(activation: Activation, tmp_path: Path) -> None:
    config = TextEncoderConfig(40, 16, 2, 4, 24, 9, activation, bos_id=38, eos_id=39, pad_id=39)
    ours = TextEncoder(config).eval()
    save_file(ours.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    their_config = CLIPTextConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=24,
        max_position_embeddings=9,
        hidden_act=activation,
        bos_token_id=38,
        eos_token_id=39,
        pad_token_id=39,
    )
    their_config.save_pretrained(tmp_path)
    theirs, report = CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    tokens = torch.tensor([[38, 1, 2, 3, 39, 39, 39, 39, 39], [38, 7, 39, 39, 39, 39, 39, 39, 39]])
    features, expected = ours(tokens), theirs.eval()(tokens)
    torch.testing.assert_close(features.context, expected.last_hidden_state, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(features.pooled, expected.pooler_output, atol=1e-5, rtol=1e-5)
