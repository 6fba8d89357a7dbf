"""Building the training set from tiny packages in the layout of the real ones."""

from __future__ import annotations

import functools
import json
from importlib.metadata import PackageNotFoundError
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fake_node import install_fake_node
from sfumato.data.primer import build_primer
from sfumato.data.primer.build import read_records
from sfumato.data.primer.characters import build_characters, render_variants
from sfumato.data.primer.concepts import HELD_OUT_CONCEPTS, natural_label, read_concepts, slug, split_pairs
from sfumato.data.primer.icons import STYLES, Drawing, IconSet, render, render_all
from sfumato.data.primer.library import Primer
from sfumato.data.primer.looks import load_styles
from sfumato.errors import ConfigError, DataError, StorageError, UnreadableImage
from sfumato.events import Artifact, Done, Notice, Progress
from tiny_primer import CONCEPTS, build_tiny_primer, write_json, write_packages


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_primer(tmp_path_factory.mktemp("built"))


def test_icons_are_found_under_every_name(built: Path) -> None:
    primer = Primer.open(built)
    for style in STYLES:
        for concept in ("unicorn", "octopus", "robot", "red-apple", "house", "man-police-officer"):
            assert primer.icon(concept, style).style == style
    assert primer.icon("teddy-bear", "noto").split == "held_out_concept"


def test_flags_keycaps_and_mirrored_people_are_left_out(built: Path) -> None:
    concepts = {icon.concept for icon in Primer.open(built).icons}
    assert len(concepts) == len(CONCEPTS)
    assert not any("flag" in name or "keycap" in name or "facing" in name for name in concepts)


def test_withdrawn_icons_are_not_used(built: Path) -> None:
    with pytest.raises(DataError, match="no icon 'fox' in style 'twemoji': it has the styles blob, flat, fluent, noto"):
        Primer.open(built).icon("fox", "twemoji")
    with pytest.raises(DataError, match="no icon 'dragon' in style 'noto': it has no such concept"):
        Primer.open(built).icon("dragon", "noto")


def test_held_out_words_do_not_leak(built: Path) -> None:
    for icon in Primer.open(built).icons:
        for owner, words in HELD_OUT_CONCEPTS.items():
            if icon.concept != owner:
                assert not set(words) & set(" ".join((*icon.keywords, *icon.synonyms)).split())


def test_other_names_become_synonyms(built: Path) -> None:
    primer = Primer.open(built)
    assert primer.icon("unicorn", "flat").synonyms == ("unicorn face",)
    assert primer.icon("house", "flat").synonyms == ("dwelling",)
    assert primer.icon("red-apple", "flat").synonyms == ("apple",)


def test_pictures_are_rgba_and_right(built: Path) -> None:
    image = Image.open(built / "icons/fluent/red-circle.png")
    assert (image.mode, image.size) == ("RGBA", (128, 128))
    assert image.getpixel((64, 64)) == (238, 17, 17, 255)
    assert image.getpixel((1, 1)) == (0, 0, 0, 0)


def test_the_manifest_says_what_was_made(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    records = read_records(built / "icons.jsonl")
    assert manifest["counts"]["icons"] == len(records) == len(CONCEPTS) * 5 - 2
    assert manifest["counts"]["icons_by_style"]["blob"] == len(CONCEPTS) - 1
    assert manifest["counts"]["icons_by_split"]["held_out_concept"] == 24
    assert {source["package"] for source in manifest["sources"]} >= set(STYLES.values())
    assert all(source["licence"] and source["attribution"] for source in manifest["sources"])


def test_the_same_packages_give_the_same_set(tmp_path: Path, built: Path) -> None:
    again, other = build_tiny_primer(tmp_path / "a"), build_tiny_primer(tmp_path / "b", seed=1)
    hashes = [json.loads((folder / "manifest.json").read_text())["sha256"] for folder in (built, again, other)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_events_tell_the_whole_build(tmp_path: Path) -> None:
    modules = write_packages(tmp_path / "modules", house="<circle")
    events = list(build_primer(tmp_path / "out", packages_dir=modules, characters=False, workers=1))
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert notices[0] == "The held-out concept 'teddy-bear' is not drawn in blob."
    assert notices[1].startswith("Icon house of noto was skipped: ")
    assert len(notices) == 1 + len(STYLES)
    last = [event for event in events if isinstance(event, Progress)][-1]
    assert last.done == last.total == len(CONCEPTS) * 5 - 2
    assert isinstance(events[-2], Artifact)
    assert isinstance(events[-1], Done)


def test_an_unfinished_set_is_not_opened(tmp_path: Path) -> None:
    modules = write_packages(tmp_path / "modules")
    build = build_primer(tmp_path / "out", packages_dir=modules, characters=False, workers=1)
    for event in build:
        if isinstance(event, Progress) and event.phase == "render icons":
            break
    build.close()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"out is not a finished training set: manifest\.json cannot be read"):
        Primer.open(tmp_path / "out")
    list(build_primer(tmp_path / "out", packages_dir=modules, characters=False, workers=1))
    assert Primer.open(tmp_path / "out").icons
    assert not (tmp_path / "out" / "unfinished").exists()


def test_building_again_replaces_what_was_there(tmp_path: Path) -> None:
    out = build_tiny_primer(tmp_path)
    (out / "icons/noto/stale.png").write_bytes(b"x")
    build_tiny_primer(tmp_path, characters=False)
    assert not (out / "icons/noto/stale.png").exists()
    assert not (out / "characters").exists()
    assert Primer.open(out).characters == ()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "icons").mkdir()
    (tmp_path / "icons" / "logo.svg").write_text("<svg/>")
    for manifest in (None, "[", '{"name": "my app"}'):
        if manifest is not None:
            (tmp_path / "manifest.json").write_text(manifest)
        with pytest.raises(ConfigError, match="is not empty and holds no training set; needed: a new folder"):
            list(build_primer(tmp_path, packages_dir=tmp_path))
    assert (tmp_path / "icons" / "logo.svg").is_file()


