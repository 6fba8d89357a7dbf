"""Drawn people as subjects: which drawings are needed, and the pictures and prompts made of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.data.backgrounds import Background
from sfumato.data.benchmark.changes import Change, changes, training_variants
from sfumato.data.benchmark.grounds import asked_ground, new_ground, training_grounds
from sfumato.data.benchmark.pictures import Made, made_prompt, made_training
from sfumato.data.benchmark.schema import PICTURES
from sfumato.data.captions import MAX_WORDS, count_words, describe_ground
from sfumato.data.compose import Scene, compose_person
from sfumato.data.primer.attributes import IdentitySpec, Variant
from sfumato.data.primer.characters import HELD_OUT_SPLIT, identity_of, record_of
from sfumato.data.primer.descriptions import state
from sfumato.data.primer.library import Primer
from sfumato.data.primer.looks import IDENTITY_SLOTS, VARIANT_SLOTS, find_style
from sfumato.errors import DataError
from sfumato.runtime.seeding import derive_seed

CLASS_NOUN = "person"
_SIDES = (0.95, 0.8, 0.88, 1.0, 0.84)
_TRUTH_SIDE = 1.0  # leaves no room to move, so that pictures with and without a change lie over each other

Record = Mapping[str, Any]
Find = Callable[[IdentitySpec, Variant], tuple[Primer, Record]]
"""Finds the drawing of a person in a variant: the set that holds it, and its record there."""


@dataclass(frozen=True)
class PersonPlan:
    """What is drawn of one person.

    Attributes:
        identity: The person.
        seen: How it is shown to the learner.
        asked: What is asked for.
        seed: Decides grounds and places.
    """

    identity: IdentitySpec
    seen: tuple[Variant, ...]
    asked: tuple[Change, ...]
    seed: int

    @property
    def plain(self) -> Variant:
        """The person without any change: as in the first training picture, without what it may take off."""
        return next(change.variant for change in self.asked if change.kind == "background")

    @property
    def drawings(self) -> list[tuple[IdentitySpec, Variant]]:
        """Everything that has to be drawn of it."""
        shown = [(self.identity, variant) for variant in self.seen]
        return shown + [(change.identity, change.variant) for change in self.asked]


def plan_people(primer: Primer, count: int, seed: int, pictures: int = PICTURES) -> list[PersonPlan]:
    """Choose held-out people, styles in turn, and what is asked of each.

    Args:
        primer: The training set that they are held out from.
        count: How many.
        seed: Decides who, and what.
        pictures: How many pictures of each there are to learn from, at most `MOST_PICTURES`.

    Raises:
        DataError: The set holds out fewer people.
    """
    by_style: dict[str, dict[str, list[Record]]] = {}
    for record in primer.characters:
        if record["split"] == HELD_OUT_SPLIT:
            by_style.setdefault(record["style"], {}).setdefault(record["identity"], []).append(record)
    found = sum(len(people) for people in by_style.values())
    if found < count:
        raise DataError(
            f"{count} characters were asked for; {primer.folder} holds out {found} people.",
            field="count",
            hint="Ask for fewer, or build the whole set with 'sfumato data primer'.",
        )
    order = {
        style: random.Random(derive_seed(seed, f"benchmark/{style}")).sample(sorted(people), len(people))
        for style, people in sorted(by_style.items())
    }
    chosen: list[PersonPlan] = []
    turn = 0
    while len(chosen) < count:
        for style, names in order.items():
            if turn < len(names) and len(chosen) < count:
                own = derive_seed(seed, f"benchmark/{names[turn]}")
                chosen.append(_plan(by_style[style][names[turn]], own, pictures))
        turn += 1
    return chosen


def make_person(plan: PersonPlan, find: Find) -> Made:
    """Compose the pictures of a person and write its prompts.

    Args:
        plan: What is drawn.
        find: Finds the drawings.
    """
    rng = np.random.default_rng(derive_seed(plan.seed, "grounds"))
    looks = [find(plan.identity, variant) for variant in plan.seen]
    looks += [find(change.identity, change.variant) for change in plan.asked]
    hidden = frozenset().union(*(_hidden_by(primer, record) for primer, record in looks))
    asked = asked_ground(hidden)
    grounds = training_grounds(rng, hidden, asked, len(plan.seen))
    training = [
        made_training(_compose(find, plan.identity, variant, ground, side, number), ground, side)
        for number, (variant, ground, side) in enumerate(zip(plan.seen, grounds, _SIDES, strict=False))
    ]
    prompts = []
    known = [*grounds, asked]
    for number, change in enumerate(plan.asked):
        record = find(change.identity, change.variant)[1]
        facts = record["attributes"]
        ground, expects = asked, {name: str(facts[name]) for name in change.reads if facts[name] is not None}
        if change.kind == "background":
            first = not any(other.kind == "background" for other in plan.asked[:number])
            ground = new_ground(rng, hidden, known, "plain" if first else "patterned")
            known.append(ground)
            expects = {"ground": ground.colours[0]} if first else {}
        scene = _compose(find, change.identity, change.variant, ground, _TRUTH_SIDE, number)
        unchanged = _compose(find, plan.identity, plan.plain, asked, _TRUTH_SIDE, number)
        text = _said(record, "{}", change.named, ground)
        prompts.append(made_prompt(change.kind, text, _described(record, ground), [scene], unchanged, expects))
    style = find_style(plan.identity.style)
    class_prompt = f"{style.name} style portrait of a {CLASS_NOUN} {describe_ground(asked)}"
    return Made(plan.identity.name, "character", style.key, CLASS_NOUN, class_prompt, style.key, training, prompts)


def _plan(records: Sequence[Record], seed: int, pictures: int) -> PersonPlan:
    """Plan one person."""
    identity = identity_of(records[0])
    rng = random.Random(seed)
    existing = [
        Variant({slot: name for slot, name in record["looks"].items() if slot in VARIANT_SLOTS}) for record in records
    ]
    seen = training_variants(identity, existing, rng, pictures)
    return PersonPlan(identity, tuple(seen), tuple(changes(identity, seen, rng)), seed)


def _compose(find: Find, identity: IdentitySpec, variant: Variant, ground: Background, side: float, seed: int) -> Scene:
    """Compose one picture; its caption says what a placeholder would leave open."""
    primer, record = find(identity, variant)
    caption = _said(record, CLASS_NOUN, (), ground)
    return compose_person(primer, record["file"], background=ground, side=side, seed=seed, caption=caption)


def _hidden_by(primer: Primer, record: Record) -> frozenset[str]:
    """Name the colours on which most of a drawing, or its hair, would not be seen."""
    hair = str(record["attributes"]["hair_color"]).replace("gray", "grey")
    return primer.sprite(record["file"]).hidden_by | {hair}


def _said(record: Record, noun: str, named: Iterable[str], ground: Background) -> str:
    """Say what changes from picture to picture, and the ground."""
    return f"{state(record, noun, named).lower()} {describe_ground(ground)}"


def _described(record: Record, ground: Background) -> str:
    """Say all of a person in the base's words; what does not fit is left out, the least striking first."""
    named = ["hair", "facial_hair", "skin"]
    while True:
        text = _said(record, CLASS_NOUN, named, ground)
        if count_words(text) <= MAX_WORDS or not named:
            return text
        named.pop()


