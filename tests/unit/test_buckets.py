"""Arithmetic of batches and buckets, by hand."""

from __future__ import annotations

import pytest

from sfumato.data.buckets import Bucket, bucket_sizes, fill_buckets, nearest_bucket, side_step


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
        Bucket(160, 96, 1, 8, 2, 0),
        Bucket(128, 128, 2, 7, 2, 1),
        Bucket(96, 160, 1, 1, 1, 1),
    ]
    assert fill_buckets([], 128, 4) == []
    assert fill_buckets(pictures[2:], 128, 4, multiple=64) == [Bucket(128, 128, 2, 9, 3, 1)]
