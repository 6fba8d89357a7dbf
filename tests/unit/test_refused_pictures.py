"""Pictures that a lesson refuses when it reads them: masks that leave no weight, latents that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from broken_folders import photo
from sfumato.errors import DataError
from sfumato.formats.bundle import Bundle
from sfumato.models.autoencoder import Autoencoder
from sfumato.training.cache import TensorCache
from sfumato.training.encoded import latent_weights
from sfumato.training.picture_config import PictureConfig
from sfumato.training.sample_set import Samples
from sfumato.training.subject import read_subject
from tiny import tiny_bundle

Box = tuple[int, int, int, int]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def masked(folder: Path, white: Box, width: int = 128, height: int = 32) -> Path:
    """Write a picture with a mask that is white in a box."""
    photo(0, width, height).save(folder / "fox.png")
    mask = Image.new("L", (width, height))
    mask.paste(255, white)
    mask.save(folder / "fox.mask.png")
    return folder


def read(folder: Path, bundle: Bundle, cache: Path | None = None, **data: Any) -> Samples:
    pictures = PictureConfig.model_validate({"masks": "file", "unmasked_weight": 0, **data})
    samples = read_subject(folder, "<fox>", "fox", bundle, pictures=pictures, cache=TensorCache(cache))
    assert isinstance(samples, Samples)
    return samples


def test_a_mask_that_misses_the_crop_is_refused_where_nothing_else_counts(bundle: Bundle, tmp_path: Path) -> None:
    folder = masked(tmp_path, (0, 0, 48, 32))
    for _ in range(2):  # encoded, and from the cache
        with pytest.raises(DataError) as caught:
            read(folder, bundle, tmp_path / "cache")
        assert caught.value.message == (
            f"The mask {folder}/fox.mask.png of {folder}/fox.png leaves nothing in the middle that is learned at "
            "32 × 32, and unmasked_weight is 0: no place would count."
        )
        assert caught.value.field == "masks"
        assert caught.value.hint == (
            "Use a mask that marks something there, an unmasked_weight above 0 or buckets, which cut another part."
        )
    for data in ({"unmasked_weight": 0.1}, {"buckets": True}, {"masks": "none"}):
        weights = read(folder, bundle, tmp_path / "cache", **data).weights
        assert weights is None or bool(weights.any())
    with pytest.raises(DataError, match="and unmasked_weight is 1e-12: no place would count"):
        read(folder, bundle, unmasked_weight=1e-12)  # float32 rounds it away
    masked(tmp_path, (0, 0, 49, 1))
    assert float(read(folder, bundle).weights.sum()) > 0  # type: ignore[union-attr]


def test_a_mask_that_misses_a_bucket_or_an_alpha_channel_is_named(bundle: Bundle, tmp_path: Path) -> None:
    masked(tmp_path, (0, 0, 96, 32), width=320)
    with pytest.raises(DataError, match=r"leaves nothing in the middle that is learned at 64 × 16") as caught:
        read(tmp_path, bundle, buckets=True)
    assert caught.value.hint == "Use a mask that marks something there or an unmasked_weight above 0."
    solid = photo(0, 128, 32)
    solid.putalpha(Image.open(masked(tmp_path, (0, 0, 48, 32)) / "fox.mask.png"))
    solid.save(tmp_path / "fox.png")
    (tmp_path / "fox.mask.png").unlink()
    with pytest.raises(DataError, match=r"The alpha channel of .*fox\.png leaves nothing in the middle"):
        read(tmp_path, bundle, masks="alpha")


def test_a_variant_without_white_is_named(bundle: Bundle, tmp_path: Path) -> None:
    folder = masked(tmp_path, (62, 14, 66, 18))  # the middle has it, small random crops miss it
    data = {"variants": 6, "crop": 0.9}
    assert len(read(folder, bundle, **data, unmasked_weight=0.1).mean) == 6
    with pytest.raises(DataError) as caught:
        read(folder, bundle, **data)
    assert "fox.png leaves nothing in the random crop (variant 2 of 6) that is learned at 32 × 32" in (
        caught.value.message
    )
    assert "above 0, a smaller crop or buckets" in (caught.value.hint or "")
    assert len(read(folder, bundle, variants=6, jitter=0.2, masks="none").mean) == 6


@pytest.mark.parametrize(("part", "bad"), [(0, 3), (1, 5)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, bad: int, value: float
) -> None:
    masked(tmp_path, (48, 0, 80, 32))
    photo(1).save(tmp_path / "good.png")
    moments, calls = Autoencoder.moments, []

    def poisoned(self: Autoencoder, images: torch.Tensor) -> Any:
        made = moments(self, images)
        calls.append(1)
        if len(calls) == 2:  # the second variant of the first picture
            made[part].flatten()[:bad] = value
        return made

    monkeypatch.setattr(Autoencoder, "moments", poisoned)
    data = {"variants": 2, "jitter": 0.1, "masks": "none"}
    with pytest.raises(DataError) as caught:
        read(tmp_path, bundle, tmp_path / "cache", **data)
    assert caught.value.message == (
        f"Of {tmp_path}/fox.png (variant 2 of 2) the autoencoder of base 'tiny' gave {bad} numbers of 512 that are "
        "not finite; needed: finite latents."
    )
    assert caught.value.hint == (
        "Where every picture does so, the weights of the base are damaged: copy it again. Otherwise save this "
        "picture again as PNG, or take it out."
    )
    assert len(calls) == 2
    assert bool(read(tmp_path, bundle, tmp_path / "cache", **data).mean.isfinite().all())  # nothing bad was kept


def test_weights_of_a_mask() -> None:
    mask = torch.tensor([0.0, 0.25, 1.0]).view(1, 1, 1, 3)
    assert latent_weights(mask, 0.1).flatten().tolist() == pytest.approx([0.1, 0.325, 1.0])
    assert latent_weights(mask, 0.0).flatten().tolist() == [0.0, 0.25, 1.0]
