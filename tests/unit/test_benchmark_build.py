"""A benchmark with truth: who is in it, what is asked, and that the picture is the one asked for."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from drawn_primer import drawn_primer, portrait
from sfumato.data.benchmark.build import build_benchmark
from sfumato.data.benchmark.changes import Change, changes, training_variants
from sfumato.data.benchmark.icons import WORDS
from sfumato.data.benchmark.people import plan_people
from sfumato.data.benchmark.schema import Benchmark, open_benchmark
from sfumato.data.captions import MAX_WORDS, count_words
from sfumato.data.primer.attributes import IdentitySpec, Variant, attributes, conflict, draw_identity, draw_variant
from sfumato.data.primer.concepts import HELD_OUT_CONCEPTS
from sfumato.data.primer.library import Primer
from sfumato.data.primer.looks import load_styles
from sfumato.errors import ConfigError, DataError
from sfumato.events import Artifact
from sfumato.training.subject import subject_caption
from tiny_primer import build_tiny_primer

People = Sequence[tuple[IdentitySpec, Variant]]
SLOTS = {
    "expression": {"expression"},
    "accessory": {"glasses", "hat", "hat_color", "accessory"},
    "garment": {"clothing", "clothing_color"},
    "property": set(),
    "background": set(),
}


def paint_people(people: People, packages: Path) -> list[NDArray[np.uint8]]:
    """Draw people without Node, so that attributes show."""
    return [np.asarray(portrait(attributes(*person))) for person in people]


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Primer:
    return Primer.open(build_tiny_primer(tmp_path_factory.mktemp("data")))


def build(out: Path, primer: Primer, seed: int = 0, count: int = 3, icons: bool = True, pictures: int = 4) -> Benchmark:
    settings = {"seed": seed, "count": count, "icons": icons, "pictures": pictures}
    events = list(build_benchmark(out, primer, **settings, packages=out, draw=paint_people))
    artifact = next(event for event in events if isinstance(event, Artifact))
    assert artifact.path == out and artifact.info["subjects"] == count + (5 if icons else 0)
    return open_benchmark(out)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def someone(style: str, seed: int) -> tuple[IdentitySpec, list[Variant], list[Change]]:
    rng = random.Random(f"{style}/{seed}")
    person = draw_identity(load_styles()[style], f"{style}-{seed}", rng)
    seen = training_variants(person, [draw_variant(person, rng, plain=True)], rng)
    return person, seen, changes(person, seen, rng)


@pytest.mark.parametrize("style", list(load_styles()))
def test_a_change_changes_one_thing_that_no_training_picture_shows(style: str) -> None:
    kinds = set()
    for seed in range(25):
        person, seen, asked = someone(style, seed)
        assert len(seen) == 4 and all(seen.count(variant) == 1 for variant in seen)
        plain = {slot: name for slot, name in seen[0].looks.items() if slot not in SLOTS["accessory"]}
        expressions = {attributes(person, variant)["expression"] for variant in seen}
        for change in asked:
            kinds.add(change.kind)
            looks = change.variant.looks
            moved = {slot for slot in {*looks, *plain} if looks.get(slot) != plain.get(slot)}
            assert moved <= SLOTS[change.kind], (change, plain)
            assert conflict(change.identity, looks) is None
            assert (change.identity == person) == (change.kind != "property")
            facts = attributes(change.identity, change.variant)
            if change.kind == "expression":
                assert facts["expression"] not in expressions
            elif change.kind in ("accessory", "garment"):
                assert moved and all(any(looks.get(s) != v.looks.get(s) for s in moved) for v in seen)
            elif change.kind == "property":
                assert change.named <= {"hair_color", "facial_hair"}
                assert facts[next(iter(change.named))] != attributes(person, change.variant)[next(iter(change.named))]
        for kind in kinds:
            same = [change for change in asked if change.kind == kind]
            assert len(same) <= 2
    assert {"expression", "accessory", "background"} <= kinds


def test_one_seed_one_benchmark(primer: Primer, tmp_path: Path) -> None:
    one, two = build(tmp_path / "one", primer), build(tmp_path / "two", primer)
    assert one == two and files(tmp_path / "one") == files(tmp_path / "two")
    assert build(tmp_path / "three", primer, seed=1) != one


@pytest.mark.parametrize("pictures", [1, 2, 5])
def test_one_to_five_pictures_to_learn_from(primer: Primer, tmp_path: Path, pictures: int) -> None:
    benchmark = build(tmp_path / "out", primer, pictures=pictures)
    for subject in benchmark.subjects:
        assert len(subject.pictures) == pictures
        contents = {(tmp_path / "out" / picture.file).read_bytes() for picture in subject.pictures}
        assert len(contents) == len({picture.ground for picture in subject.pictures}) == pictures
        asked = {prompt.text for prompt in subject.prompts}
        assert all(picture.ground not in text for picture in subject.pictures for text in asked)


def test_what_is_written(primer: Primer, tmp_path: Path) -> None:
    benchmark = build(tmp_path / "out", primer, count=7)
    people, icons = benchmark.subjects[:7], benchmark.subjects[7:]
    assert [subject.name for subject in icons] == list(HELD_OUT_CONCEPTS)
    assert len({subject.style for subject in people}) == 7, "styles take turns"
    held_out = {record["identity"] for record in primer.characters if record["split"] != "train"}
    assert {subject.name for subject in people} <= held_out
    assert benchmark.primer == primer.manifest["sha256"]
    for subject in benchmark.subjects:
        assert benchmark.licences[subject.licence].licence
        assert len(subject.pictures) == 4
        assert len({picture.ground for picture in subject.pictures}) == 4
        assert len({picture.size for picture in subject.pictures}) == 4
        for picture in subject.pictures:
            text = (tmp_path / "out" / picture.file).with_suffix(".txt").read_text().strip()
            assert text == picture.caption and subject.class_noun in text and "{}" not in text
            named = subject_caption(text, "<it>", subject.class_noun)
            assert named == text.replace(f" {subject.class_noun}", " <it>", 1)
            assert not picture.ground.endswith("a white background")
            words = subject.prompts[0].words.split()
            hair = words[words.index("hair") - 1] if "hair" in words else "none"
            assert hair.replace("gray", "grey") not in picture.ground.split()
        for prompt in subject.prompts:
            assert f" {subject.class_noun} " not in f" {prompt.text} "
            assert count_words(prompt.words) <= MAX_WORDS and count_words(prompt.text) <= MAX_WORDS
            with Image.open(tmp_path / "out" / prompt.unchanged) as picture:
                before = np.asarray(picture).astype(int)
            with Image.open(tmp_path / "out" / prompt.truths[0]) as picture:
                moved = np.abs(np.asarray(picture).astype(int) - before).max(axis=2) > 8
            if prompt.kind in ("background", "place", "beside"):  # the simple portraits show not every other change
                assert moved.mean() > 0.05
            for file in prompt.truths:
                with Image.open(tmp_path / "out" / file) as picture:
                    assert picture.size == (128, 128) and picture.mode == "RGB"


def test_icons_are_asked_for_in_words_that_give_nothing_away(primer: Primer, tmp_path: Path) -> None:
    benchmark = build(tmp_path / "out", primer, count=0)
    kinds = [prompt.kind for prompt in benchmark.subjects[0].prompts]
    assert kinds == ["background"] * 2 + ["place"] * 2 + ["beside"] * 2 + ["style"] * 2
    for subject in benchmark.subjects:
        secret = HELD_OUT_CONCEPTS[subject.name]
        texts = [subject.class_noun, *(prompt.words for prompt in subject.prompts)]
        assert not [text for text in texts if set(secret) & set(text.split())]
        assert set(WORDS) == set(HELD_OUT_CONCEPTS)
        styles = [prompt.text.split()[2] for prompt in subject.prompts if prompt.kind == "style"]
        assert subject.style not in styles and len(set(styles)) == 2
        assert all(len(prompt.truths) == (2 if prompt.kind in ("place", "beside") else 1) for prompt in subject.prompts)


def test_pictures_that_exist_are_not_drawn_again(primer: Primer, tmp_path: Path) -> None:
    asked: list[tuple[IdentitySpec, Variant]] = []

    def watch(people: People, packages: Path) -> list[NDArray[np.uint8]]:
        asked.extend(people)
        return paint_people(people, packages)

    list(build_benchmark(tmp_path / "out", primer, count=2, icons=False, packages=tmp_path, draw=watch))
    plans = plan_people(primer, 2, 0)
    wanted = [drawing for plan in plans for drawing in plan.drawings]
    existing = [(plan.identity, variant) for plan in plans for variant in plan.seen[:2]]
    assert 0 < len(asked) < len(wanted)
    assert not [drawing for drawing in existing if drawing in asked]


@pytest.mark.parametrize(
    ("count", "icons", "message"),
    [
        (0, False, "0 characters and no icons were asked for; needed: at least one subject"),
        (8, True, "8 characters were asked for; .* holds out 7 people. Ask for fewer"),
    ],
)
def test_what_cannot_be_built(count: int, icons: bool, message: str, primer: Primer, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        list(build_benchmark(tmp_path / "out", primer, count=count, icons=icons, draw=paint_people))
    assert caught.value.field == "count"
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(primer: Primer, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match=f"'{tmp_path}' exists and is not empty; needed: a new folder"):
        list(build_benchmark(tmp_path, primer, count=0))
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_an_empty_folder_that_one_works_in_is_filled(
    primer: Primer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "new", primer, count=1, icons=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    build(Path(), primer, count=1, icons=False)
    assert files(Path()) == files(tmp_path / "new") and Path().resolve() == tmp_path / "here"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "new"]


def test_sets_without_what_is_needed(tmp_path: Path) -> None:
    bare = drawn_primer(tmp_path / "bare")
    with pytest.raises(DataError, match="no icon of the held-out concept 'unicorn'. Build the set again"):
        list(build_benchmark(tmp_path / "out", bare, count=0))
    with pytest.raises(DataError, match="names no licence for the style 'avataaars'; it names none"):
        list(build_benchmark(tmp_path / "out", bare, count=1, icons=False, packages=tmp_path, draw=paint_people))


def test_damaged_benchmarks(primer: Primer, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    build(folder, primer, count=1, icons=False)
    whole = json.loads((folder / "benchmark.json").read_text())

    def refused(change: dict[str, object]) -> str:
        subject = {**whole["subjects"][0], **change}
        (folder / "benchmark.json").write_text(json.dumps({**whole, "subjects": [subject]}))
        with pytest.raises(DataError) as caught:
            open_benchmark(folder)
        return str(caught.value)

    assert "subjects.0.kind is 'place': input should be 'character' or 'icon'" in refused({"kind": "place"})
    assert "subjects.0.colour is 'red': extra inputs are not permitted" in refused({"colour": "red"})
    prompt = whole["subjects"][0]["prompts"][0]
    assert "text is 'a {} and {}': needed exactly one {}" in refused({"prompts": [{**prompt, "text": "a {} and {}"}]})
    outside = refused({"prompts": [{**prompt, "truths": ["../secret.png"]}]})
    assert "truths.0 is '../secret.png': needed a path within the folder" in outside
    assert "lacks 1 of" in refused({"prompts": [{**prompt, "truths": ["no.png"]}]})
    (folder / "benchmark.json").write_text("{")
    with pytest.raises(DataError, match=r"is no benchmark: benchmark.json cannot be read. Build it again"):
        open_benchmark(folder)
