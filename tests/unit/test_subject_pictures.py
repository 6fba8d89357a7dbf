"""Masks beside pictures, and the cache of what was computed once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.images import list_images, load_image
from sfumato.data.listing import list_entries
from sfumato.data.masks import find_masks, read_mask
from sfumato.errors import ConfigError, DataError
from sfumato.training.cache import TensorCache
from sfumato.training.picture_config import PictureConfig


def save(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 10), colour: object = 200) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour if mode == "L" else (200,) * len(mode)).save(path)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize("name", ["fox.mask.png", "fox-masklabel.png"])
def test_masks_are_found_and_are_no_pictures(tmp_path: Path, name: str) -> None:
    picture, mask = save(tmp_path / "fox.jpg"), save(tmp_path / name, "L")
    assert find_masks(tmp_path, [picture]) == {picture: mask}
    assert list_images(tmp_path) == [picture]
    assert [entry.path for entry in list_entries(tmp_path)] == [picture]
    assert read_mask(load_image(picture), mask).tolist() == [[200] * 20] * 10


def test_masks_in_a_folder_of_their_own_have_the_names_of_their_pictures(tmp_path: Path) -> None:
    folder, masks = tmp_path / "photos", tmp_path / "masks"
    pictures = [save(folder / "fox.jpg"), save(folder / "10_a dog" / "fox.png")]
    expected = [save(masks / "fox.png"), save(masks / "10_a dog" / "fox.WEBP")]
    (masks / "readme.txt").write_text("white is the subject")
    assert find_masks(folder, pictures, masks) == dict(zip(pictures, expected, strict=True))
    expected[0].unlink()
    with pytest.raises(DataError, match=r"fox\.jpg has no mask of its name in .*masks \(masks is 'file'\)"):
        find_masks(folder, pictures, masks)
    with pytest.raises(DataError, match=r"mask_folder is .*photos, where the pictures themselves are") as caught:
        find_masks(folder, pictures, folder)
    assert caught.value.field == "mask_folder"
    with pytest.raises(DataError, match="gone does not exist"):
        find_masks(folder, pictures, tmp_path / "gone")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fix.mask.png", "no picture is named 'fix'"),
        ("fox-masklabel.png", "'fox.mask.png' is read in its place"),
        ("below/fox.mask.png", "no picture is named 'fox'"),
    ],
)
def test_a_mask_without_a_picture_is_refused(tmp_path: Path, name: str, why: str) -> None:
    picture = save(tmp_path / "fox.jpg")
    save(tmp_path / "fox.mask.png")
    orphan = save(tmp_path / name)
    with pytest.raises(DataError, match=re.escape(f"{orphan}: mask without a picture: {why}.")):
        find_masks(tmp_path, [picture])


def test_a_mask_without_a_picture_is_refused_in_a_folder_of_masks_too(tmp_path: Path) -> None:
    picture = save(tmp_path / "photos" / "fox.jpg")
    for name in ("fox.png", "fix.png"):
        save(tmp_path / "masks" / name)
    with pytest.raises(DataError, match=r"fix\.png: mask without a picture: no picture is named 'fix'"):
        find_masks(picture.parent, [picture], tmp_path / "masks")


def test_alpha_is_a_mask(tmp_path: Path) -> None:
    pixels = np.full((10, 20, 4), 255, np.uint8)
    pixels[:, :5, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_mask(load_image(tmp_path / "a.png"), None).mean() == pytest.approx(255 * 0.75)


def test_missing_and_useless_masks_are_named(tmp_path: Path) -> None:
    path, mask = save(tmp_path / "fox.png"), tmp_path / "fox.mask.png"
    picture = load_image(path)
    with pytest.raises(DataError, match=r"fox\.png has no transparency, but masks are taken from it"):
        read_mask(picture, None)
    with pytest.raises(DataError, match=r"fox\.png has no mask .* neither fox\.mask\.png or fox-masklabel\.png"):
        find_masks(tmp_path, [path])
    save(mask, "L", (10, 20))
    with pytest.raises(DataError, match=r"fox\.mask\.png is 10 × 20 pixels, its picture 20 × 10") as caught:
        read_mask(picture, mask)
    assert caught.value.field == "masks"
    save(mask, "L", colour=0)
    with pytest.raises(DataError, match=r"The mask .*fox\.mask\.png is black everywhere"):
        read_mask(picture, mask)


def test_what_is_see_through_in_a_mask_marks_nothing(tmp_path: Path) -> None:
    pixels = np.full((10, 20, 4), 255, np.uint8)
    pixels[:, 5:, 3] = 0
    picture, mask = load_image(save(tmp_path / "fox.png")), tmp_path / "fox.mask.png"
    Image.fromarray(pixels).save(mask)
    assert read_mask(picture, mask).mean() == pytest.approx(255 * 0.25)


def test_a_mask_of_labels_is_named_and_one_of_half_shades_is_read(tmp_path: Path) -> None:
    picture, mask = load_image(save(tmp_path / "fox.png")), tmp_path / "fox.mask.png"
    save(mask, "L", colour=1)
    with pytest.raises(DataError, match=r"fox\.mask\.png is nowhere white \(its highest value is 1 of 255\)"):
        read_mask(picture, mask)
    save(mask, "L", colour=100)
    assert read_mask(picture, mask).mean() == 100
    faint = np.full((10, 20, 4), 9, np.uint8)
    Image.fromarray(faint).save(tmp_path / "faint.png")
    assert read_mask(load_image(tmp_path / "faint.png"), None).mean() == 9, "alpha counts as it is"


def test_masks_of_pictures_that_are_not_read_do_not_matter(tmp_path: Path) -> None:
    picture = save(tmp_path / "fox.jpg")
    save(tmp_path / "fox.mask.png")
    save(tmp_path / "old" / "dog.jpg")
    save(tmp_path / "old" / "dog.mask.png")
    assert find_masks(tmp_path, [picture]) == {picture: tmp_path / "fox.mask.png"}


def test_a_folder_of_masks_needs_masks_from_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mask_folder is 'm' but masks is 'alpha', which reads no files"):
        PictureConfig(masks="alpha", mask_folder=Path("m"))


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


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    cache, made = TensorCache(tmp_path / "file"), []

    def make() -> dict[str, torch.Tensor]:
        made.append(1)
        return {"mean": torch.ones(2)}

    for number in range(2):
        tensors = cache.get("latents", "key", make)
        assert torch.equal(tensors["mean"], torch.ones(2)) and len(made) == number + 1


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