def test_a_held_out_concept_must_exist(tmp_path: Path) -> None:
    modules = write_packages(tmp_path / "modules")
    for package in STYLES.values():
        content = json.loads((modules / package / "icons.json").read_text())
        del content["icons"]["robot"]
        write_json(modules / package / "icons.json", content)
    with pytest.raises(DataError, match="held-out concept 'robot' is in none of the icon sets noto, blob"):
        list(build_primer(tmp_path / "out", packages_dir=modules, characters=False, workers=1))


def test_a_missing_renderer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("sfumato.data.primer.packages.version", missing)
    with pytest.raises(DataError, match=r"'resvg_py', which renders .* pip install --editable '\.\[train\]'"):
        list(build_primer(tmp_path / "out", characters=False))
    with pytest.raises(DataError, match="'resvg_py', which renders the pictures, is not installed"):
        render_variants([], tmp_path)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("version", "message"),
    [(None, "'node' was not found"), ("v18.20.2", r"Node v18\.20\.2 was found; 20 or newer is needed")],
)
def test_without_a_usable_node_the_finished_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, message: str
) -> None:
    out = build_tiny_primer(tmp_path)
    before = contents(out)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    if version is not None:
        install_fake_node(tmp_path, monkeypatch, version)
    with pytest.raises(DataError, match=message):
        list(build_primer(out, packages_dir=tmp_path / "node_modules", workers=1))
    assert contents(out) == before


def test_people_are_drawn_by_node_without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    install_fake_node(tmp_path, monkeypatch)
    few = functools.partial(build_characters, count=1, variants=1, held_out=1, held_out_variants=1)
    monkeypatch.setattr("sfumato.data.primer.build.build_characters", few)
    modules = write_packages(tmp_path / "modules")
    list(build_primer(tmp_path / "out", packages_dir=modules, workers=1))
    assert len(Primer.open(tmp_path / "out").characters) == 2 * len(load_styles())


def test_damaged_packages_are_named(tmp_path: Path) -> None:
    modules = write_packages(tmp_path / "modules")
    (modules / "emojibase-data/en/data.json").write_text("[")
    with pytest.raises(DataError, match=r"data\.json cannot be read as JSON: Expecting value"):
        list(build_primer(tmp_path / "out", packages_dir=modules, characters=False, workers=1))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    modules = write_packages(tmp_path / "modules")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="The folder .*file/out cannot be written: Not a directory"):
        list(build_primer(tmp_path / "file/out", packages_dir=modules, characters=False, workers=1))


@pytest.mark.slow
def test_several_processes_give_the_same_pictures(tmp_path: Path) -> None:
    modules = write_packages(tmp_path / "modules")
    icon_set = IconSet.open(modules, STYLES["noto"])
    svgs = [icon_set.svg([name]) for name in ("house", "fox")]
    drawings = [Drawing("noto", "x", svg) for svg in svgs if svg is not None]
    assert list(render_all(drawings, 2)) == list(render_all(drawings, 1))


