"""The dual encoder: what its eye keeps, unit vectors, its folder, its loss, and every complaint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sfumato.errors import CheckpointError, ConfigError, DataError, MissingKeys, ShapeError, UnknownFormat
from sfumato.formats.dual_encoder import load_dual_encoder, read_dual_encoder_config, save_dual_encoder
from sfumato.models.dual_encoder import DualEncoder, DualEncoderConfig, ImageTextEncoder
from sfumato.models.efficientnet import EfficientNetLite0
from sfumato.models.eye import Eye, EyeConfig, Sights
from sfumato.models.text_encoder import TextEncoderConfig
from sfumato.training.dual_encoder import retrieval
from sfumato.training.objectives import contrastive_loss
from tiny import tiny_tokenizer

EYE = EyeConfig(side=64, stages=(1, 7), grid=2)


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    return EfficientNetLite0.pretrained()


def config(**changes: Any) -> DualEncoderConfig:
    tokenizer = tiny_tokenizer()
    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    text = TextEncoderConfig(tokenizer.vocab_size, 32, 1, 2, 64, 32, "quick_gelu", **ends)
    values = {"eye": EYE, "text": text, "dim": 24, "width": 16, "layers": 1, "heads": 2, "mlp_width": 32, **changes}
    return DualEncoderConfig(**values)


@pytest.fixture(scope="module")
def encoder(network: EfficientNetLite0) -> ImageTextEncoder:
    torch.manual_seed(0)
    return ImageTextEncoder(DualEncoder(config()), tiny_tokenizer(), Eye(EYE, network))


def pictures(count: int, height: int = 40, width: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (height, width, 3)).astype(np.uint8) for _ in range(count)]


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(encoder: ImageTextEncoder) -> None:
    shown = [*pictures(3), *pictures(2, 30, 50)]
    vectors = encoder.embed_pictures(shown, batch_size=2)
    assert vectors.shape == (5, 24)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(encoder.embed_pictures([shown[3]])[0], vectors[3], atol=1e-5, rtol=0)
    texts = ["a red fox", "a blue robot on a green background", "photo of a fox in the snow"]
    words = encoder.embed_texts(texts)
    assert words.shape == (3, 24)
    torch.testing.assert_close(words.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(encoder.embed_texts(texts[:1])[0], words[0], atol=1e-6, rtol=0)
    cosines = encoder.fidelity(shown[:3], texts)
    torch.testing.assert_close(cosines, (vectors[:3] * words).sum(1), atol=1e-5, rtol=0)
    assert encoder.embed_pictures([]).shape == encoder.embed_texts([]).shape == (0, 24)


def test_padding_that_is_not_computed_changes_nothing(encoder: ImageTextEncoder) -> None:
    tokens = encoder.tokenizer.encode(["a red fox", "an owl"])
    short = encoder.network.texts(tokens)
    whole = encoder.network.text_projection(encoder.network.text_encoder(tokens).pooled)
    torch.testing.assert_close(short, F.normalize(whole, dim=1), atol=1e-6, rtol=0)


def test_the_eye_keeps_place_and_colour(network: EfficientNetLite0) -> None:
    image = -torch.ones(1, 3, 64, 64)
    image[:, 0, :32, 32:] = 1.0  # the upper right quarter is red
    sights = Eye(EYE, network).look(image)
    assert sights.cells.shape == (1, EYE.cell_channels, 2, 2) == (1, 3 + 16 + 320, 2, 2)
    assert sights.whole.shape == (1, 1280) and float(sights.whole.min()) >= 0
    torch.testing.assert_close(sights.cells[0, 0], torch.tensor([[-1.0, 1.0], [-1.0, -1.0]]))
    torch.testing.assert_close(sights.cells[0, 1:3], -torch.ones(2, 2, 2))
    torch.testing.assert_close(sights.whole, network(image))
    maps = network.stages(image, (1, 7))
    torch.testing.assert_close(sights.cells[0, 3:19, 0, 1], maps[0][0, :, :16, 16:].mean(dim=(1, 2)), atol=1e-4, rtol=0)
    torch.testing.assert_close(sights.cells[0, 19:], maps[1][0])


def test_the_same_cells_elsewhere_give_another_vector(encoder: ImageTextEncoder) -> None:
    cells, whole = torch.randn(1, EYE.cell_channels, 2, 2), torch.rand(1, 1280)
    one, mirrored = (encoder.network.pictures(Sights(seen, whole)) for seen in (cells, cells.flip(3)))
    assert float((one - mirrored).abs().max()) > 1e-3


def test_channels_are_brought_to_one_scale() -> None:
    network = DualEncoder(config())
    sights = Sights(5 + 30 * torch.randn(64, EYE.cell_channels, 2, 2), torch.rand(64, 1280) * 1e3)
    sights.cells[:, 7] = 4.0  # a map that never changes
    network.picture.standardise(sights)
    mean, deviation = network.picture.cells_mean, network.picture.cells_std
    rows = (sights.cells.transpose(0, 1).flatten(1) - mean[:, None]) / deviation[:, None]
    torch.testing.assert_close(rows.mean(1), torch.zeros(len(mean)), atol=1e-4, rtol=0)
    assert float(deviation[7]) == 1.0 and float(rows[7].abs().max()) == 0
    torch.testing.assert_close(network.picture.whole_std, sights.whole.std(dim=0))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path, encoder: ImageTextEncoder) -> None:
    place = tmp_path / "run" / "dual-encoder"
    folder = save_dual_encoder(encoder.network, encoder.tokenizer, place, files={"README.md": "card"})
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "tokenizer", "README.md"}
    for place in (folder, tmp_path / "run"):
        again = load_dual_encoder(encoder.eye.network, folder=place)
        assert again.network.config == encoder.network.config
        shown, texts = pictures(4), ["a red fox", "a blue robot", "an owl", "photo of a fox"]
        torch.testing.assert_close(again.fidelity(shown, texts), encoder.fidelity(shown, texts), atol=3e-3, rtol=0)
    assert not any(weight.requires_grad for weight in again.network.parameters())
    twice = save_dual_encoder(again.network, again.tokenizer, tmp_path / "twice")
    assert (twice / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert load_dual_encoder(folder=folder).eye.config == EYE


def test_folders_that_are_not_usable_are_named(tmp_path: Path, encoder: ImageTextEncoder) -> None:
    with pytest.raises(CheckpointError, match=rf"'{tmp_path}' holds no dual encoder: config\.json is missing"):
        load_dual_encoder(folder=tmp_path)
    folder = save_dual_encoder(encoder.network, encoder.tokenizer, tmp_path / "d")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "layers": 2}))
    with pytest.raises(MissingKeys, match=r"lacks 13 of the 62 tensors"):
        load_dual_encoder(folder=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other/9"}, r"'f' has format 'other/9'; this version reads 'sfumato-dual-encoder/1'"),
        ({"dime": 3}, r"'f' has the unknown key 'dime'\. Did you mean 'dim'"),
        ({"dim": None}, r"'f' lacks the key 'dim'"),
        ({"eye": 3}, r"'f: eye' is 3; an object is needed"),
        ({"eye": {"side": 60, "stages": [7], "grid": 1}}, r"'f: eye' is not usable: side is 60"),
        ({"heads": 3}, r"'f' is not usable: .*3"),
    ],
)
def test_configurations_are_read_strictly(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    folder = save_dual_encoder(DualEncoder(config()), tokenizer, tmp_path / "d")
    content = {**json.loads((folder / "config.json").read_text()), **change}
    content = {key: value for key, value in content.items() if value is not None}
    with pytest.raises(UnknownFormat, match=message):
        read_dual_encoder_config(content, "f")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stages": (3, 5)}, r"stages ends with 5; .* from stage 7"),
        ({"side": 100}, r"side is 100; the network needs a multiple of 32"),
        ({"side": 64, "grid": 3}, r"grid is 3; the last map of a picture of 64 pixels has 2 cells"),
        ({"grid": 0}, r"grid is 0;"),
    ],
)
def test_an_eye_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EyeConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropout": 1.0}, r"dropout is 1\.0; a rate from 0 to less than 1"),
        ({"dim": 0}, r"dim is 0; at least 1"),
        ({"layers": 0}, r"layers is 0; at least 1"),
        ({"heads": 3}, r"16.*3|3.*16"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


def test_texts_and_tokenizers_that_do_not_fit_are_refused(encoder: ImageTextEncoder) -> None:
    with pytest.raises(DataError, match=r"The text has \d+ tokens .*, the limit is 32"):
        encoder.embed_texts(["fox " * 40])
    with pytest.raises(ShapeError, match="2 pictures and 1 texts were given"):
        encoder.fidelity(pictures(2), ["a red fox"])
    other = type(encoder.tokenizer).train(["one two three"] * 3, 520)
    with pytest.raises(
        ConfigError, match=rf"The tokenizer has {other.vocab_size} pieces; .* made for {encoder.tokenizer.vocab_size}"
    ):
        ImageTextEncoder(encoder.network, other, encoder.eye)


def test_the_loss_is_that_of_clip_and_wrong_captions_raise_it() -> None:
    clip = pytest.importorskip("transformers.models.clip.modeling_clip")
    torch.manual_seed(1)
    seen, right, wrong = (F.normalize(torch.randn(n, 8), dim=1) for n in (6, 6, 4))
    plain = contrastive_loss(seen, right, torch.empty(0, 8), torch.tensor(7.0))
    torch.testing.assert_close(plain.mean(), clip.image_text_contrastive_loss(7.0 * right @ seen.T))
    harder = contrastive_loss(seen, right, wrong, torch.tensor(7.0))
    assert bool((harder > plain).all())
    logits = 7.0 * seen @ torch.cat([right, wrong]).T
    expected = (logits.logsumexp(1) - logits.diagonal() + (7.0 * right @ seen.T).logsumexp(1) - logits.diagonal()) / 2
    torch.testing.assert_close(harder, expected)


def test_the_scale_stays_below_a_hundred() -> None:
    network = DualEncoder(config())
    assert float(network.scale.detach()) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        network.log_scale.fill_(9.0)
    assert float(network.scale.detach()) == 100.0


def test_retrieval_counts_ranks_both_ways() -> None:
    seen = torch.eye(8)
    assert set(retrieval(seen, seen).values()) == {1.0}
    texts = seen[[1, 0, 2, 3, 4, 5, 6, 7]] + 0.1 * seen  # two are swapped, yet their partner is second
    found = retrieval(seen, texts)
    assert found["text_of_picture/recall_at_1"] == found["picture_of_text/recall_at_1"] == 0.75
    assert found["text_of_picture/recall_at_5"] == 1.0
