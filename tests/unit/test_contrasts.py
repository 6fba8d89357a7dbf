"""Captions that differ in one fact: the right one is true, the wrong one is not, and nothing else changes."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from sfumato.data.backgrounds import COLOURS
from sfumato.data.contrasts import FACT_KINDS, Contrast, Contrasts, contrasts_of, far_places, kinds_of
from sfumato.data.facts import PLACES
from sfumato.data.primer.library import Primer
from sfumato.data.primer.looks import load_styles
from sfumato.data.scenes import Plan, SceneConfig, SceneSampler
from tiny_primer import build_tiny_primer

Case = tuple[Plan, Contrast]


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Primer:
    return Primer.open(build_tiny_primer(tmp_path_factory.mktemp("contrasts")))


@pytest.fixture(scope="module")
def cases(primer: Primer) -> list[Case]:
    """Contrasts of every kind from many scenes."""
    sampler = SceneSampler(primer, 3, config=SceneConfig(0.4, 0.3, 0.3))
    contrasts = Contrasts(primer)
    plans = [sampler.plan(index) for index in range(150)]
    return [
        (plan, found)
        for number, plan in enumerate(plans)
        for found in contrasts_of(contrasts, plan.facts, np.random.default_rng(number))
    ]


def of_kind(cases: list[Case], kind: str) -> list[Case]:
    found = [(plan, contrast) for plan, contrast in cases if contrast.kind == kind]
    assert len(found) >= 10
    return found


def words(text: str) -> Counter[str]:
    return Counter(word for word in re.findall(r"[\w']+", text) if word not in ("a", "an"))


def test_every_kind_of_fact_is_found_and_captions_differ(cases: list[Case]) -> None:
    assert {contrast.kind for _, contrast in cases} == set(FACT_KINDS)
    assert all(contrast.right != contrast.wrong for _, contrast in cases)
    assert all(contrast.kind in kinds_of(plan.facts) for plan, contrast in cases)


def test_a_plan_is_what_is_painted(primer: Primer) -> None:
    sampler = SceneSampler(primer, 3)
    for index in range(5):
        scene, plan = sampler.scene(index), sampler.plan(index)
        assert (scene.facts, scene.caption) == (plan.facts, plan.caption)


def test_one_colour_of_the_ground_is_replaced_by_one_that_is_not_there(cases: list[Case]) -> None:
    for plan, contrast in of_kind(cases, "background"):
        gone, come = words(contrast.right) - words(contrast.wrong), words(contrast.wrong) - words(contrast.right)
        assert gone.total() == come.total() == 1
        assert set(gone) <= set(plan.facts.background.colours)
        assert set(come) <= set(COLOURS) - set(plan.facts.background.colours)


def test_another_object_is_never_another_name_of_the_same(primer: Primer, cases: list[Case]) -> None:
    names = {icon.concept: {icon.label, *icon.synonyms, *icon.rare_keywords} for icon in primer.icons}
    for plan, contrast in of_kind(cases, "object"):
        shown = {thing.name for thing in plan.facts.things}
        come = words(contrast.wrong) - words(contrast.right)
        others = {concept for concept in names if come and any(set(come) <= set(words(n)) for n in names[concept])}
        assert others - shown, contrast
        said = [label for concept in shown for label in names[concept]]
        assert not any(set(words(contrast.wrong)) <= set(words(name)) for name in said)


def test_a_relation_is_replaced_by_one_that_is_not_true(primer: Primer, cases: list[Case]) -> None:
    for plan, _ in of_kind(cases, "relation"):
        one, other = plan.facts.things
        for seed in range(6):
            found = Contrasts(primer).draw(plan.facts, np.random.default_rng(seed), "relation")
            assert found is not None
            (x, y), (u, v) = one.box.center, other.box.center
            first, second = found.wrong.find(one.label), found.wrong.find(other.label)
            assert first >= 0 and second >= 0
            subject, thing = (one, other) if first < second else (other, one)
            if subject is other:
                (x, y), (u, v) = (u, v), (x, y)
            between = found.wrong[found.wrong.find(subject.label) + len(subject.label) : found.wrong.find(thing.label)]
            untrue = {"left": x < u, "right": x > u, "above|over": y < v, "below|under|underneath": y > v}
            for pattern, holds in untrue.items():
                if re.search(rf"\b({pattern})\b", between) and plan.facts.relation != "next to":
                    sideways = pattern in ("left", "right")
                    stacked = plan.facts.relation in ("above", "below", "on top of")
                    assert stacked == sideways or not holds, (found.wrong, plan.facts.relation)


def test_places_that_could_be_confused_are_never_swapped(cases: list[Case]) -> None:
    assert far_places("left") == ("right", "top", "bottom", "top right", "bottom right")
    assert far_places("free") == ()
    assert all("center" not in far_places(name) for name in ("left", "right", "top", "bottom"))
    assert all(place in far_places(far) for place in PLACES for far in far_places(place))
    assert len(of_kind(cases, "place")) >= 10


def test_another_style_is_named(primer: Primer, cases: list[Case]) -> None:
    icons = {icon.style for icon in primer.icons}
    people = {style.name.lower() for style in load_styles().values()}
    for plan, contrast in of_kind(cases, "style"):
        thing = plan.facts.things[0]
        known = people if thing.kind == "character" else icons
        come = words(contrast.wrong) - words(contrast.right)
        named = {name for name in known if set(words(name)) <= set(come)}
        assert len(named) == 1 and thing.style.replace("-", " ") not in named, contrast


def test_what_is_said_of_a_person_is_replaced_and_little_else(primer: Primer, cases: list[Case]) -> None:
    exact = 0
    for plan, contrast in of_kind(cases, "attribute"):
        record = primer.by_file[plan.facts.things[0].file]
        gone, come = words(contrast.right) - words(contrast.wrong), words(contrast.wrong) - words(contrast.right)
        said = {word for value in record["attributes"].values() if isinstance(value, str) for word in value.split()}
        assert come, contrast
        if set(gone) <= said | {"hair"}:
            exact += 1
            assert not set(come) & set(gone)
    assert exact >= 0.6 * len(of_kind(cases, "attribute"))


def test_a_fact_that_a_scene_lacks_gives_nothing(primer: Primer) -> None:
    sampler = SceneSampler(primer, 3, config=SceneConfig(1.0, 0.0, 0.0))
    contrasts, rng = Contrasts(primer), np.random.default_rng(0)
    facts = sampler.plan(0).facts
    assert contrasts.draw(facts, rng, "relation") is None
    assert contrasts.draw(facts, rng, "attribute") is None
    middle = replace(facts, things=(replace(facts.things[0], place="center", size="medium"),))
    assert kinds_of(middle) == ("object", "style", "background")
    assert contrasts.draw(middle, rng, "place") is None and contrasts.draw(middle, rng, "size") is None
    assert contrasts.draw(middle, rng) is not None


def test_the_same_seed_says_the_same(primer: Primer) -> None:
    plan = SceneSampler(primer, 3).plan(1)
    contrasts = Contrasts(primer)
    one, two = (contrasts.draw(plan.facts, np.random.default_rng(5)) for _ in range(2))
    assert one == two and one is not None
