"""What a base is asked to draw, each question with its truth and with a real picture of what it asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from sfumato.data.backgrounds import COLOURS, Background
from sfumato.data.captions import describe_fully
from sfumato.data.compose import Scene, compose, compose_person
from sfumato.data.facts import Thing
from sfumato.data.primer.descriptions import describe
from sfumato.data.primer.library import IconRecord, Primer
from sfumato.data.prompts import prompts
from sfumato.data.scenes import SceneConfig, SceneSampler, people_of
from sfumato.evaluation.attributes import stated
from sfumato.evaluation.plan import EvaluationPlan
from sfumato.runtime.seeding import derive_seed

KINDS = ("known icons", "held-out icons", "pairs", "people", "scenes")
_TRIES = 8


@dataclass(frozen=True)
class Answer:
    """A question and the picture that was given for it.

    Attributes:
        scene: The question: `caption` is the prompt, `facts` the truth, `image` a real picture of it.
        picture: RGB, of the size of the real picture.
    """

    scene: Scene
    picture: UInt8[np.ndarray, "128 128 3"]

    @property
    def thing(self) -> Thing:
        """The (first) thing that was asked for."""
        return self.scene.facts.things[0]


def real_answers(scenes: Iterable[Scene]) -> list[Answer]:
    """Answer every question with its real picture: what this scores is the ceiling of the instrument."""
    return [Answer(scene, scene.image) for scene in scenes]


def questions(primer: Primer, plan: EvaluationPlan) -> dict[str, list[Scene]]:
    """Choose what a base is asked for.

    A smaller number of pictures asks the first of the same questions, as long as the set need not repeat itself.

    Args:
        primer: The training set.
        plan: How many of each kind, and the seed.

    Returns:
        Scenes by the names in `KINDS`; a kind that the plan or the set does not have is left out.
    """
    wanted, seed = plan.pictures, derive_seed(plan.seed, "evaluation/questions")
    has_people = bool(people_of(primer, "held_out_pair")) and bool(people_of(primer, "train"))
    known = {icon.concept for icon in primer.icons if icon.split == "train"}
    asked: dict[str, list[Scene]] = {}
    if wanted.known_icons:
        asked["known icons"] = prompts(primer, "icon", wanted.known_icons, seed)
    held_out = sum(icon.split == "held_out_pair" for icon in primer.icons)
    if wanted.held_out_icons and held_out:
        scenes = prompts(primer, "icon", min(wanted.held_out_icons, held_out), seed, "held_out_pair")
        asked["held-out icons"] = [scene for scene in scenes if scene.facts.things[0].name in known]
    if wanted.pairs:
        asked["pairs"] = _pairs(primer, wanted.pairs, seed)
    if wanted.people and has_people:
        asked["people"] = list(_people(primer, wanted.people, seed))
    if wanted.scenes:
        asked["scenes"] = mixture(primer, plan, range(wanted.scenes))
    return {kind: scenes for kind, scenes in asked.items() if scenes}


def mixture(primer: Primer, plan: EvaluationPlan, indices: Iterable[int]) -> list[Scene]:
    """Compose scenes as the training sees them, with a seed that the training does not use.

    Args:
        primer: The training set.
        plan: Its seed counts.
        indices: Numbers of the scenes.
    """
    config = SceneConfig()
    if not people_of(primer, "train"):
        config = replace(config, character_weight=0.0)
    sampler = SceneSampler(primer, derive_seed(plan.seed, "evaluation/scenes"), config=config)
    return [sampler.scene(index) for index in indices]


def picture_seed(plan: EvaluationPlan, kind: str, number: int) -> int:
    """Return the seed of one picture."""
    return derive_seed(plan.seed, f"evaluation/{kind}", number)


def gallery_scenes(primer: Primer) -> Iterator[Scene]:
    """Compose every training icon large, in the middle, on white."""
    for icon in training_icons(primer):
        yield compose(primer, icon.concept, icon.style)


def training_icons(primer: Primer) -> Sequence[IconRecord]:
    """List the training icons in the order of `gallery_scenes`."""
    return [icon for icon in primer.icons if icon.split == "train"]


def training_people(primer: Primer, count: int, seed: int) -> list[Scene]:
    """Compose pictures of training people, every style and then every identity as often as another.

    Args:
        primer: The training set.
        count: How many, at most; no picture comes twice.
        seed: Decides which.
    """
    rng = np.random.default_rng(derive_seed(seed, "evaluation/training people"))
    by_style: dict[str, list[str]] = {}
    for variants in people_of(primer, "train"):
        files = [variant["file"] for variant in variants]
        by_style.setdefault(variants[0]["style"], []).append(files[int(rng.integers(len(files)))])
    files = []
    for style in sorted(by_style):
        order = rng.permutation(len(by_style[style]))[: max(1, count // len(by_style))]
        files += [by_style[style][i] for i in order]
    return [
        compose_person(primer, file, background=_ground(primer, file, rng, number), seed=number, caption="a person")
        for number, file in enumerate(files)
    ]


def _pairs(primer: Primer, count: int, seed: int) -> list[Scene]:
    """Ask for pairs whose order can be told: `next to` leaves it open."""
    scenes = prompts(primer, "pair", 2 * count + 6, seed)
    return [scene for scene in scenes if scene.facts.relation != "next to"][:count]


def _people(primer: Primer, count: int, seed: int) -> Iterator[Scene]:
    """Ask for held-out people in the words that say most of them."""
    people = people_of(primer, "held_out_pair")
    rng = np.random.default_rng(derive_seed(seed, "evaluation/people"))
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(people)).tolist()
    for number, index in enumerate(order[:count]):
        record = people[index][int(rng.integers(len(people[index])))]
        words = [describe(record, rng) for _ in range(_TRIES)]
        told = max(words, key=lambda text: len(stated(record, text)))
        ground = _ground(primer, record["file"], rng, number)
        scene = compose_person(primer, record["file"], background=ground, seed=number, caption=told)
        yield _saying(scene, told)


def _saying(scene: Scene, words: str) -> Scene:
    """Return a scene of a person whose caption says these words and the ground."""
    return replace(scene, caption=describe_fully(scene.facts, lambda rng: words))


def _ground(primer: Primer, file: str, rng: np.random.Generator, number: int) -> Background:
    """Take the next named colour on which a person can be seen."""
    free = [name for name in COLOURS if name not in primer.sprite(file).hidden_by] or list(COLOURS)
    wanted = list(COLOURS)[number % len(COLOURS)]
    return Background("plain", (wanted if wanted in free else free[int(rng.integers(len(free)))],))
