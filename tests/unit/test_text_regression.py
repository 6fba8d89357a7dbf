"""Regression of latents on the text: what is read, how far it is off, what learns from it, and from which pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.data.scenes import SceneConfig
from sfumato.errors import ConfigError
from sfumato.training.pictures import DataConfig, PictureBatch
from sfumato.training.text_regression import LatentReader, Names, TextRegressionConfig
from sfumato.training.things import NamingBatches, ThingPictures, ThingTable
from tiny_primer import build_tiny_primer

SHAPE = (4, 2, 3)


def reader(width: int = 16, heads: int = 2) -> LatentReader:
    """A reader with fixed weights."""
    torch.manual_seed(0)
    return LatentReader(width, heads, SHAPE)


def test_loss_is_the_squared_error_of_each_row() -> None:
    reads, context = reader(), torch.randn(3, 5, 16)
    read = reads(context).detach()
    assert read.shape == (3, *SHAPE)
    off = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)
    assert reads.loss(context, read + off).tolist() == pytest.approx([0.0, 1.0, 4.0], abs=1e-5)


def test_every_place_reads_something_of_its_own_and_every_token_counts() -> None:
    context = torch.randn(1, 5, 16, requires_grad=True)
    read = reader()(context)
    places = read.detach().flatten(2)[0].T
    assert len({tuple(place.tolist()) for place in places}) == 6
    (gradient,) = torch.autograd.grad(read.square().sum(), context)
    assert bool((gradient.abs().sum(-1) > 0).all())


def test_a_reader_and_its_context_learn_texts_by_heart() -> None:
    reads = reader()
    context = torch.nn.Parameter(torch.randn(8, 5, 16))
    wanted = torch.randn(8, *SHAPE)
    optimizer = torch.optim.Adam([context, *reads.parameters()], lr=1e-2)
    before = float(reads.loss(context, wanted).mean().detach())
    for _ in range(150):
        optimizer.zero_grad()
        reads.loss(context, wanted).mean().backward()
        optimizer.step()
    assert float(reads.loss(context, wanted).mean().detach()) < 0.05 * before


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ConfigError):
        reader(16, 3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = build_tiny_primer(tmp_path_factory.mktemp("names"))
    pairs = replace(SceneConfig(), pair_weight=5.0)
    return DataConfig(kind="primer", folder=folder, workers=0, scenes=pairs)


class Counting:
    """Encodes a picture as its mean colour, and counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, batch: PictureBatch) -> Mapping[str, torch.Tensor]:
        self.count += len(batch.ids)
        return {"mean": batch.images().mean((2, 3), keepdim=True)}


def test_every_training_thing_is_encoded_once_and_found_by_its_file(tmp_path: Path, data: DataConfig) -> None:
    files = ThingPictures(data).files
    assert any(file.startswith("icons/") for file in files) and any(file.startswith("characters/") for file in files)
    for expected in (len(files), 0):
        encode = Counting()
        table = ThingTable(data.model_copy(update={"seed": expected}), tmp_path, "x", encode)
        told = list(table.fill())
        assert encode.count == expected and bool(told) == bool(expected)
        asked = (files[-1], files[0])
        painted = [ThingPictures(data)(index) for index in range(-(-len(files) // 64))]
        images = torch.cat([batch.images() for batch in painted])[[len(files) - 1, 0]]
        assert torch.allclose(table.latents(asked), images.mean((2, 3), keepdim=True), atol=1e-3)
    assert list(ThingTable(data, tmp_path, "y", Counting()).fill())


def test_captions_are_about_one_thing_that_has_latents(data: DataConfig) -> None:
    files, made = set(ThingPictures(data).files), NamingBatches(data, 40)
    naming = made(0)
    assert set(naming.files) <= files and len(naming.captions) == 40
    assert made(0) == NamingBatches(data, 40)(0) != made(1)
    assert len({file.split("/")[0] for file in naming.files}) == 2


def test_captions_come_again_after_a_round(tmp_path: Path, data: DataConfig) -> None:
    config = TextRegressionConfig(weight=1.0, batch_size=2, batches=3)
    names = Names(config, data, LatentReader(8, 2, (3, 1, 1)), ThingTable(data, tmp_path, "x", Counting()))
    list(names.table.fill())
    drawn = [names.batch(draw) for draw in range(6)]
    names.close()
    assert [naming for naming, _ in drawn[:3]] == [naming for naming, _ in drawn[3:]]
    assert drawn[0][0] != drawn[1][0] and drawn[0][1].shape == (2, 3, 1, 1)


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kind is 'shapes'; text_regression needs scenes"):
        NamingBatches(DataConfig(kind="shapes"), 4)(0)
