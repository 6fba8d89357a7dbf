"""Draw real people with Node and the real packages; run by hand with -m slow.

The packages are looked for where `sfumato data primer` keeps them, or in the folder that SFUMATO_NODE_MODULES names.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data.primer.attributes import drawing
from sfumato.data.primer.characters import (
    build_characters,
    draw_people,
    identity_of,
    render_options,
    render_variants,
)
from sfumato.data.primer.looks import load_styles
from sfumato.data.primer.packages import default_cache
from sfumato.events import Artifact


def packages() -> Path | None:
    """Return a folder with the DiceBear packages, if there is one."""
    named = os.environ.get("SFUMATO_NODE_MODULES")
    folders = [Path(named)] if named else sorted(default_cache().glob("packages-*/node_modules"))
    return next((folder for folder in folders if (folder / "@dicebear/core").is_dir()), None)


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(packages() is None, reason="the DiceBear packages are not installed"),
]


def test_every_look_can_be_drawn_and_shows() -> None:
    folder = packages()
    assert folder is not None
    for style in load_styles().values():
        someone, variant, _, _ = next(draw_people(style, 0, count=0, variants=1, held_out=1, held_out_variants=1))
        hair = next(name for name, look in style.slots["hair"].items() if not look.hides and not look.headwear)
        looks = {"hair": hair} | ({"hair_color": "green"} if "hair_color" in style.slots else {})
        base = someone.changed(facial_hair=None, **looks)
        people = [(base, variant)]
        for slot in ("hair", "facial_hair"):
            people += [(base.changed(**{slot: name}), variant) for name in style.slots[slot] if name != hair]
        for slot in ("glasses", "hat", "accessory"):
            people += [(base, base.variant(**{slot: name})) for name in style.slots.get(slot, {})]
        svgs = render_options([drawing(*person) for person in people], folder)
        assert len(set(svgs)) == len(svgs), style.key


def test_a_small_set_is_the_same_every_time(tmp_path: Path) -> None:
    folder = packages()
    assert folder is not None
    for name, workers in (("one", 1), ("two", 2)):
        events = list(
            build_characters(
                tmp_path / name, folder, count=2, held_out=1, variants=2, held_out_variants=2, workers=workers
            )
        )
        assert isinstance(events[-1], Artifact) and events[-1].info["characters"] == 7 * 6
    lines = (tmp_path / "one/characters.jsonl").read_text().splitlines()
    assert lines == (tmp_path / "two/characters.jsonl").read_text().splitlines()
    for record in map(json.loads, lines):
        one, two = (tmp_path / name / record["file"] for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
        picture = Image.open(one)
        assert picture.mode == "RGBA" and picture.size == (128, 128)
        alpha = np.asarray(picture)[..., 3]
        assert alpha.min() == 0 and (alpha > 0).mean() > 0.2


def test_a_property_changes_where_it_is_and_nowhere_else() -> None:
    folder = packages()
    assert folder is not None
    style = load_styles()["avataaars"]
    someone, _, _, _ = next(draw_people(style, 0, count=0, variants=1, held_out=1, held_out_variants=1))
    person = someone.changed(hair="bob", hair_color="blond", facial_hair=None)
    variant = person.variant(expression="laughing", clothing="hoodie")
    before, after = render_variants([(person, variant), (person.changed(hair_color="green"), variant)], folder)
    changed = np.abs(before.astype(int) - after.astype(int)).max(axis=2) > 8
    assert 0.05 < changed.mean() < 0.5
    assert not changed[100:].any(), "the hoodie stays as it is"


def test_a_record_is_enough_to_draw_its_picture_again(tmp_path: Path) -> None:
    folder = packages()
    assert folder is not None
    list(build_characters(tmp_path, folder, count=1, variants=1, held_out=0, workers=1))
    for record in map(json.loads, (tmp_path / "characters.jsonl").read_text().splitlines()):
        someone = identity_of(record)
        shown = {slot: name for slot, name in record["looks"].items() if slot not in someone.looks}
        [picture] = render_variants([(someone, someone.variant(**shown))], folder)
        assert np.array_equal(picture, np.asarray(Image.open(tmp_path / record["file"])))