class Drawings:
    """Finds drawings in a training set, and among those drawn beside it.

    Args:
        primer: The training set.
        drawn: Pictures that were drawn anew, in a folder of their own.
    """

    def __init__(self, primer: Primer, drawn: Primer) -> None:
        self._sets = [(source, {_key(record): record for record in source.characters}) for source in (primer, drawn)]

    def __call__(self, identity: IdentitySpec, variant: Variant) -> tuple[Primer, Record]:
        """Return the set that holds a drawing, and its record there."""
        key = _key(record_of(identity, variant, 0, HELD_OUT_SPLIT))
        return next((source, records[key]) for source, records in self._sets if key in records)


def not_drawn(primer: Primer, plans: Iterable[PersonPlan]) -> list[tuple[IdentitySpec, Variant]]:
    """List the drawings that a training set does not hold, each once."""
    known = {_key(record) for record in primer.characters}
    wanted: dict[object, tuple[IdentitySpec, Variant]] = {}
    for plan in plans:
        for identity, variant in plan.drawings:
            wanted.setdefault(_key(record_of(identity, variant, 0, HELD_OUT_SPLIT)), (identity, variant))
    return [drawing for key, drawing in wanted.items() if key not in known]


def drawn_record(identity: IdentitySpec, variant: Variant, number: int) -> dict[str, Any]:
    """Describe a drawing that was made for a benchmark."""
    record = record_of(identity, variant, number, HELD_OUT_SPLIT)
    return {**record, "file": f"{identity.name}-{number}.png"}


def _key(record: Record) -> object:
    """Name a drawing by all that decides it."""
    looks = {slot: record["looks"][slot] for slot in (*IDENTITY_SLOTS, *VARIANT_SLOTS) if slot in record["looks"]}
    return record["identity"], tuple(looks.items()), tuple(sorted(record["features"].items()))
