"""Drawn people: the vocabulary is complete, captions are true, held-out people stay out, Node's failures are told."""

from __future__ import annotations

import functools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from sfumato.data.primer import characters
from sfumato.data.primer.attributes import IdentitySpec, OptionSet, attributes, conflict, draw_identity, drawing
from sfumato.data.primer.characters import (
    describe,
    draw_people,
    identity_of,
    record_of,
    render_options,
    render_variants,
)
from sfumato.data.primer.looks import COLOR_OF, EXPRESSIONS, IDENTITY_SLOTS, VARIANT_SLOTS, find_style, load_styles
from sfumato.errors import DataError, StorageError

STYLES = tuple(load_styles())
COLORS = {"black", "brown", "blond", "ginger", "red", "gray", "white", "pink", "purple", "blue", "green"}


@functools.cache
def people(style: str, seed: int = 0, count: int = 60, held_out: int = 10) -> list[dict[str, Any]]:
    """Return the records of a small set of people."""
    drawn = draw_people(find_style(style), seed, count=count, variants=2, held_out=held_out, held_out_variants=6)
    return [record_of(*person) for person in drawn]


def person(style: str = "avataaars", **looks: str) -> IdentitySpec:
    """Return a person with given looks and otherwise drawn ones."""
    drawn = draw_identity(find_style(style), "someone", random.Random(5))
    return IdentitySpec("someone", style, {**drawn.looks, **looks}, drawn.features)


def test_there_are_seven_styles() -> None:
    assert set(STYLES) == {
        "open-peeps", "lorelei", "notionists", "pixel-art", "personas", "big-smile", "avataaars"
    }  # fmt: skip


@pytest.mark.parametrize("key", STYLES)
def test_the_vocabulary_is_complete(key: str) -> None:
    style = find_style(key)
    assert set(style.slots) <= {*IDENTITY_SLOTS, *VARIANT_SLOTS}
    assert {look.coarse for look in style.slots["expression"].values()} <= set(EXPRESSIONS)
    assert {"happy", "laughing", "neutral", "sad"} <= {look.coarse for look in style.slots["expression"].values()}
    assert set(style.slots.get("hair_color", {})) <= COLORS
    for slot, looks in style.slots.items():
        for look in looks.values():
            assert look.words and look.words == look.words.strip()
            assert all(look.options.values())
            assert slot == "expression" or look.coarse is None
            if look.colored:
                assert COLOR_OF[slot] in style.slots, f"{key} {slot} {look.name} takes a colour that cannot be chosen"


@pytest.mark.parametrize("key", STYLES)
def test_colours_of_a_style_are_hex_values(key: str) -> None:
    for slot in ("hair_color", "skin", "clothing_color", "hat_color"):
        for look in find_style(key).slots.get(slot, {}).values():
            for values in look.options.values():
                assert all(re.fullmatch("[0-9a-f]{6}", value) for value in values)


@pytest.mark.parametrize("key", STYLES)
def test_held_out_people_are_in_no_training_picture(key: str) -> None:
    records = people(key)
    keys: dict[str, set[Any]] = {"train": set(), "held_out_identity": set()}
    names: dict[str, set[str]] = {"train": set(), "held_out_identity": set()}
    for record in records:
        keys[record["split"]].add(identity_of(record).key)
        names[record["split"]].add(record["identity"])
    assert len(keys["train"]) == len(names["train"]) == 60
    assert len(keys["held_out_identity"]) == len(names["held_out_identity"]) == 10
    assert not keys["train"] & keys["held_out_identity"]
    assert not names["train"] & names["held_out_identity"]


def test_held_out_people_do_not_depend_on_how_many_are_trained_on() -> None:
    few, many = people("personas", count=5), people("personas", count=50)
    held_out = [[r for r in records if r["split"] != "train"] for records in (few, many)]
    assert held_out[0] == held_out[1]


def test_people_depend_on_the_seed_alone() -> None:
    few = people.__wrapped__("lorelei", 3, 20, 5)
    assert few == people.__wrapped__("lorelei", 3, 20, 5)
    assert few != people("lorelei", 4, 20, 5)


