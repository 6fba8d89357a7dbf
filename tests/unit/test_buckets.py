"""Arithmetic of batches and buckets: by hand, and as the trainer draws its batches."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from sfumato.data.buckets import Bucket, bucket_sizes, check_buckets, fill_buckets, nearest_bucket, side_step
from sfumato.training.sample_set import BucketedSamples, Samples


@pytest.mark.parametrize(("size", "step"), [(16, 16), (128, 16), (256, 32), (512, 64), (1024, 64), (300, 32)])
def test_steps_of_sides(size: int, step: int) -> None:
    assert side_step(size) == step


def test_sizes_of_the_small_base() -> None:
    wide = [(144, 112), (160, 96), (192, 80), (256, 64)]
    assert bucket_sizes(128) == sorted([(128, 128), *wide, *((height, width) for width, height in wide)])


@pytest.mark.parametrize("size", [16, 100, 128, 512, 768, 1024])
def test_buckets_are_no_larger_than_the_square(size: int) -> None:
    sizes, step = bucket_sizes(size), side_step(size)
    side = round(size / step) * step
    assert (side, side) in sizes
    for width, height in sizes:
        assert width % step == height % step == 0
        assert width * height <= side * side and max(width, height) <= 2 * side
        assert (height, width) in sizes


def test_the_nearest_proportions_are_chosen() -> None:
    sizes = bucket_sizes(128)
    assert nearest_bucket(4000, 4000, sizes) == (128, 128)
    assert nearest_bucket(4000, 3000, sizes) == (144, 112)
    assert nearest_bucket(1920, 1080, sizes) == (160, 96)
    assert nearest_bucket(100, 9000, sizes) == (64, 256)


def test_batches_are_counted_with_repeats() -> None:
    pictures = [(100, 100, 3), (200, 200, 4), (160, 96, 8), (96, 160, 1)]
    assert fill_buckets(pictures, 128, 4) == [
        Bucket(160, 96, 1, 8, 8),
        Bucket(128, 128, 2, 7, 7),
        Bucket(96, 160, 1, 1, 1),
    ]
    assert fill_buckets([], 128, 4) == []
    assert fill_buckets(pictures[:2], 128, 4) == [Bucket(128, 128, 2, 7, 1.75)], "one bucket is cut into batches"
    assert fill_buckets(pictures[2:], 128, 4, multiple=64) == [Bucket(128, 128, 2, 9, 2.25)]


def test_only_the_proportions_of_repeats_count() -> None:
    pictures = [(100, 100, 10), (160, 96, 20)]
    assert fill_buckets(pictures, 128, 4) == [Bucket(160, 96, 1, 2, 2), Bucket(128, 128, 1, 1, 1)]
    assert fill_buckets([(100, 100, 10)] * 4, 128, 4) == [Bucket(128, 128, 4, 4, 1.0)]


def test_a_round_has_the_batches_that_the_trainer_draws() -> None:
    repeats = {(128, 128): (1,) * 5, (160, 96): (1, 1, 1), (96, 160): (2,)}
    pictures = [(*size, 3 * times) for size, several in repeats.items() for times in several]
    buckets = fill_buckets(pictures, 128, 4)
    samples = [
        Samples(torch.zeros(len(several), 1, 1, 1), None, ("a",) * len(several), ("a",) * len(several), "", several)
        for several in repeats.values()
    ]
    trainer, sizes = BucketedSamples(tuple(samples)), [size for size, several in repeats.items() for _ in several]
    batches = int(sum(bucket.batches for bucket in buckets))
    drawn = [trainer.rows(4, 0, "test", draw) for draw in range(batches)]
    assert {len(rows) for rows in drawn} == {4}, "none is short"
    counted = Counter(sizes[rows[0]] for rows in drawn)
    assert counted == {(bucket.width, bucket.height): bucket.batches for bucket in buckets}
    shown = Counter(row for rows in drawn for row in rows)
    assert [shown[row] for row in range(9)] == [4] * 8 + [8], "as often as a batch is large, times the repeats"
    small = {(bucket.width, bucket.height) for bucket in buckets if bucket.pictures < 4}
    of_size = {size: [rows for rows in drawn if sizes[rows[0]] == size] for size in repeats}
    assert small == {size for size, several in of_size.items() if all(len(set(rows)) < 4 for rows in several)}
    assert small == {(160, 96), (96, 160)}


def test_small_buckets_are_named() -> None:
    pictures = [(100, 100, 1)] * 4 + [(160, 96, 8)] + [(96, 160, 1)] * 3
    (found,) = check_buckets(Path("photos"), fill_buckets(pictures, 128, 4), 4)
    assert (found.kind, found.severity, found.path) == ("bucket-small", "warning", Path("photos"))
    assert found.found == "a batch has 4 pictures, 160 × 96 has 1, 96 × 160 has 3", "repeats make no others"
    assert check_buckets(Path("photos"), fill_buckets(pictures, 128, 1), 1) == []
    assert check_buckets(Path("photos"), fill_buckets(pictures[:1], 128, 4), 4) == [], "one bucket is as without"
    pictures += [(64, 256, 1), (256, 64, 1)]
    (found,) = check_buckets(Path("photos"), fill_buckets(pictures, 128, 4), 4)
    assert found.found.endswith("160 × 96 has 1, 96 × 160 has 3, 64 × 256 has 1; too few in 1 more")
