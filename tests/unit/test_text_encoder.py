"""The text encoder: causality, extra rows, first weights, refused values."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sfumato.errors import ConfigError, ShapeError
from sfumato.models.text_encoder import TextEncoder, TextEncoderConfig, text_encoder_sd1, text_encoder_sd2

CONFIG = TextEncoderConfig(20, 8, 2, 2, 16, 6, "gelu", bos_id=18, eos_id=19, pad_id=19)
TOKENS = torch.tensor([[18, 3, 4, 19, 19, 19], [18, 5, 19, 19, 19, 19]])


def test_published_sizes() -> None:
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in TextEncoder(config()).parameters())
            for config in (text_encoder_sd1, text_encoder_sd2)
        ]
    assert sizes == [123_060_480, 340_387_840]


def test_pooled_is_read_at_the_first_end() -> None:
    features = TextEncoder(CONFIG)(TOKENS)
    assert torch.equal(features.pooled[0], features.context[0, 3])
    assert torch.equal(features.pooled[1], features.context[1, 2])


def test_a_token_does_not_see_what_follows() -> None:
    encoder, changed = TextEncoder(CONFIG), TOKENS.clone()
    changed[0, 2] = 7
    before, after = encoder(TOKENS).context, encoder(changed).context
    torch.testing.assert_close(before[0, :2], after[0, :2])
    assert not torch.allclose(before[0, 2:], after[0, 2:])


def test_extra_rows_act_like_rows_of_the_table() -> None:
    encoder, rows, tokens = TextEncoder(CONFIG), torch.randn(2, 8), TOKENS.clone()
    larger = TextEncoder(dataclasses.replace(CONFIG, vocab_size=22))
    table = torch.cat((encoder.text_model.embeddings.token_embedding.weight, rows))
    larger.load_state_dict(encoder.state_dict() | {"text_model.embeddings.token_embedding.weight": table})
    tokens[0, 1], tokens[1, 1] = 20, 21
    for ours, expected in zip(encoder(tokens, rows), larger(tokens), strict=True):
        torch.testing.assert_close(ours, expected)


def test_extra_rows_learn_and_the_table_gets_no_gradient_from_them() -> None:
    encoder, rows = TextEncoder(CONFIG), torch.randn(1, 8, requires_grad=True)
    tokens = torch.tensor([[18, 20, 19]])
    encoder(tokens, rows).pooled.square().sum().backward()
    assert rows.grad is not None
    assert float(rows.grad.norm()) > 0
    touched = encoder.text_model.embeddings.token_embedding.weight.grad.abs().sum(1).nonzero().flatten()
    assert set(touched.tolist()) <= {18, 19}


def test_no_extra_rows_change_nothing() -> None:
    encoder = TextEncoder(CONFIG)
    assert torch.equal(encoder(TOKENS, torch.zeros(0, 8)).context, encoder(TOKENS).context)


def test_first_weights_follow_clip() -> None:
    torch.manual_seed(0)
    config = TextEncoderConfig(500, 64, 8, 4, 256, 77, "gelu", 498, 499, 499)
    parts = TextEncoder(config).state_dict()
    layer = "text_model.encoder.layers.3"
    expected = {
        "text_model.embeddings.token_embedding.weight": 0.02,
        "text_model.embeddings.position_embedding.weight": 0.01,
        f"{layer}.self_attn.q_proj.weight": 64**-0.5,
        f"{layer}.self_attn.out_proj.weight": 64**-0.5 / 4,
        f"{layer}.mlp.fc1.weight": 128**-0.5,
        f"{layer}.mlp.fc2.weight": 64**-0.5 / 4,
    }
    for name, deviation in expected.items():
        assert float(parts[name].std()) == pytest.approx(deviation, rel=0.05), name
    assert not any(bool(p.any()) for name, p in parts.items() if name.endswith("bias"))


def test_shapes_that_do_not_fit_are_refused() -> None:
    encoder = TextEncoder(CONFIG)
    with pytest.raises(ShapeError, match="The texts have 7 tokens, the encoder takes 6"):
        encoder(torch.full((1, 7), 19))
    with pytest.raises(ShapeError, match="Token id 21 has no row: the vocabulary has 20 and there are 1 extra rows"):
        encoder(torch.tensor([[18, 21, 19]]), torch.zeros(1, 8))
    with pytest.raises(ShapeError, match="The extra rows are 5 wide, the encoder needs 8"):
        encoder(TOKENS, torch.zeros(1, 5))
    with pytest.raises(ShapeError, match="Row 1 has no end token 19"):
        encoder(torch.tensor([[18, 19, 19], [18, 2, 3]]))


def test_configurations_that_contradict_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 attention heads do not divide 8 channels"):
        dataclasses.replace(CONFIG, heads=3)
    with pytest.raises(ConfigError, match="eos_id is 20, outside the vocabulary of 20 tokens"):
        dataclasses.replace(CONFIG, eos_id=20)
