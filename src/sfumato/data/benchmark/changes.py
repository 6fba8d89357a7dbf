"""What can be asked of a drawn person beyond its training pictures: one change each, drawn exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from sfumato.data.benchmark.schema import PICTURES, PromptKind
from sfumato.data.primer.attributes import IdentitySpec, Variant, attributes, conflict, draw_variant
from sfumato.data.primer.looks import VARIANT_SLOTS, find_style

PER_KIND = 2
_TRIES = 200


@dataclass(frozen=True)
class Change:
    """One change of a person.

    Attributes:
        kind: What differs from the training pictures.
        identity: The person; a property such as the hair colour may differ.
        variant: How it is shown.
        named: Slots of the identity that the request has to name, since they differ.
        reads: Attributes that can be read off the picture and tell whether the change was made.
    """

    kind: PromptKind
    identity: IdentitySpec
    variant: Variant
    named: frozenset[str] = frozenset()
    reads: tuple[str, ...] = field(default=())


def training_variants(
    identity: IdentitySpec, existing: Sequence[Variant], rng: random.Random, count: int = PICTURES
) -> list[Variant]:
    """Choose how a person is shown to the learner: expressions and garments differ as far as they can.

    Args:
        identity: The person.
        existing: Ways in which pictures of it exist; the first shows it without glasses and hat.
        rng: Draws further ways where there are too few.
        count: How many.

    Returns:
        That many different ways, the plainest first.
    """
    found = [variant for number, variant in enumerate(existing) if variant not in existing[:number]]
    for number in range(_TRIES):
        if len(found) >= count:
            break
        variant = draw_variant(identity, rng, plain=number == 0 and not found)
        if variant not in found:
            found.append(variant)
    chosen = [min(found, key=lambda variant: len(_extras(variant)))]
    while len(chosen) < min(count, len(found)):
        rest = [variant for variant in found if variant not in chosen]
        chosen.append(max(rest, key=lambda variant: _novelty(variant, chosen)))
    return chosen


def changes(identity: IdentitySpec, seen: Sequence[Variant], rng: random.Random) -> list[Change]:
    """Choose what is asked of a person: each kind up to twice, as far as its style can draw it.

    Everything but the change is as in the first training picture.

    Args:
        identity: The person.
        seen: Its training pictures; no change repeats what they show.
        rng: Chooses among the possible changes.

    Returns:
        Changes in the order expression, accessory, garment, property, background.
    """
    plain = {slot: name for slot, name in seen[0].looks.items() if slot not in _extras(seen[0])}
    found: list[Change] = []
    for possible in (_expressions, _accessories, _garments, _properties):
        options = list(possible(identity, plain, seen))
        rng.shuffle(options)
        found += _different(options)
    found += [Change("background", identity, Variant(plain))] * PER_KIND
    return found


def _expressions(identity: IdentitySpec, plain: Mapping[str, str], seen: Sequence[Variant]) -> Iterator[Change]:
    """List expressions of a class that no training picture shows."""
    looks = find_style(identity.style).slots["expression"]
    known = {looks[variant.looks["expression"]].coarse for variant in seen}
    for name, look in looks.items():
        wanted = {**plain, "expression": name}
        if look.coarse not in known and conflict(identity, wanted) is None:
            yield Change("expression", identity, Variant(wanted), reads=("expression",))


def _accessories(identity: IdentitySpec, plain: Mapping[str, str], seen: Sequence[Variant]) -> Iterator[Change]:
    """List glasses, hats and other things that no training picture shows."""
    style = find_style(identity.style)
    reads = {"glasses": ("has_glasses",), "hat": ("has_hat",), "accessory": ()}
    for slot, read in reads.items():
        known = {variant.looks.get(slot) for variant in seen}
        for name in style.slots.get(slot, {}):
            wanted = {**plain, slot: name}
            if name in known or conflict(identity, wanted) is not None:
                continue
            yield Change("accessory", identity, identity.variant(**wanted), reads=read)


def _garments(identity: IdentitySpec, plain: Mapping[str, str], seen: Sequence[Variant]) -> Iterator[Change]:
    """List garments in cut and colour that no training picture shows."""
    style = find_style(identity.style)
    cuts = {variant.looks.get("clothing") for variant in seen}
    colours = {variant.looks.get("clothing_color") for variant in seen}
    bare = {slot: name for slot, name in plain.items() if slot not in ("clothing", "clothing_color")}
    for name, look in style.slots.get("clothing", {}).items():
        if name in cuts and not look.colored:
            continue
        wanted = {**bare, "clothing": name}
        if not look.colored:
            if conflict(identity, wanted) is None:
                yield Change("garment", identity, Variant(wanted))
            continue
        for colour in style.slots["clothing_color"]:
            coloured = {**wanted, "clothing_color": colour}
            if colour not in colours and colour not in look.not_color and conflict(identity, coloured) is None:
                yield Change("garment", identity, Variant(coloured), reads=("clothing_color",))


def _properties(identity: IdentitySpec, plain: Mapping[str, str], seen: Sequence[Variant]) -> Iterator[Change]:
    """List other colours of the hair, or beards for those whose hair has no colour to choose."""
    style = find_style(identity.style)
    if attributes(identity, Variant(plain))["hair_color"] is not None and "hair_color" in identity.looks:
        barred = {identity.looks["hair_color"], *style.look("hair", identity.looks["hair"]).not_color}
        if "skin" in identity.looks:
            barred |= set(style.look("skin", identity.looks["skin"]).not_color)
        if "facial_hair" in identity.looks:
            barred |= set(style.look("facial_hair", identity.looks["facial_hair"]).not_color)
        for colour in style.slots["hair_color"]:
            if colour not in barred:
                person = identity.changed(hair_color=colour)
                yield Change("property", person, Variant(plain), frozenset({"hair_color"}), ("hair_color",))
        return
    if "facial_hair" in identity.looks:
        return
    for name, look in style.slots.get("facial_hair", {}).items():
        person = identity.changed(facial_hair=name)
        if conflict(person, plain) is None:
            yield Change("property", person, Variant(plain), frozenset({"facial_hair"}), ("has_beard",) * look.beard)


def _different(options: Sequence[Change]) -> list[Change]:
    """Take the first changes that do not say the same."""
    chosen: list[Change] = []
    for spread in (True, False):  # first such as differ in what they are, then any
        for option in options:
            if len(chosen) < PER_KIND and option not in chosen and not (spread and _alike(option, chosen)):
                chosen.append(option)
    return chosen


def _alike(option: Change, chosen: Sequence[Change]) -> bool:
    """Say whether a change is of the same sort as one before: both glasses, or both the same expression class."""
    return any(_sort(option) == _sort(other) for other in chosen)


def _sort(change: Change) -> object:
    """Name the sort of a change."""
    facts = attributes(change.identity, change.variant)
    if change.kind == "expression":
        return facts["expression"]
    if change.kind == "accessory":
        return tuple(_extras(change.variant))
    if change.kind == "garment":
        return change.variant.looks["clothing"]
    return change.identity.looks.get("hair_color"), change.identity.looks.get("facial_hair")


def _extras(variant: Variant) -> list[str]:
    """List what a person may take off."""
    return [slot for slot in ("glasses", "hat", "hat_color", "accessory") if slot in variant.looks]


def _novelty(variant: Variant, chosen: Sequence[Variant]) -> float:
    """Say how much a way to be shown differs from those chosen, less what covers the face."""
    new = sum(
        variant.looks.get(slot) not in {other.looks.get(slot) for other in chosen}
        for slot in VARIANT_SLOTS
        if slot not in ("glasses", "hat", "hat_color", "accessory")
    )
    return new - 0.5 * len(_extras(variant))
