"""Scenes: configuration, captions word by word, prompts, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest

from sfumato.data.backgrounds import COLOURS, Background, paint, pick
from sfumato.data.captions import class_phrase, count_words, describe, describe_fully, with_article, with_right_article
from sfumato.data.facts import Box, Facts, Thing
from sfumato.data.layout import size_name
from sfumato.data.primer.library import Primer
from sfumato.data.prompts import prompts
from sfumato.data.scenes import SceneConfig, SceneSampler, compose, compose_pair, compose_person
from sfumato.errors import ConfigError, DataError
from tiny_primer import build_tiny_primer


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Leave the checking of types to the code itself, as in production: what is given may be any text of a user."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Primer:
    return Primer.open(build_tiny_primer(tmp_path_factory.mktemp("scenes")))


@pytest.fixture(scope="module")
def icons_only(tmp_path_factory: pytest.TempPathFactory) -> Primer:
    return Primer.open(build_tiny_primer(tmp_path_factory.mktemp("icons"), characters=False))


def thing(label: str = "red fox", style: str = "fluent", **more: object) -> Thing:
    facts = {"size": "medium", "place": "center", "attributes": {}, **more}
    return Thing("icon", "fox", style, label, Box(0, 0, 9, 9), file="f", split="train", **facts)  # type: ignore[arg-type]


def test_a_set_without_people_must_be_asked_for(icons_only: Primer) -> None:
    with pytest.raises(ConfigError, match=r"character_weight is 0\.25, but .* has no pictures for it in split 'train'"):
        SceneSampler(icons_only, 0)
    scene = SceneSampler(icons_only, 0, config=SceneConfig(character_weight=0.0)).scene(0)
    assert scene.facts.things[0].kind == "icon"


def test_weights_decide_what_is_drawn(primer: Primer) -> None:
    sampler = SceneSampler(primer, 0, config=SceneConfig(icon_weight=1.0, pair_weight=1.0, character_weight=2.0))
    kinds = [s.facts.relation or s.facts.things[0].kind for s in map(sampler.scene, range(200))]
    assert 70 <= kinds.count("character") <= 130
    assert 30 <= kinds.count("icon") <= 70
    only = SceneConfig(1.0, 0.0, 0.0, {"small": 1.0}, 1.0, {"dots": 1.0}, {"food-drink": 0.0})
    for scene in map(SceneSampler(primer, 0, config=only).scene, range(20)):
        assert scene.facts.things[0].size == "small"
        assert scene.facts.things[0].place == "center"
        assert scene.facts.background.kind == "dots"
        assert scene.facts.things[0].attributes["group"] != "food-drink"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"icon_weight": -1.0}, "scene weights: 'icon_weight' is -1.0; a weight is a number from 0 on"),
        ({"icon_weight": float("nan")}, "scene weights: 'icon_weight' is nan"),
        ({"icon_weight": 0.0, "pair_weight": 0.0, "character_weight": 0.0}, "scene weights: all are 0"),
        ({"size_weights": {"huge": 1.0}}, "size_weights names 'huge'; known: small, medium, large"),
        ({"background_weights": {}}, "background_weights: all are 0; at least one must be more"),
        ({"background_weights": {"plaid": 1.0}}, "background_weights names 'plaid'; known: plain"),
        ({"group_weights": {"flags": -2.0}}, "group_weights: 'flags' is -2.0"),
        ({"centered": 1.5}, "centered is 1.5; a probability from 0 to 1 is needed"),
        ({"same_style": -0.1}, "same_style is -0.1"),
        ({"full_caption_kinds": ("icons",)}, "full_caption_kinds names 'icons'; known: icon, pair, character"),
        ({"character_sides": (0.9, 1.2)}, "character_sides is 0.9 to 1.2; two shares are needed"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_configurations_that_make_no_sense(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        SceneConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "plaid"}, "Background kind 'plaid' is not one of plain, split"),
        ({"colours": ("mauve",)}, "Colour 'mauve' is not one of white, black"),
        ({"kind": "dots"}, "A dots background has 2 different colours; given: white"),
        ({"kind": "split", "colours": ("red", "red"), "direction": "vertical"}, "given: red, red"),
        (
            {"kind": "stripes", "colours": ("red", "blue")},
            "the direction horizontal or vertical or diagonal; given: none",
        ),
        ({"shades": ((1, 2, 3), (4, 5, 6))}, "1 shades are needed; given: 2"),
        ({"period": 2}, "repeats after 4 pixels or more; given: 2"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_backgrounds_that_make_no_sense(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Background(**fields)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_unknown_things_are_named(primer: Primer) -> None:
    with pytest.raises(ConfigError, match="Split 'test' is not one of train, held_out_pair, held_out_concept"):
        SceneSampler(primer, 0, "test")
    with pytest.raises(ConfigError, match="size 'huge' is not one of small, medium, large"):
        compose(primer, "fox", "noto", size="huge")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="place 'nowhere' is not one of center, left"):
        compose(primer, "fox", "noto", place="nowhere")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="relation 'inside' is not one of left of, right of"):
        compose_pair(primer, ("fox", "noto"), "inside", ("house", "noto"))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="has no icon 'dragon' in style 'noto'"):
        compose(primer, "dragon", "noto")
    with pytest.raises(DataError, match=r"has no character 'x\.png' among its 56"):
        compose_person(primer, "x.png")


def test_split_grounds_lie_as_named() -> None:
    pixels = paint(Background("split", ("red", "white"), "horizontal"))
    assert tuple(pixels[64, 10]) == COLOURS["red"]
    assert tuple(pixels[64, 120]) == COLOURS["white"]
    pixels = paint(Background("split", ("red", "white"), "vertical"))
    assert tuple(pixels[10, 64]) == COLOURS["red"]
    stripes = paint(Background("stripes", ("red", "white"), "vertical", 20))
    assert (stripes[0] == stripes[77]).all()
    assert (stripes[:, 0] == stripes[:, 100]).all()
    assert not (stripes[0, 0] == stripes[0, 10]).all()


def test_picking_follows_the_weights() -> None:
    rng = np.random.default_rng(0)
    drawn = [pick(rng, (1.0, 0.0, 3.0)) for _ in range(400)]
    assert set(drawn) == {0, 2}
    assert 60 <= drawn.count(0) <= 140


@pytest.mark.parametrize(
    ("words", "phrase"),
    [
        ("fox", "a fox"), ("octopus", "an octopus"), ("unicorn", "a unicorn"), ("hourglass", "an hourglass"),
        ("umbrella", "an umbrella"), ("one-piece swimsuit", "a one-piece swimsuit"), ("glasses", "glasses"),
        ("people wrestling", "people wrestling"), ("bus", "a bus"), ("dress", "a dress"), ("ok hand", "an ok hand"),
        ("sos button", "an sos button"), ("no entry", "no entry"), ("euro banknote", "a euro banknote"),
    ],
)  # fmt: skip
def test_articles(words: str, phrase: str) -> None:
    assert with_article(words) == phrase


@pytest.mark.parametrize(
    ("facts", "caption"),
    [
        (Facts((thing(),), Background("plain", ("blue",))), "a fluent icon of a red fox on a blue background"),
        (
            Facts((thing(size="small", place="top left"),), Background("stripes", ("pink", "white"), "vertical")),
            "a small fluent icon of a red fox in the top left corner on vertical pink and white stripes",
        ),
        (
            Facts((thing(size="large"),), Background("gradient", ("orange", "red"), "vertical")),
            "a large fluent icon of a red fox on an orange to red gradient",
        ),
        (
            Facts((thing("dog", "noto"), thing("house", "noto")), Background(), "left of"),
            "a noto icon of a dog to the left of a house on a white background",
        ),
        (
            Facts((thing("dog", "noto"), thing("house", "blob")), Background("grain", ("red",)), "on top of"),
            "a noto style dog on top of a blob style house on a grainy red background",
        ),
    ],
)
def test_full_captions_say_everything(facts: Facts, caption: str) -> None:
    assert describe_fully(facts) == caption


def test_captions_vary_and_use_other_names() -> None:
    attributes = {"synonyms": ("vixen",), "rare_keywords": ("sly",), "keywords": ("animal", "sly")}
    facts = Facts((thing(attributes=attributes),), Background())
    captions = {describe(facts, np.random.default_rng(seed)) for seed in range(600)}
    assert len(captions) > 150
    assert any("vixen" in caption for caption in captions)
    assert any("a sly" in caption for caption in captions)
    assert any("(animal)" in caption for caption in captions)
    assert any("white" not in caption for caption in captions)
    assert "red fox" in captions


def test_what_does_not_fit_is_left_out() -> None:
    label = " ".join(["long"] * 22)
    caption = describe_fully(Facts((thing(label),), Background("dots", ("blue", "red"))))
    assert caption == f"a fluent icon of a {label}"
    person = iter(["long " * 26 + "person", "a person"])
    portrait = Facts(
        (Thing("character", "p", "lorelei", "x", Box(0, 0, 9, 9), "large", "center", "f", "train"),), Background()
    )
    assert describe_fully(portrait, lambda rng: next(person)) == "a person on a white background"
    assert count_words("a fox, small: (red)") == 8


def test_sizes_have_names() -> None:
    assert [size_name(side) for side in (0.1, 0.36, 0.44, 0.47, 0.6, 0.76, 1.0)] == [
        "small", "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip


def test_facts_are_plain_data(primer: Primer) -> None:
    scene = SceneSampler(primer, 0).scene(5)
    assert json.loads(json.dumps(scene.facts.to_dict()))["things"][0]["name"] == scene.facts.things[0].name


def test_prompts_are_fixed_and_take_turns(primer: Primer) -> None:
    asked = prompts(primer, "icon", 14, 0)
    again = prompts(primer, "icon", 14, 0)
    assert [scene.caption for scene in asked] == [scene.caption for scene in again]
    assert [scene.caption for scene in asked] != [scene.caption for scene in prompts(primer, "icon", 14, 1)]
    assert len({scene.facts.things[0].file for scene in asked}) == 14
    assert len({scene.facts.background.colours for scene in asked}) >= 10
    pairs = prompts(primer, "pair", 12, 0)
    assert {scene.facts.relation for scene in pairs} == {
        "left of",
        "right of",
        "above",
        "below",
        "next to",
        "on top of",
    }
    assert all(len({thing.style for thing in scene.facts.things}) == 1 for scene in pairs)
    people = prompts(primer, "character", 9, 0, "held_out_pair")
    assert {scene.facts.things[0].split for scene in people} == {"held_out_identity"}
    held_out = prompts(primer, "icon", 3, 0, "held_out_concept")
    assert {scene.facts.things[0].split for scene in held_out} == {"held_out_concept"}


@pytest.mark.usefixtures("unchecked")
def test_prompts_that_make_no_sense(primer: Primer, icons_only: Primer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Prompt kind 'poem' is not one of icon, pair, character"):
        prompts(primer, "poem", 1, 0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Split 'test' is not one of train"):
        prompts(primer, "icon", 1, 0, "test")
    with pytest.raises(ConfigError, match="0 prompts were asked for; at least 1 is needed"):
        prompts(primer, "icon", 0, 0)
    with pytest.raises(DataError, match="has no characters in split 'train' to ask for"):
        prompts(icons_only, "character", 1, 0)
    empty = Primer(tmp_path, [], [], {})
    with pytest.raises(DataError, match="has no icons in split 'train' to ask for"):
        prompts(empty, "icon", 1, 0)
    lonely = Primer(
        tmp_path, [icon for icon in primer.icons if icon.concept == "fox" and icon.split == "train"][:1], [], {}
    )
    with pytest.raises(DataError, match="has no second icon in style"):
        prompts(lonely, "pair", 1, 0)


def test_the_article_follows_the_noun() -> None:
    assert with_right_article("A octopus and a octopus in an octopus hat", "octopus") == (
        "An octopus and an octopus in an octopus hat"
    )
    assert with_right_article("an fox beside an owl", "fox") == "a fox beside an owl"
    assert with_right_article("a Owl and an canvas", "Owl") == "an Owl and an canvas"
    assert with_right_article("an canvas", "canvas") == class_phrase("canvas") == "a canvas"
