"""Masks beside pictures, and the cache of what was computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.images import list_images, load_image
from sfumato.data.listing import list_entries
from sfumato.data.masks import mask_file, read_mask
from sfumato.errors import ConfigError, DataError
from sfumato.training.cache import TensorCache
from sfumato.training.picture_config import PictureConfig


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 10), colour: object = 200) -> Path:
    Image.new(mode, size, colour if mode == "L" else (200,) * len(mode)).save(path)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["fox.mask.png", "fox-masklabel.png"])
def test_masks_are_found_and_are_no_pictures(tmp_path: Path, name: str) -> None:
    picture, mask = save(tmp_path / "fox.jpg"), save(tmp_path / name, "L")
    assert mask_file(picture) == mask
    assert list_images(tmp_path) == [picture]
    assert [entry.path for entry in list_entries(tmp_path)] == [picture]
    assert read_mask(load_image(picture), "file").tolist() == [[200] * 20] * 10


def test_alpha_is_a_mask(tmp_path: Path) -> None:
    pixels = np.full((10, 20, 4), 255, np.uint8)
    pixels[:, :5, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_mask(load_image(tmp_path / "a.png"), "alpha").mean() == pytest.approx(255 * 0.75)


def test_missing_and_useless_masks_are_named(tmp_path: Path) -> None:
    picture = load_image(save(tmp_path / "fox.png"))
    with pytest.raises(DataError, match=r"fox\.png has no transparency, but masks are taken from it"):
        read_mask(picture, "alpha")
    with pytest.raises(DataError, match=r"fox\.png has no mask .* neither fox\.mask\.png or fox-masklabel\.png"):
        read_mask(picture, "file")
    save(tmp_path / "fox.mask.png", "L", (10, 20))
    with pytest.raises(DataError, match=r"fox\.mask\.png is 10 × 20 pixels; its picture fox\.png is 20 × 10") as caught:
        read_mask(picture, "file")
    assert caught.value.field == "masks"
    save(tmp_path / "fox.mask.png", "L", colour=0)
    with pytest.raises(DataError, match=r"The mask of .*fox\.mask\.png is black everywhere"):
        read_mask(picture, "file")


@pytest.mark.parametrize("values", [{"variants": 4}, {"crop": 0.2}, {"jitter": 0.2}])
def test_variants_and_their_differences_go_together(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"variants is \d, crop .* and jitter .*; variants above 1 need a crop"):
        PictureConfig.model_validate(values)
    assert PictureConfig(variants=4, crop=0.2).variants == 4


def test_cache_computes_once_and_again_when_an_entry_is_damaged(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"x": torch.arange(4.0), "mask": torch.ones(1)}

    cache = TensorCache(tmp_path)
    first = cache.get("latents", "key", make)
    (file,) = (tmp_path / "latents").iterdir()
    whole = file.read_bytes()
    assert torch.equal(TensorCache(tmp_path).get("latents", "key", make)["x"], first["x"]) and len(calls) == 1
    for damaged in (whole[:-3], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"no tensors at all", whole + b"x"):
        file.write_bytes(damaged)
        assert torch.equal(cache.get("latents", "key", make)["x"], first["x"])
        assert file.read_bytes() == whole
    assert len(calls) == 6
    cache.get("latents", "another key", make)
    cache.get("texts", "key", make)
    assert len(calls) == 8


def test_without_a_folder_nothing_is_kept_or_hashed() -> None:
    cache, net = TensorCache(None), torch.nn.Linear(2, 2)
    calls: list[int] = []
    for _ in range(2):
        cache.get("latents", "key", lambda: calls.append(1) or {})  # type: ignore[func-returns-value]
    assert len(calls) == 2 and cache.identity(net) == ""


def test_identity_of_a_network_is_its_weights(tmp_path: Path) -> None:
    net, other = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    cache = TensorCache(tmp_path)
    assert cache.identity(net) != cache.identity(other)
    assert cache.identity(net) == TensorCache(tmp_path).identity(net)
    assert cache.identity(torch.nn.Linear(1, 1), lambda: "mine") == "mine"