def test_aliases_mirror_and_turn() -> None:
    body = '<rect width="8" height="16" fill="#f00"/>'
    content = {
        "icons": {"left": {"body": body}, "gone": {"body": body, "hidden": True}},
        "aliases": {
            "right": {"parent": "left", "hFlip": True},
            "again": {"parent": "right", "hFlip": True},
            "upper": {"parent": "left", "rotate": 1},
            "lower": {"parent": "upper", "hFlip": True},
            "withdrawn": {"parent": "left", "hidden": True},
            "orphan": {"parent": "nothing"},
        },
        "width": 16,
        "height": 16,
    }
    icon_set = IconSet(content)
    red = {name: red_side(icon_set.svg([name])) for name in ("left", "right", "again", "upper", "lower")}
    assert red == {"left": "left", "right": "right", "again": "left", "upper": "top", "lower": "bottom"}
    assert icon_set.svg(["gone", "withdrawn", "orphan", "unknown"]) is None
    assert icon_set.svg(["gone", "left"]) == icon_set.svg(["left"])


def red_side(svg: str | None) -> str:
    """Tell which half of the rendered picture is filled."""
    assert svg is not None
    png = render(Drawing("noto", "x", svg)).png
    assert png is not None
    alpha = np.asarray(Image.open(BytesIO(png)).getchannel("A")) > 127
    sides = {"left": alpha[:, :64], "right": alpha[:, 64:], "top": alpha[:64], "bottom": alpha[64:]}
    return next(name for name, half in sides.items() if half.all())


def test_splits_hold_out_five_percent() -> None:
    pairs = [(f"thing-{n}", style) for n in range(100) for style in STYLES]
    pairs += [("robot", style) for style in STYLES] + [("rare", "noto"), ("rare", "flat")]
    splits = split_pairs(pairs, 0)
    held_out = [pair for pair, split in splits.items() if split == "held_out_pair"]
    assert len(held_out) == round(0.05 * len(pairs))
    assert len({concept for concept, _ in held_out}) == len(held_out)
    assert {splits["robot", style] for style in STYLES} == {"held_out_concept"}
    assert splits["rare", "noto"] == "train"
    assert splits == split_pairs(reversed(pairs), 0) != split_pairs(pairs, 1)


@pytest.mark.parametrize(
    ("label", "natural", "key"),
    [
        ("person: blond hair", "person with blond hair", "person-blond-hair"),
        ("man: bald", "bald man", "man-bald"),
        ("AB button (blood type)", "blood type ab button", "ab-button-blood-type"),
        ("woman’s hat", "woman's hat", "womans-hat"),
        ("piñata", "pinata", "pinata"),
        ("ON! arrow", "on arrow", "on-arrow"),
    ],
)
def test_labels_read_naturally(label: str, natural: str, key: str) -> None:
    assert (natural_label(label), slug(label)) == (natural, key)


def test_concepts_keep_the_order_of_the_standard(tmp_path: Path) -> None:
    concepts = read_concepts(write_packages(tmp_path), tuple(STYLES.values()))
    assert [concept.hexcode for concept in concepts][:2] == ["1f984", "1f419"]
    assert next(c for c in concepts if c.key == "man-police-officer").hexcode == "1f46e-200d-2642"


def test_records_with_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read: No such file"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[1]\n')
    with pytest.raises(DataError, match=r"a\.jsonl, line 2 is not a JSON object"):
        read_records(tmp_path / "a.jsonl")


def test_opening_names_what_is_wrong(tmp_path: Path) -> None:
    out = build_tiny_primer(tmp_path, characters=False)
    (out / "icons/noto/house.png").write_bytes(b"no picture")
    Image.new("RGBA", (128, 128)).save(out / "icons/noto/fox.png")
    primer = Primer.open(out)
    with pytest.raises(UnreadableImage, match=r"noto/house\.png of the training set cannot be read"):
        primer.sprite("icons/noto/house.png")
    with pytest.raises(UnreadableImage, match=r"noto/fox\.png of the training set is empty"):
        primer.sprite("icons/noto/fox.png")
    (out / "icons.jsonl").write_text('{"concept": "a", "keywords": []}\n')
    with pytest.raises(DataError, match=r"icons\.jsonl: a record lacks 'style'"):
        Primer.open(out)
    write_json(out / "manifest.json", {"format": 99})
    with pytest.raises(DataError, match="has format 99; this version reads 1"):
        Primer.open(out)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    out = build_tiny_primer(tmp_path)
    manifest = json.loads((out / "manifest.json").read_text())
    write_json(out / "manifest.json", {**manifest, "vocabulary": "0123456789abcdef"})
    with pytest.raises(DataError, match="another vocabulary than this version has .hash 01234567 instead of"):
        Primer.open(out)


def test_the_cache_keeps_to_its_room(built: Path) -> None:
    primer = Primer.open(built, cache_bytes=200_000)
    for icon in primer.icons:
        sprite = primer.sprite(icon.file)
        assert sprite.image.mode == "RGBa"
    assert primer.used_bytes <= 200_000
    again = primer.sprite(primer.icons[0].file)
    assert again is primer.sprite(primer.icons[0].file)
