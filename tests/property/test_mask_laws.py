"""Laws of masks, variants, buckets and of the order in which pictures are seen."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data.buckets import bucket_sizes, side_step
from sfumato.data.images import resize, to_tensor
from sfumato.data.variants import frame, latent_mask
from sfumato.training.objectives import weighted_mean
from sfumato.training.sample_set import BucketedSamples, Samples, in_batches, joined

seeds = st.integers(0, 10_000)


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def picture(seed: int, width: int, height: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(seeds)
def test_a_mask_of_ones_is_no_mask_bit_for_bit(seed: int) -> None:
    values = numbers(seed, 3, 4, 6, 5)
    assert torch.equal(weighted_mean(values, torch.ones(3, 1, 6, 5)), values.flatten(1).mean(1))


@given(seeds, st.floats(0.01, 100))
def test_only_the_proportions_of_weights_count(seed: int, factor: float) -> None:
    values, weights = numbers(seed, 2, 4, 6, 5), numbers(seed + 1, 2, 1, 6, 5) + 0.01
    mean = weighted_mean(values, weights)
    torch.testing.assert_close(mean, weighted_mean(values, factor * weights))
    by_hand = (values * weights).sum((1, 2, 3)) / (weights.sum((1, 2, 3)) * 4)
    torch.testing.assert_close(mean, by_hand)


@given(seeds)
def test_what_has_no_weight_does_not_count(seed: int) -> None:
    values, weights = numbers(seed, 2, 4, 6, 5), numbers(seed + 1, 2, 1, 6, 5).round()
    weights[:, :, 0] = 1
    other = torch.where(weights.bool(), values, 1e6)
    torch.testing.assert_close(weighted_mean(values, weights), weighted_mean(other, weights))


@given(seeds, st.sampled_from([1, 2, 4, 8]))
def test_scaling_a_mask_keeps_its_weight(seed: int, factor: int) -> None:
    mask = numbers(seed, 1, 16, 24)
    small = latent_mask(mask, factor)
    assert small.shape == (1, 16 // factor, 24 // factor)
    torch.testing.assert_close(small.mean(), mask.mean())


@given(seeds, st.integers(8, 90))
def test_cutting_a_square_mask_to_size_keeps_its_weight(seed: int, side: int) -> None:
    rgb = picture(seed, side, side)
    cut = frame(rgb, rgb[..., 0], (32, 32))
    assert cut.mask is not None
    assert float(cut.mask.mean()) == pytest.approx(rgb[..., 0].mean() / 255, abs=2e-5)
    assert float(cut.mask.min()) >= 0 and float(cut.mask.max()) <= 1


@given(seeds, st.integers(5, 90), st.integers(5, 90), st.sampled_from([(32, 32), (48, 16), (16, 48)]))
def test_the_first_variant_is_the_picture_as_it_is(seed: int, width: int, height: int, size: tuple[int, int]) -> None:
    rgb = picture(seed, width, height)
    assert torch.equal(frame(rgb, None, size).image, to_tensor(resize(rgb, *size)))


@given(seeds, st.integers(40, 90), st.integers(40, 90))
def test_a_variant_is_a_function_of_its_draw_and_keeps_mask_and_picture_together(
    seed: int, width: int, height: int
) -> None:
    rgb = np.repeat(picture(seed, width, height)[..., :1], 3, axis=2)

    def made() -> tuple[torch.Tensor, torch.Tensor]:
        cut = frame(rgb, rgb[..., 0], (8, 8), crop=0.5, draw=torch.Generator().manual_seed(seed))
        assert cut.mask is not None
        return cut.image, cut.mask

    image, mask = made()
    again, _ = made()
    assert torch.equal(image, again)
    assert not torch.equal(image, frame(rgb, None, (8, 8)).image)
    # The mask is the picture: Lanczos and area differ a little, two different places differ much.
    joint = torch.corrcoef(torch.stack([image[0].flatten(), mask[0].flatten()]))[0, 1]
    assert float(joint) > 0.6


@given(st.sampled_from([32, 64, 128, 256, 512, 768, 1024]), st.sampled_from([1, 8, 16, 24, 64]))
def test_buckets_of_a_network_keep_area_and_divide(size: int, multiple: int) -> None:
    step = -(-side_step(size) // multiple) * multiple
    sizes = bucket_sizes(size, multiple)
    side = max(step, round(size / step) * step)
    assert (side, side) in sizes
    for width, height in sizes:
        assert width % multiple == height % multiple == 0
        # No larger than the square; and one step more on the longer side would be.
        assert width * height <= side * side
        assert min(width, height) * (max(width, height) + step) > side * side
        assert (height, width) in sizes


def samples(count: int, height: int, width: int, repeats: tuple[int, ...] = ()) -> Samples:
    names = tuple(f"{height}x{width}/{row}" for row in range(count))
    return Samples(torch.zeros(count, 1, height, width), None, names, names, repeats=repeats)


@given(seeds, st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_a_batch_holds_one_size_and_every_picture_is_shown_alike(
    seed: int, first: int, second: int, batch: int
) -> None:
    repeats = tuple(1 + row % 2 for row in range(second))
    both = BucketedSamples((samples(first, 2, 4), samples(second, 4, 2, repeats)))
    per_round = first + sum(repeats)
    seen: Counter[int] = Counter()
    for draw in range(2 * per_round):
        rows = both.rows(batch, seed, "x", draw)
        assert rows == both.rows(batch, seed, "x", draw)
        assert len(rows) == batch and len({row < first for row in rows}) == 1
        latents, weights = both.drawn(rows, torch.Generator())
        assert latents.shape == (batch, 1, *((2, 4) if rows[0] < first else (4, 2))) and weights is None
        seen.update(rows)
    assert [seen[row] for row in range(len(both))] == [2 * batch * times for times in both.repeats]


def test_names_and_captions_of_buckets_are_counted_through() -> None:
    both = BucketedSamples((samples(2, 2, 4), samples(1, 4, 2)))
    assert both.names == both.captions == ("2x4/0", "2x4/1", "4x2/0")
    with pytest.raises(IndexError):
        both.drawn([3], torch.Generator())


def test_subjects_are_joined_size_by_size() -> None:
    wide, tall = samples(2, 2, 4), replace(samples(1, 4, 2), words=("<b>",))
    mixed = BucketedSamples((replace(samples(1, 4, 2), names=("c",)), samples(1, 3, 3)))
    assert joined([wide]) is wide
    alike = joined([wide, replace(wide, repeats=(2, 3))])
    assert isinstance(alike, Samples) and alike.mean.shape == (4, 1, 2, 4) and alike.repeats == (1, 1, 2, 3)
    several = joined([wide, tall, mixed])
    assert isinstance(several, BucketedSamples)
    assert [tuple(bucket.mean.shape) for bucket in several.buckets] == [(2, 1, 2, 4), (2, 1, 4, 2), (1, 1, 3, 3)]
    assert several.names == ("2x4/0", "2x4/1", "4x2/0", "c", "3x3/0")
    assert several.data_hash == several.buckets[0].data_hash == joined([wide, tall, mixed]).data_hash != ""


def test_variants_take_turns_with_their_weights() -> None:
    mean = torch.arange(6.0)[:, None, None, None].expand(6, 1, 2, 2)
    varied = Samples(mean, None, ("a", "b"), ("a", "b"), weights=mean + 1, variants=3)
    found: dict[int, set[float]] = {0: set(), 1: set()}
    for draw in range(40):
        latents, weights = varied.drawn([0, 1], torch.Generator().manual_seed(draw))
        assert weights is not None and torch.equal(weights, latents + 1)
        for row in (0, 1):
            found[row].add(float(latents[row, 0, 0, 0]))
    assert found == {0: {0.0, 1.0, 2.0}, 1: {3.0, 4.0, 5.0}}


def test_what_was_drawn_is_one_batch_where_sizes_agree() -> None:
    latents, weights = torch.zeros(2, 4, 3, 3), torch.rand(1, 1, 3, 3)
    (both,) = in_batches([(latents[:1], weights), (latents, None)])
    assert both[0].shape == (3, 4, 3, 3) and both[1] is not None
    assert torch.equal(both[1], torch.cat([weights, torch.ones(2, 1, 3, 3)]))
    ((_, none),) = in_batches([(latents, None), (latents, None)])
    assert none is None
    apart = [(latents, None), (torch.zeros(2, 4, 2, 5), None)]
    assert in_batches(apart) == apart
