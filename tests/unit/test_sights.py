"""Scenes looked at once: nothing is seen twice, damaged files are made again, only training scenes are softened."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.errors import ConfigError
from sfumato.events import Progress
from sfumato.models.eye import Eye, EyeConfig, Sights
from sfumato.tensors import Images
from sfumato.training.pictures import DataConfig
from sfumato.training.sights import SceneBatches, SceneSource, SightsConfig, SightStore, softened
from tiny_primer import build_tiny_primer


class CountingEye(Eye):
    """An eye that counts what it sees."""

    seen = 0

    def look(self, images: Images) -> Sights:
        self.seen += len(images)
        return super().look(images)


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_primer(tmp_path_factory.mktemp("sights"))


@pytest.fixture(scope="module")
def eye() -> CountingEye:
    return CountingEye(EyeConfig(side=32, stages=(1, 7), grid=1))


def source(primer: Path, purpose: str = "", **changes: Any) -> SceneSource:
    data = DataConfig(kind="primer", folder=primer, workers=0)
    return SceneSource(data, SightsConfig(**{"shard_size": 4, "batch_size": 2, **changes}), purpose)


def test_no_scene_is_looked_at_twice(tmp_path: Path, primer: Path, eye: CountingEye) -> None:
    eye.seen = 0
    events = list(SightStore(source(primer), eye, 6, tmp_path).fill("scenes"))
    assert [e.done for e in events if isinstance(e, Progress)] == [2, 4, 6, 6] and eye.seen == 8
    more = SightStore(source(primer), eye, 12, tmp_path)
    assert [e.done for e in more.fill("scenes") if isinstance(e, Progress)] == [10, 12] and eye.seen == 12
    assert more.sights.cells.shape == (12, eye.config.cell_channels, 1, 1)
    few = SightStore(source(primer), eye, 6, tmp_path)
    assert list(few.fill("scenes")) == [] and len(few.sights.whole) == 6
    alone = eye.look_at([source(primer).picture(5)])
    torch.testing.assert_close(few.rows(torch.tensor([5])).whole, alone.whole, atol=2e-2, rtol=1e-2)


def test_a_damaged_shard_is_made_again_and_others_are_left_alone(
    tmp_path: Path, primer: Path, eye: CountingEye
) -> None:
    list(SightStore(source(primer), eye, 8, tmp_path).fill("scenes"))
    first, second = sorted(tmp_path.rglob("*.safetensors"))
    before = first.read_bytes()
    first.write_bytes(before[:100])
    eye.seen = 0
    list(SightStore(source(primer), eye, 8, tmp_path).fill("scenes"))
    assert eye.seen == 4 and first.read_bytes() == before and second.is_file()


def test_other_scenes_or_another_eye_never_share_a_file(tmp_path: Path, primer: Path, eye: CountingEye) -> None:
    others = [
        SightStore(source(primer), eye, 4, tmp_path),
        SightStore(source(primer, "validation"), eye, 4, tmp_path),
        SightStore(source(primer, softened=0.9), eye, 4, tmp_path),
        SightStore(source(primer), eye, 4, tmp_path, "bf16"),
        SightStore(source(primer), Eye(EyeConfig(side=64, stages=(1, 7), grid=1), eye.network), 4, tmp_path),
    ]
    for store in others:
        list(store.fill("scenes"))
    assert len(list(tmp_path.iterdir())) == len(others)


def test_workers_make_the_same_batches(primer: Path) -> None:
    made = SceneBatches(source(primer), 2)
    one = made(1)
    again = pickle.loads(pickle.dumps(made))(1)
    assert np.array_equal(one.pixels, again.pixels) and one.captions == again.captions
    assert one.ids == ("scene 2", "scene 3")


def test_some_training_scenes_are_soft_and_none_that_is_measured(primer: Path) -> None:
    sharp, soft = source(primer, softened=0.0), source(primer, softened=0.5)
    same = [np.array_equal(sharp.picture(index), soft.picture(index)) for index in range(40)]
    assert 10 <= same.count(False) <= 30
    fixed = [source(primer, "validation", softened=share).picture(0) for share in (0.0, 1.0)]
    assert np.array_equal(*fixed)


def test_softening_keeps_size_and_mean_and_takes_detail() -> None:
    image = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    soft = softened(image, 0.5)
    assert soft.shape == image.shape and soft.dtype == np.uint8
    assert abs(float(soft.mean()) - float(image.mean())) < 2 and soft.std() < 10 < image.std()


def test_concepts_kept_from_the_base_are_shown_when_wanted(primer: Path) -> None:
    splits = {
        share: {source(primer, extra_concepts=share).plan(i).facts.things[0].split for i in range(30)}
        for share in (0, 1)
    }
    assert splits == {0: {"train"}, 1: {"held_out_concept"}}


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path, primer: Path, eye: CountingEye) -> None:
    shapes = SceneSource(DataConfig(kind="shapes", size=32, workers=0), SightsConfig())
    with pytest.raises(ConfigError, match=r"data\.kind is 'shapes'; .* only scenes of kind 'primer'"):
        shapes.plan(0)
    odd = SightStore(source(primer, shard_size=5), eye, 5, tmp_path)
    with pytest.raises(ConfigError, match=r"sights\.shard_size is 5 and sights\.batch_size 2"):
        list(odd.fill("scenes"))
