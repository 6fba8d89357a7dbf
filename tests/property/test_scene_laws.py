"""Laws of composed scenes: deterministic, inside the picture, true to their facts, and blind to what is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data.backgrounds import (
    COLOURS,
    DIRECTIONS,
    KINDS,
    Background,
    draw_background,
    nearest_colour,
    paint,
    shade,
)
from sfumato.data.captions import MAX_WORDS, count_words, describe_fully, describe_ground
from sfumato.data.facts import PLACES, RELATIONS, SIZES, Box, PlaceName, Relation, SizeName
from sfumato.data.layout import MARGIN, PAIR_SIDES, fit, place_one, place_pair
from sfumato.data.scenes import Primer, Scene, SceneConfig, SceneSampler, compose, compose_pair
from tiny_primer import build_tiny_primer

SIZE = 128
SEEDS = st.integers(0, 2**62)


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Primer:
    return Primer.open(build_tiny_primer(tmp_path_factory.mktemp("scenes")))


def holds(relation: str, one: Box, other: Box) -> bool:
    """Whether two boxes lie to each other as the words say, at a glance."""
    beside = one.right <= other.left or other.right <= one.left
    return {
        "left of": one.right <= other.left,
        "right of": one.left >= other.right,
        "above": one.bottom <= other.top,
        "below": one.top >= other.bottom,
        "next to": beside,
        "on top of": one.top < other.top and 0 < one.bottom - other.top <= 8,
    }[relation]


def check(scene: Scene) -> None:
    """What is true of every scene."""
    assert scene.image.shape == (SIZE, SIZE, 3)
    assert scene.image.dtype == np.uint8
    assert len(scene.masks) == len(scene.boxes) == (2 if scene.facts.relation else 1)
    for box, mask in zip(scene.boxes, scene.masks, strict=True):
        assert 0 <= box.left < box.right <= SIZE
        assert 0 <= box.top < box.bottom <= SIZE
        outside = mask.copy()
        outside[box.top : box.bottom, box.left : box.right] = False
        assert mask.any()
        assert not outside.any()
    if scene.facts.relation:
        assert holds(scene.facts.relation, *scene.boxes)
        assert not (scene.masks[0] & scene.masks[1]).any()
    bare = paint(scene.facts.background)
    covered = np.zeros((SIZE, SIZE), dtype=bool)
    for box in scene.boxes:
        covered[box.top : box.bottom, box.left : box.right] = True
    assert (scene.image == bare)[~covered].all()
    check_caption(scene)


def check_caption(scene: Scene) -> None:
    """A caption is short, plain, and names no colour, style or place that is not there."""
    words = scene.caption.replace(",", " ").replace(":", " ").split()
    assert scene.caption == scene.caption.lower().strip()
    assert "  " not in scene.caption
    assert count_words(scene.caption) <= MAX_WORDS
    if scene.facts.things[0].kind == "character":
        return
    own = {word for thing in scene.facts.things for word in own_words(thing.label, thing.attributes)}
    told = set(words) - own
    assert told & set(COLOURS) <= set(scene.facts.background.colours)
    styles = {"noto", "blob", "fluent", "flat", "twemoji"}
    assert told & styles <= {thing.style for thing in scene.facts.things}
    if scene.facts.relation is None:
        assert not ({"small", "little"} & told) or scene.facts.things[0].size == "small"
        assert not ({"large", "big"} & told) or scene.facts.things[0].size == "large"
        for side in ("left", "right", "top", "bottom"):
            place = scene.facts.things[0].place
            ground = scene.facts.background.kind in ("split", "gradient")
            assert side not in told or side in place or ground


def own_words(label: str, attributes: object) -> set[str]:
    assert isinstance(attributes, dict)
    texts = [label, *attributes["keywords"], *attributes["synonyms"]]
    return {word for text in texts for word in text.replace("(", " ").replace(")", " ").split()}


@given(SEEDS, st.integers(0, 10**9))
def test_scenes_are_true(primer: Primer, seed: int, index: int) -> None:
    check(SceneSampler(primer, seed).scene(index))


@given(SEEDS, st.integers(0, 10**9))
def test_scenes_depend_on_seed_and_index_alone(primer: Primer, seed: int, index: int) -> None:
    one = SceneSampler(primer, seed).scene(index)
    sampler = SceneSampler(Primer.open(primer.folder, cache_bytes=1), seed)
    sampler.scene(index + 1)
    other = sampler.scene(index)
    assert (one.image == other.image).all()
    assert (one.masks == other.masks).all()
    assert one.caption == other.caption
    assert one.facts == other.facts


@given(SEEDS)
def test_training_never_shows_what_is_held_out(primer: Primer, seed: int) -> None:
    sampler = SceneSampler(primer, seed)
    for index in range(20):
        scene = sampler.scene(index)
        assert all(thing.split == "train" for thing in scene.facts.things)
        assert not {"unicorn", "octopus", "robot", "teddy"} & set(scene.caption.split())
        assert "red apple" not in scene.caption


@pytest.mark.parametrize("split", ["held_out_pair", "held_out_concept"])
def test_other_splits_show_theirs(primer: Primer, split: str) -> None:
    config = SceneConfig(pair_weight=0.0) if split == "held_out_pair" else SceneConfig()
    sampler = SceneSampler(primer, 3, split, config)
    shown = [sampler.scene(index) for index in range(60)]
    for scene in shown:
        check(scene)
        first = scene.facts.things[0]
        assert first.split == (split if first.kind == "icon" else "held_out_identity")
    assert {scene.facts.things[0].kind for scene in shown} == {"icon", "character"}


@given(st.sampled_from(RELATIONS), st.tuples(*[st.integers(20, 128)] * 4), st.tuples(*[st.floats(0, 1)] * 2), SEEDS)
def test_pairs_lie_as_the_relation_says(
    relation: Relation, sizes: tuple[int, int, int, int], shares: tuple[float, float], seed: int
) -> None:
    sides = [low + (high - low) * share for (low, high), share in zip(PAIR_SIDES[relation], shares, strict=True)]
    one, other = fit(sizes[0], sizes[1], sides[0]), fit(sizes[2], sizes[3], sides[1])
    boxes = place_pair(np.random.default_rng(seed), relation, one, other)
    assert holds(relation, *boxes)
    for box, extent in zip(boxes, (one, other), strict=True):
        assert (box.right - box.left, box.bottom - box.top) == extent
        assert min(box.left, box.top) >= MARGIN
        assert max(box.right, box.bottom) <= SIZE - MARGIN


@given(st.sampled_from(tuple(PLACES)), st.integers(20, 90), st.integers(20, 90), SEEDS)
def test_things_stand_where_the_place_says(place: PlaceName, width: int, height: int, seed: int) -> None:
    x, y = place_one(np.random.default_rng(seed), width, height, place).center
    across, down = PLACES[place]
    for where, share in ((x, across), (y, down)):
        assert {0.0: where < 64, 0.5: abs(where - 64) < 14, 1.0: where > 64}[share]


@given(st.sampled_from(tuple(COLOURS)), SEEDS)
def test_a_shade_keeps_its_name(name: str, seed: int) -> None:
    assert nearest_colour(shade(np.random.default_rng(seed), name)) == name


@given(SEEDS, st.sampled_from(KINDS))
def test_grounds_are_what_they_are_called(seed: int, kind: str) -> None:
    ground = draw_background(np.random.default_rng(seed), {kind: 1.0}, frozenset({"white", "red"}))  # type: ignore[dict-item]
    assert ground.kind == kind
    assert not {"white", "red"} & set(ground.colours)
    pixels = paint(ground)
    assert (pixels == paint(ground)).all()
    named = {nearest_colour(pixel) for pixel in np.unique(pixels[:48, :48].reshape(-1, 3), axis=0).astype(float)}
    if kind == "gradient":
        ends = (pixels[0, 0], pixels[-1, -1])
        assert tuple(nearest_colour(end.astype(float)) for end in ends) == ground.colours
    elif kind == "grain":
        assert nearest_colour(pixels.reshape(-1, 3).mean(axis=0)) == ground.colours[0]
    elif kind == "split":
        assert tuple(nearest_colour(pixels[at, at].astype(float)) for at in (10, 117)) == ground.colours
    else:
        assert set(ground.colours) <= named


@given(
    st.sampled_from(("noto", "blob", "fluent", "flat")),
    st.sampled_from(tuple(SIZES)),
    st.sampled_from((*PLACES, "free")),
    st.sampled_from(tuple(COLOURS)),
    SEEDS,
)
def test_composed_scenes_are_what_was_asked(
    primer: Primer, style: str, size: SizeName, place: PlaceName, colour: str, seed: int
) -> None:
    ground = Background("plain", (colour,))
    scene = compose(primer, "fox", style, background=ground, size=size, place=place, seed=seed)
    check(scene)
    thing = scene.facts.things[0]
    assert (thing.name, thing.style, thing.size, thing.place) == ("fox", style, size, place)
    low, high = SIZES[size]
    longer = max(thing.box.right - thing.box.left, thing.box.bottom - thing.box.top)
    assert low * SIZE - 1 <= longer <= high * SIZE + 1
    assert f"{style} icon of a fox" in scene.caption
    assert colour in scene.caption
    assert size == "medium" or size in scene.caption


@given(st.sampled_from(RELATIONS), SEEDS)
def test_composed_pairs_are_what_was_asked(primer: Primer, relation: Relation, seed: int) -> None:
    scene = compose_pair(primer, ("fox", "noto"), relation, ("house", "blob"), seed=seed)
    check(scene)
    assert relation in scene.caption
    assert scene.caption.index("fox") < scene.caption.index("house")


def test_directions_are_known_for_every_kind() -> None:
    assert set(DIRECTIONS) == set(KINDS)


def test_the_people_of_a_set_are_used(primer: Primer, tmp_path: Path) -> None:
    sampler = SceneSampler(primer, 0, config=SceneConfig(icon_weight=0.0, pair_weight=0.0))
    for index in range(30):
        scene = sampler.scene(index)
        check(scene)
        box = scene.boxes[0]
        assert box.bottom == SIZE  # the portrait is cut off below, so it stands on the lower edge
        assert scene.facts.things[0].style.split("-")[0] in scene.caption


@given(seed=SEEDS)
def test_settled_scenes_of_one_caption_stand_in_one_place(primer: Primer, seed: int) -> None:
    boxes: dict[tuple[object, ...], list[Box]] = {}
    sampler = SceneSampler(primer, seed, config=SceneConfig(settled=1.0))
    for number in range(150):
        facts = sampler.plan(number).facts
        things = [(thing.kind, thing.file, thing.size, thing.place) for thing in facts.things]
        if facts.relation is None and facts.things[0].place != "free":
            boxes.setdefault((facts.relation, *things), []).append(facts.things[0].box)
        if number < 12:
            check(sampler.scene(number))
    assert all(len(set(found)) == 1 for found in boxes.values())
    assert max(map(len, boxes.values())) > 1, "some caption must come twice"


@given(seed=SEEDS, place=st.sampled_from(sorted(PLACES)))
def test_a_settled_thing_stands_exactly_at_its_anchor(seed: int, place: PlaceName) -> None:
    rng = np.random.default_rng(seed)
    width, height = fit(100, 80, 0.6)
    box = place_one(rng, width, height, place, spread=0.0)
    across, down = PLACES[place]
    assert box.left == MARGIN + round(across * (SIZE - 2 * MARGIN - width))
    assert box.top == MARGIN + round(down * (SIZE - 2 * MARGIN - height))


def test_settled_scenes_vary_where_unsettled_ones_do(primer: Primer) -> None:
    free, settled = (
        {SceneSampler(primer, 3, config=SceneConfig(settled=share)).plan(n).facts.things[0].box for n in range(200)}
        for share in (0.0, 1.0)
    )
    assert len(settled) < len(free) / 3


@given(seed=SEEDS)
def test_full_captions_leave_nothing_out(primer: Primer, seed: int) -> None:
    sampler = SceneSampler(primer, seed, config=SceneConfig(full_captions=1.0))
    for number in range(12):
        facts, caption = sampler.plan(number)
        assert caption.endswith(describe_ground(facts.background)) and count_words(caption) <= MAX_WORDS
        if facts.relation is None and facts.things[0].kind == "icon":
            assert caption == describe_fully(facts)


def test_full_captions_change_no_picture_and_only_as_many_captions_as_asked_for(primer: Primer) -> None:
    full, some, none = (
        [SceneSampler(primer, 3, config=SceneConfig(full_captions=share, pair_weight=0.0)).plan(n) for n in range(200)]
        for share in (1.0, 0.5, 0.0)
    )
    assert [plan.facts for plan in full] == [plan.facts for plan in some] == [plan.facts for plan in none]
    assert 60 < sum(one.caption == other.caption for one, other in zip(full, some, strict=True)) < 140
    assert sum(one.caption == other.caption for one, other in zip(full, none, strict=True)) < 40


def test_only_the_kinds_that_are_named_get_full_captions(primer: Primer) -> None:
    config = SceneConfig(full_captions=1.0, full_caption_kinds=("icon",))
    some = [SceneSampler(primer, 3, config=config).plan(n) for n in range(200)]
    full = [SceneSampler(primer, 3, config=SceneConfig(full_captions=1.0)).plan(n) for n in range(200)]
    none = [SceneSampler(primer, 3, config=SceneConfig()).plan(n) for n in range(200)]
    for one, other, varied in zip(some, full, none, strict=True):
        single_icon = one.facts.relation is None and one.facts.things[0].kind == "icon"
        assert one == (other if single_icon else varied)