@pytest.mark.parametrize("key", STYLES)
def test_records_hold_what_readers_need(key: str) -> None:
    for record in people(key):
        assert json.loads(json.dumps(record)) == record
        facts = record["attributes"]
        assert record["file"] == f"characters/{key}/{record['identity']}-{record['variant']}.png"
        assert facts["expression"] in EXPRESSIONS
        assert facts["has_glasses"] is (facts["glasses"] is not None)
        assert facts["has_hat"] in (None, facts["hat"] is not None)
        assert not facts["has_beard"] or facts["facial_hair"] is not None
        assert facts["hair_color"] is None or facts["hair"] is not None
        assert "{" not in json.dumps(list(facts.values()))


def test_variants_of_a_person_differ_and_the_first_held_out_one_is_plain() -> None:
    by_person: dict[str, list[dict[str, Any]]] = {}
    for record in people("avataaars"):
        by_person.setdefault(record["identity"], []).append(record)
    for records in by_person.values():
        assert len({json.dumps(r["looks"], sort_keys=True) for r in records}) == len(records)
        assert len({identity_of(r).key for r in records}) == 1
        if records[0]["split"] != "train":
            assert len(records) == 6
            first = records[0]["attributes"]
            assert first["glasses"] is first["hat"] is first["accessory"] is None


@pytest.mark.parametrize("key", STYLES)
def test_captions_are_short_true_and_name_the_style(key: str) -> None:
    rng = random.Random(0)
    for record in people(key):
        facts = record["attributes"]
        caption = describe(record, rng)
        assert len(caption.split()) <= 22
        assert find_style(key).name in caption
        assert "{" not in caption and "  " not in caption and not re.search(r"\ba [aeiou]", caption)
        rest = caption.replace(find_style(key).name, "")
        said = set(re.findall(r"[a-z]+", rest))
        if said & {"glasses", "sunglasses"}:
            assert facts["has_glasses"]
        if said & {"beanie", "cap"} or " hat" in rest:
            assert facts["hat"] is not None
        if said & {"beard", "bearded", "goatee"}:
            assert facts["has_beard"]
        words = json.dumps([value for value in facts.values() if isinstance(value, str)])
        for color in (COLORS | {"orange", "yellow", "teal"}) & said:
            assert color in words, f"{caption}: {color} is not among {words}"
        if re.search(r"\b(laughing|smiling|crying|winking|angry|sad|surprised)\b", rest):
            assert facts["expression_words"] in rest


def test_captions_depend_on_the_random_numbers_alone_and_vary() -> None:
    record = next(r for r in people("avataaars") if r["attributes"]["glasses"] and r["attributes"]["hair"])
    first = [describe(record, random.Random(n)) for n in range(40)]
    assert first == [describe(record, random.Random(n)) for n in range(40)]
    assert len(set(first)) > 20


def test_a_variant_is_drawn_from_names_alone() -> None:
    someone = person(hair="fro", hair_color="brown")
    laughing = someone.variant(expression="laughing", glasses="round", clothing="hoodie", clothing_color="green")
    options = drawing(someone, laughing).options
    assert options["clothing"] == ["hoodie"] and options["accessories"] == ["round"]
    assert options["accessoriesProbability"] == 100
    assert options["hairColor"] == options["facialHairColor"]
    assert all(len(value) == 1 for value in options.values() if isinstance(value, list))
    assert attributes(someone, laughing)["clothing"] == "green hoodie"
    assert drawing(someone, laughing) == drawing(someone, laughing)


def test_changing_one_property_leaves_all_others_alone() -> None:
    someone = person(hair="fro", hair_color="brown")
    plain = someone.variant(expression="happy")
    before, after = drawing(someone, plain), drawing(someone.changed(hair_color="green"), plain)
    changed = {option for option in before.options if before.options[option] != after.options[option]}
    assert changed == {"hairColor", "facialHairColor"}


