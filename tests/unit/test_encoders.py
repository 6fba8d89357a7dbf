"""Encoders by protocol, the embedded one, and those of transformers from a folder of this machine."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sfumato.errors import CheckpointError, ConfigError, DataError, MissingKeys, UnknownFormat
from sfumato.evaluation.encoders import (
    NamedEncoder,
    PictureEncoder,
    TextEncoder,
    check_readable,
    choose_encoders,
    choose_judges,
    without_ground,
)
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.local_encoders import load_local
from sfumato.formats.dual_encoder import load_dual_encoder
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.models.dual_encoder import ImageTextEncoder
from sfumato.models.efficientnet import EfficientNetLite0
from tiny_encoders import save_encoders

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.mark.parametrize(
    ("name", "title", "width"), [("clip", "CLIP", 8), ("dino", "DINO", 16), ("dinov2", "DINOv2", 16)]
)
def test_pictures_are_embedded_as_transformers_does(name: str, title: str, width: int, folders: Path) -> None:
    encoder = load_local(folders / name)
    assert encoder.name == f"{title} ({name})"
    found = encoder.embed_pictures(PICTURES)
    assert found.shape == (3, width) and torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
    images = torch.cat([encoder._prepared(picture) for picture in PICTURES])
    assert images.shape[-2:] == (32, 32)
    with torch.no_grad():
        if name == "clip":
            theirs = encoder.model(pixel_values=images, input_ids=torch.tensor([[0, 1]] * 3)).image_embeds
        else:
            theirs = encoder.model(images).last_hidden_state[:, 0]
    assert torch.allclose(found, torch.nn.functional.normalize(theirs, dim=1), atol=1e-5)


def test_texts_are_embedded_as_transformers_does(folders: Path) -> None:
    encoder = load_local(folders / "clip")
    assert isinstance(encoder, TextEncoder)
    texts = ["a b c", "h g f e d c b a h g f e d c b a"]  # the second is longer than the model reads
    found = encoder.embed_texts(texts)
    alone = torch.cat([encoder.embed_texts([text]) for text in texts])
    assert torch.allclose(found, alone, atol=1e-5) and not torch.allclose(found[0], found[1])
    tokens: Any = encoder.tokenizer("a b c", return_tensors="pt")  # type: ignore[attr-defined]
    with torch.no_grad():
        theirs = encoder.model(pixel_values=torch.zeros(1, 3, 32, 32), **tokens).text_embeds  # type: ignore[attr-defined]
    assert torch.allclose(found[:1], theirs / theirs.norm(dim=1, keepdim=True), atol=1e-5)


def test_normalisation_is_that_of_the_folder(folders: Path, tmp_path: Path) -> None:
    usual = load_local(folders / "dino")
    assert usual.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    shutil.copytree(folders / "dino", tmp_path / "dino")
    (tmp_path / "dino/preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    )
    image = load_local(tmp_path / "dino")._prepared(np.full((32, 32, 3), 255, np.uint8))
    assert torch.allclose(image, torch.ones_like(image), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "given", "shortest", "side"),
    [
        ("dinov2", {"crop_size": {"height": 24, "width": 24}, "size": {"shortest_edge": 28}}, 28, 24),
        ("clip", {"crop_size": 24, "do_center_crop": True, "size": 28}, 28, 24),
        ("clip", {"crop_size": 40}, 40, 40),
        ("dino", {"size": 24}, None, 24),
        ("dino", {"size": {"height": 24, "width": 24}}, None, 24),
        ("dino", {"size": {"shortest_edge": 40}}, None, 40),
        ("dinov2", {"crop_size": 24, "do_center_crop": False, "size": 40}, None, 40),
        ("dinov2", {"do_normalize": True}, None, 32),
    ],
)
def test_pictures_have_the_side_that_the_preprocessor_says(
    kind: str, given: dict[str, Any], shortest: int | None, side: int, folders: Path, tmp_path: Path
) -> None:
    shutil.copytree(folders / kind, tmp_path / kind)
    (tmp_path / kind / "preprocessor_config.json").write_text(json.dumps(given))
    encoder = load_local(tmp_path / kind)
    assert (encoder.shortest, encoder.side) == (shortest, side)
    shapes = [encoder._prepared(np.zeros((height, width, 3), np.uint8)).shape for height, width in ((30, 70), (50, 20))]
    assert shapes == [(1, 3, side, side)] * 2
    found = encoder.embed_pictures(PICTURES)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
    if side != 32:
        assert not torch.equal(found, load_local(folders / kind).embed_pictures(PICTURES))


def test_the_middle_square_is_the_one_that_pillow_would_cut(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "dinov2", tmp_path / "dinov2")
    given = {"crop_size": 24, "size": {"shortest_edge": 28}, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    (tmp_path / "dinov2/preprocessor_config.json").write_text(json.dumps(given))
    ramp = np.add.outer(2 * np.arange(40), 3 * np.arange(56))
    picture = np.stack([ramp, 255 - ramp, ramp // 2], axis=-1).astype(np.uint8)
    found = load_local(tmp_path / "dinov2")._prepared(picture)[0].permute(1, 2, 0).numpy()
    theirs = Image.fromarray(picture).resize((39, 28), Image.Resampling.BICUBIC).crop((7, 2, 31, 26))
    assert np.abs(found - np.asarray(theirs) / 255).max() < 0.02


def test_folders_that_cannot_be_used(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="nowhere' is no folder of an encoder: config.json with a model_type"):
        load_local(tmp_path / "nowhere")
    with pytest.raises(UnknownFormat, match="bert' holds a model of type 'bert'; needed: clip, dinov2, vit"):
        load_local(folders / "bert")
    shutil.copytree(folders / "dino", tmp_path / "dino")
    file = tmp_path / "dino/model.safetensors"
    tensors = read_safetensors(file)
    write_safetensors(
        file, {name: tensor for name, tensor in tensors.items() if name != "layernorm.weight"}, {"format": "pt"}
    )
    with pytest.raises(MissingKeys, match="dino' lacks 1 tensors, the first is 'layernorm.weight'"):
        load_local(tmp_path / "dino")
    file.unlink()
    with pytest.raises(CheckpointError, match="dino' cannot be read"):
        load_local(tmp_path / "dino")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ConfigError, match=r"dino' needs the package transformers.*pip install --editable '\.\[encoders\]'"
    ):
        load_local(folders / "dino")


class Colours:
    """A dual encoder of its own: the mean colour, and the colour that a text names."""

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        rows = torch.tensor(np.array([picture.reshape(-1, 3).mean(0) for picture in pictures]), dtype=torch.float32)
        return torch.nn.functional.normalize(rows, dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([torch.tensor([float(name in text) for name in ("red", "green", "blue")]) for text in texts])


def colours(network: EfficientNetLite0 | None) -> Colours:
    return Colours()


def eye() -> FeatureExtractor:
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return FeatureExtractor(network, side=32)


def test_encoders_are_chosen_by_name(folders: Path) -> None:
    usual = choose_encoders(eye=eye())
    assert usual.texts is None and usual.pictures.name == "EfficientNet-Lite0"
    assert torch.allclose(usual.pictures.embed_pictures(PICTURES).norm(dim=1), torch.ones(3), atol=1e-5)
    at_hand = eye()
    with_dual = choose_encoders(eye=at_hand, dual=colours)
    assert isinstance(with_dual.texts, TextEncoder) and with_dual.texts.name == "dual encoder"
    shared = choose_encoders(eye=at_hand, dual=load_dual_encoder).texts
    assert isinstance(shared, NamedEncoder) and isinstance(shared.encoder, ImageTextEncoder)
    assert shared.encoder.eye.network is at_hand.network, "the network is in memory once"
    assert with_dual.texts.embed_texts(["a green fox"]).tolist() == [[0, 1, 0]]
    both = choose_encoders("dual", "none", dual=colours)
    assert isinstance(both.pictures, PictureEncoder) and both.texts is None
    local = choose_encoders(str(folders / "clip"), str(folders / "clip"), dual=colours)
    assert local.texts is local.pictures and local.pictures.name == "CLIP (clip)"


def test_encoders_in_folders_of_one_name_are_told_apart(folders: Path, tmp_path: Path) -> None:
    places = [tmp_path / place for place in ("a/x/main", "b/x/main", "c/main", "d/main")]
    for place, kind in zip(places, ("dino", "dino", "dino", "clip"), strict=True):
        shutil.copytree(folders / kind, place)
    judges, text = choose_judges([str(place) for place in places], str(places[3]))
    assert [judge.name for judge in judges] == ["DINO (a/x/main)", "DINO (b/x/main)", "DINO (c/main)", "CLIP (main)"]
    assert text is judges[3]


def test_encoders_that_are_not_there_or_know_no_texts(folders: Path) -> None:
    with pytest.raises(ConfigError, match="'dual' was asked for; this installation has none") as caught:
        choose_encoders("dual")
    assert caught.value.field == "judge_pictures"
    with pytest.raises(ConfigError, match=r"dino' holds DINO \(dino\), which knows pictures only"):
        choose_encoders("embedded", str(folders / "dino"), eye=eye())


@pytest.mark.parametrize(
    ("pictures", "texts", "message"),
    [
        (("embedded",), "embedded", "judge_texts is 'embedded'; needed: 'auto', 'none', 'dual' or a folder with CLIP"),
        (
            ("none",),
            "auto",
            "judge_pictures is 'none'; needed: 'embedded', 'dual' or a folder with CLIP, DINO or DINOv2",
        ),
    ],
)
def test_names_of_the_other_side_are_refused(pictures: tuple[str, ...], texts: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_judges(pictures, texts)


def test_plain_grounds_are_painted_white_and_others_stay() -> None:
    on_red = np.full((32, 32, 3), (200, 30, 30), np.uint8)
    on_red[10:22, 10:22] = (20, 60, 200)
    on_green = np.where((on_red == (200, 30, 30)).all(-1, keepdims=True), np.uint8((30, 200, 60)), on_red)
    assert np.array_equal(without_ground(on_red), without_ground(on_green))
    assert tuple(without_ground(on_red)[0, 0]) == (255, 255, 255) and tuple(without_ground(on_red)[16, 16]) == (
        20,
        60,
        200,
    )
    striped = on_red.copy()
    striped[::4] = (255, 255, 255)
    striped[1::4] = (255, 255, 255)
    assert without_ground(striped) is striped


def test_texts_that_a_judge_cannot_read_are_refused_before_the_time_is_spent() -> None:
    texts = choose_encoders("embedded", "dual", dual=load_dual_encoder).texts
    check_readable(texts, ["a fox on a blue background"])
    check_readable(None, ["word " * 90])
    with pytest.raises(DataError, match="The judge of texts, dual encoder, cannot read") as caught:
        check_readable(texts, ["a fox", "a cobblestone street with sunflowers and autumn leaves " * 3])
    assert caught.value.field == "judge_texts" and "--judge-texts none" in str(caught.value.hint)
