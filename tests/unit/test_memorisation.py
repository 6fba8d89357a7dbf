"""Copies are found, new pictures are not; a subject that leaks is told from one that does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.evaluation.fidelity import cosines
from sfumato.evaluation.memorisation import (
    SHIFT,
    SIDE,
    Kin,
    Nearest,
    copy_alarm,
    different_pictures,
    kin_of,
    leak_alarm,
    leaked,
    nearest_pictures,
    nothing_alarm,
    pixel_distances,
)

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (220, 220, 60))


def scene(place: int, ground: tuple[int, int, int], thing: tuple[int, int, int] = (20, 20, 20)) -> np.ndarray:
    """A square thing on a ground."""
    picture = np.full((64, 64, 3), ground, np.uint8)
    picture[16 : 16 + 24, place : place + 24] = thing
    return picture


SET = [scene(8 * number, ground) for number, ground in enumerate(COLOURS)]


def features(pictures: list[np.ndarray]) -> Tensor:
    """Stand-in for an encoder: the colours of a coarse grid."""
    return torch.stack([torch.from_numpy(picture[4::8, 4::8].astype(np.float32)).flatten() for picture in pictures])


def kin() -> Kin:
    return kin_of(features(SET), SET, features(SET), SET)


def near(pictures: list[np.ndarray]) -> list[Nearest]:
    return nearest_pictures(features(pictures), pictures, features(SET), SET)


def noisy(picture: np.ndarray) -> np.ndarray:
    spread = np.random.default_rng(0).normal(0, 4, picture.shape)
    return np.clip(picture + spread, 0, 255).astype(np.uint8)


def test_a_copy_is_near_to_one_picture_in_both_views() -> None:
    seen = torch.tensor([[1.0, 0.0]])
    known = torch.tensor([[1.0, 0.01], [0.0, 1.0]])
    (found,) = nearest_pictures(seen, [SET[1]], known, SET[:2])
    assert found.index == 0 and found.features < 0.001
    assert found.pixels == pixel_distances([SET[1]], SET[:1])[0, 0] > 0.1, "the other one has these very pixels"


def test_the_alarm_names_what_is_copied_the_most_copied_first() -> None:
    names = ["a.png", "b.png", "more/c.png", "d.png"]
    copies = [noisy(SET[index]) for index in (2, 0, 2)]
    told = copy_alarm(near(copies), kin(), names)
    assert told is not None and told.endswith("in pixels. Copied: more/c.png (2), a.png (1).")
    told = copy_alarm(near([noisy(picture) for picture in SET]), kin(), names)
    assert told is not None and told.endswith("Copied: a.png (1), b.png (1), more/c.png (1) and 1 more.")


def test_a_memorised_set_raises_the_alarm() -> None:
    copies = [noisy(picture) for picture in SET]
    found = near(copies)
    assert [one.index for one in found] == [0, 1, 2, 3]
    assert copy_alarm(found, kin()) == (
        "Memorised (rule 'closer than kin'): 4 of 4 pictures in new settings lie less than half as far from a training "
        "picture as two of your pictures to each other, in features and in pixels."
    )


def test_a_healthy_set_does_not() -> None:
    fresh = [
        scene(30, (150, 60, 170)),
        scene(2, (240, 150, 190)),
        scene(20, (130, 130, 130)),
        scene(36, (20, 150, 150)),
    ]
    assert copy_alarm(near(fresh), kin()) is None


def test_one_copy_in_four_is_enough_and_one_in_five_is_not() -> None:
    fresh = [
        scene(30, (150, 60, 170)),
        scene(2, (240, 150, 190)),
        scene(20, (130, 130, 130)),
        scene(36, (20, 150, 150)),
    ]
    assert "1 of 4 pictures" in str(copy_alarm(near([noisy(SET[2]), *fresh[:3]]), kin()))
    assert copy_alarm(near([noisy(SET[2]), *fresh]), kin()) is None
    assert copy_alarm([], kin()) is None


def test_moved_and_mirrored_copies_are_found_in_pixels() -> None:
    step = SHIFT * 64 // SIDE
    moved, mirrored = np.roll(SET[0], step, axis=1), SET[1][:, ::-1].copy()
    distances = pixel_distances([moved, mirrored, np.roll(SET[0], 5 * step, axis=0)], SET)
    assert distances[0, 0] < 1e-9 and distances[1, 1] < 1e-9
    assert distances[2, 0] > 0.1


def test_pixel_distance_of_plain_colours_is_their_difference() -> None:
    black, grey = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 51, np.uint8)
    assert pixel_distances([black], [grey, black]).tolist() == [[pytest.approx(0.2), 0]]


def test_near_in_one_view_alone_is_no_copy() -> None:
    ours = Kin(0.4, 0.2)
    assert ours.is_copy(Nearest(0, 0.19, 0.09))
    assert not ours.is_copy(Nearest(0, 0.19, 0.11)) and not ours.is_copy(Nearest(0, 0.21, 0.09))


def test_kin_is_the_median_of_the_leave_one_out_distances() -> None:
    at = torch.tensor([[1.0, 0], [0.6, 0.8], [0, 1.0]])  # cosines 0.6, 0, 0.8
    greys = [np.full((64, 64, 3), value, np.uint8) for value in (0, 51, 204)]
    found = kin_of(at, greys, at, greys)
    assert found.features == pytest.approx(0.2) and found.pixels == pytest.approx(0.2) and found.source == "set"


def test_near_duplicates_count_once() -> None:
    """Two bursts of two: the nearest other picture of each is its neighbour in time, not another picture."""
    burst = [SET[0], noisy(SET[0]), SET[1], noisy(SET[1]), SET[2], SET[2][:, ::-1].copy()]
    assert different_pictures(burst) == [0, 2, 4]
    ours = kin_of(features(burst), burst, features(SET), SET)
    assert ours == kin_of(features(SET[:3]), SET[:3], features(SET), SET) and ours.source == "set"
    copies = [noisy(picture) for picture in SET[:3]]
    found = nearest_pictures(features(copies), copies, features(burst), burst)
    assert "3 of 3 pictures" in str(copy_alarm(found, ours))


def test_different_pictures_are_measured_as_ever() -> None:
    assert different_pictures(SET) == [0, 1, 2, 3]
    far = 1 - cosines(features(SET), features(SET))
    far.fill_diagonal_(torch.inf)
    pixels = pixel_distances(SET, SET)
    np.fill_diagonal(pixels, np.inf)
    assert kin() == Kin(float(np.median(far.min(dim=1).values.numpy())), float(np.median(pixels.min(axis=1))))


def test_twins_have_no_kin_and_are_compared_with_what_the_base_draws() -> None:
    twins, drawn = [SET[0], SET[0].copy(), noisy(SET[0])], [scene(8, (60, 60, 60)), scene(24, (240, 240, 240))]
    ours = kin_of(features(twins), twins, features(drawn), drawn)
    assert ours == kin_of(features(SET[:1]), SET[:1], features(drawn), drawn) and ours.source == "class"
    assert not ours.is_blind and Kin(0.0, 0.2).is_blind and Kin(0.2, 0.0).is_blind


def test_one_picture_is_compared_with_what_the_base_draws() -> None:
    only, drawn = SET[:1], [scene(8, (60, 60, 60)), scene(24, (240, 240, 240)), scene(0, (10, 90, 90))]
    ours = kin_of(features(only), only, features(drawn), drawn)
    assert ours.source == "class" and ours.features > 0 and ours.pixels > 0
    copy = nearest_pictures(features([noisy(SET[0])]), [noisy(SET[0])], features(only), only)
    assert "as the base's own drawings of the class to it" in str(copy_alarm(copy, ours))


def test_a_class_that_goes_half_as_far_as_the_word_has_leaked() -> None:
    before, gained = torch.tensor([0.5, 0.3, 0.5, 0.5]), [0.2, 0.4, 0.1, 0.2, 0.2, 0.1]
    answers = leaked(torch.tensor([0.61, 0.39, 0.5, 0.4]), before, gained)
    assert answers == [True, False, False, False]
    assert leak_alarm(answers, "a fox") == (
        "Leaked (rule 'half as far as the word'): 1 of 4 pictures of 'a fox', without the learned word, have come at "
        "least half as much nearer to the subject as those with it."
    )
    assert leak_alarm([False] * 4, "a fox") is None and nothing_alarm(gained) is None


def test_a_class_that_stays_has_not_leaked_even_where_the_word_fails() -> None:
    before = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert leaked(before, before, [0.4, 0.4, 0.4, -0.1, 0.3, 0.3]) == [False] * 4


def test_one_failed_picture_of_the_word_does_not_hide_a_leak() -> None:
    before, gained = torch.tensor([0.5, 0.5, 0.5]), [0.3, 0.2, 0.3, 0.2, 0.3, 0.25, 0.3, 0.2, 0.3, 0.25, -0.01]
    assert leaked(before + 0.3, before, gained) == [True] * 3


def test_where_the_word_has_gained_nothing_leaks_cannot_be_told() -> None:
    before, gained = torch.tensor([0.5, 0.5]), [0.1, -0.05, 0.02]
    assert leaked(torch.tensor([0.6, 0.6]), before, gained) is None
    assert leak_alarm(None, "a fox") is None
    assert nothing_alarm(gained) == (
        "Nothing learned (rule 'beyond chance'): pictures with the learned word are not shown to be nearer to the "
        "subject than what the base draws for the class (difference of cosines 0.023, 95 % interval -0.163 to 0.210). "
        "Whether the subject leaks into its class cannot be told then."
    )