def test_a_hat_hides_the_hair() -> None:
    someone = person(hair="fro", hair_color="brown")
    facts = attributes(someone, someone.variant(hat="hat", hat_color="red"))
    assert (facts["hair"], facts["hair_color"], facts["hat"], facts["has_hat"]) == (None, None, "red sun hat", True)
    veiled = attributes(someone, someone.variant(hat="hijab", hat_color="red"))
    assert veiled["hat"] == "red hijab" and veiled["has_hat"] is None


def test_looks_that_make_the_words_false_are_refused() -> None:
    someone = person()
    with pytest.raises(DataError, match=r"'someone' cannot be drawn.*eyes.*'laughing' and glasses 'kurt'"):
        someone.variant(expression="laughing", glasses="kurt")
    with pytest.raises(DataError, match=r"glasses 'round' and accessory 'eyepatch' are drawn in the same place"):
        someone.variant(glasses="round", accessory="eyepatch")
    veiled = person("open-peeps", hair="hijab")
    with pytest.raises(DataError, match="a hat does not go with a hijab"):
        veiled.variant(hat="beanie")
    assert conflict(someone, {"expression": "smiling", "glasses": "kurt"}) is None


def test_an_expression_may_be_a_class() -> None:
    bearded = person("personas", facial_hair="beardMustache")
    assert bearded.variant(expression="happy").looks["expression"] == "grinning"
    assert bearded.variant().looks["expression"] == "grinning"
    assert person("personas", facial_hair="goatee").variant(expression="sad").looks["expression"] == "sad"


def test_unknown_names_are_told_with_the_known_ones() -> None:
    someone = person()
    with pytest.raises(DataError, match=r"no style 'cartoon'; the styles are open-peeps, "):
        find_style("cartoon")
    with pytest.raises(DataError, match=r"'avataaars' has no glasses 'monocle'; it has prescription01, "):
        someone.variant(glasses="monocle")
    with pytest.raises(DataError, match=r"'lorelei' has no slot 'hat'; it has hair, "):
        person("lorelei").variant(hat="cap")
    with pytest.raises(DataError, match=r"'shoes' is no part of a variant; the parts are expression, "):
        someone.variant(shoes="boots")
    with pytest.raises(DataError, match=r"'glasses' is no part of an identity; the parts are hair, "):
        someone.changed(glasses="round")


def test_missing_node_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=r"'node' was not found.*Node\.js 20"):
        render_options([OptionSet("lorelei", {})], tmp_path)


def fake_node(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program called `node` first on the path."""
    program = folder / "node"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_an_old_node_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_node(tmp_path, "echo v18.20.2", monkeypatch)
    with pytest.raises(DataError, match=r"Node v18\.20\.2 was found; 20 or newer is needed"):
        render_variants([], tmp_path)


def test_the_message_of_node_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_node(tmp_path, "cat > /dev/null; echo 'Error: Cannot find module core' >&2; exit 1", monkeypatch)
    with pytest.raises(DataError, match=rf"1 characters .*{tmp_path} \(exit code 1, 0 drawn\): Error: Cannot find"):
        render_options([OptionSet("lorelei", {})], tmp_path)


def test_a_drawing_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_node(tmp_path, """cat > /dev/null; echo '{"error": "no such hair"}'""", monkeypatch)
    with pytest.raises(DataError, match="in style 'lorelei': no such hair"):
        render_options([OptionSet("lorelei", {})], tmp_path)


def test_a_drawing_is_cut_to_its_view(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_node(tmp_path, """cat > /dev/null; echo '{"svg": "<svg viewBox=\\\\"0 0 9 9\\\\"/>"}'""", monkeypatch)
    assert render_options([OptionSet("notionists", {}, "1 1 5 5")], tmp_path) == ['<svg viewBox="1 1 5 5"/>']


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "characters").write_text("in the way")
    with pytest.raises(StorageError, match=f"{tmp_path}/characters.* cannot be written"):
        list(characters.build_characters(tmp_path, tmp_path, count=1))
