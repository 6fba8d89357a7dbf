"""The difference hash: nothing for the same picture, little for another encoding or size, much for another picture."""

from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from broken_folders import photo
from sfumato.data.fingerprint import (
    HASH_BITS,
    NEAR_BITS,
    NEAR_COLOUR,
    Fingerprint,
    colour_distance,
    difference_hash,
    fingerprint,
    hash_distances,
    near_pairs,
    sharpness,
)

SEEDS = st.integers(0, 2**31)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def encoded(image: Image.Image, kind: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, quality=quality)
    return Image.open(buffer)


def distance(one: Image.Image, other: Image.Image) -> int:
    return int(hash_distances(difference_hash(pixels(one)), difference_hash(pixels(other))[None])[0])


@given(SEEDS, st.integers(9, 200), st.integers(9, 200))
def test_the_same_picture_is_at_distance_0(seed: int, width: int, height: int) -> None:
    picture = photo(seed, width, height)
    assert distance(picture, picture.copy()) == 0
    assert colour_distance(fingerprint(pixels(picture)), fingerprint(pixels(picture))) == 0


@given(SEEDS, st.sampled_from(["JPEG", "WEBP"]), st.integers(60, 95), st.floats(0.5, 2.0))
def test_another_encoding_and_size_is_near(seed: int, kind: str, quality: int, scale: float) -> None:
    picture = photo(seed, 128, 96)
    size = (round(128 * scale), round(96 * scale))
    other = encoded(picture.resize(size, Image.Resampling.LANCZOS), kind, quality)
    assert distance(picture, other) <= NEAR_BITS
    assert near_pairs([fingerprint(pixels(picture)), fingerprint(pixels(other))])


@given(SEEDS, SEEDS)
def test_the_distance_is_symmetric_and_bounded(one: int, other: int) -> None:
    a, b = photo(one, 64, 64), photo(other, 64, 64)
    assert distance(a, b) == distance(b, a)
    assert 0 <= distance(a, b) <= HASH_BITS
    if one != other:
        assert distance(a, b) > NEAR_BITS


@given(st.lists(st.integers(0, 1), min_size=HASH_BITS, max_size=HASH_BITS), st.sets(st.integers(0, HASH_BITS - 1)))
def test_bits_are_counted(bits: list[int], turned: set[int]) -> None:
    one = np.array(bits, dtype=np.uint8)
    other = one.copy()
    other[list(turned)] ^= 1
    assert hash_distances(np.packbits(one), np.packbits(other)[None]).tolist() == [len(turned)]


def flat(bits: int, colour: int) -> Fingerprint:
    edges = np.zeros(HASH_BITS, dtype=np.uint8)
    edges[:bits] = 1
    return Fingerprint(np.packbits(edges), np.full((8, 8, 3), colour, dtype=np.uint8))


def test_pairs_name_the_nearest_earlier_picture() -> None:
    prints = [flat(0, 100), flat(NEAR_BITS, 100), flat(NEAR_BITS + 3, 100 + int(NEAR_COLOUR)), flat(0, 200)]
    assert near_pairs(prints) == [(1, 0, NEAR_BITS, 0.0), (2, 1, 3, NEAR_COLOUR)]
    assert near_pairs([flat(0, 0), flat(NEAR_BITS + 1, 0)]) == []
    assert near_pairs([flat(0, 0), flat(0, int(NEAR_COLOUR) + 1)]) == []
    assert near_pairs([]) == []


def test_even_areas_hash_to_nothing() -> None:
    even = np.full((40, 40, 3), 77, dtype=np.uint8)
    assert not difference_hash(even).any()
    even[20:, 20:] += 1  # the noise of an encoder
    assert not difference_hash(even).any()


def test_sharpness_by_hand() -> None:
    point = np.zeros((5, 5, 3), dtype=np.uint8)
    point[2, 2] = 10  # the Laplacian is -40 there, 10 at four neighbours, 0 at four corners
    assert np.isclose(sharpness(point), (1600 + 400) / 9)
    assert sharpness(np.zeros((2, 2, 3), dtype=np.uint8)) == 0
    equally_bright = np.full((6, 6, 3), (130, 70, 170), dtype=np.uint8)
    equally_bright[2:4, 2:4] = (30, 110, 230)
    assert sharpness(equally_bright) > 1000


@given(SEEDS, st.floats(1.0, 4.0))
def test_blurring_lowers_the_sharpness(seed: int, radius: float) -> None:
    from PIL import ImageFilter

    picture = photo(seed, 64, 64)
    assert sharpness(pixels(picture.filter(ImageFilter.GaussianBlur(radius)))) < 0.2 * sharpness(pixels(picture))
