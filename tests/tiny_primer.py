"""A training set that a test can build: a few SVG icons in the layout of the real packages, no npm needed."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from sfumato.data.primer.attributes import draw_identity, draw_variant
from sfumato.data.primer.build import build_primer, read_records
from sfumato.data.primer.characters import record_of
from sfumato.data.primer.icons import STYLES
from sfumato.data.primer.looks import load_styles
from sfumato.data.primer.packages import PACKAGES

CONCEPTS: dict[str, tuple[str, str, str, list[str]]] = {
    "1F984": ("unicorn", "animals-nature", "#e0f", ["face"]),
    "1F419": ("octopus", "animals-nature", "#a3c", ["ocean"]),
    "1F916": ("robot", "smileys-emotion", "#678", ["monster"]),
    "1F9F8": ("teddy bear", "activities", "#974", ["toy", "bear"]),
    "1F34E": ("red apple", "food-drink", "#d22", ["fruit", "apple"]),
    "1F34F": ("green apple", "food-drink", "#2a2", ["fruit", "apple"]),
    "1F98A": ("fox", "animals-nature", "#e62", ["animal"]),
    "1F3E0": ("house", "travel-places", "#b52", ["home", "unicorn"]),
    "1F697": ("automobile", "travel-places", "#26c", ["car"]),
    "1F46E-200D-2642-FE0F": ("man police officer", "people-body", "#039", ["cop"]),
    "1F9D4-200D": ("man: red hair", "people-body", "#c31", ["adult"]),
    "1F534": ("red circle", "symbols", "#e11", ["geometric"]),
    "1F170": ("A button (blood type)", "symbols", "#b11", ["blood"]),
}
LEFT_OUT: dict[str, tuple[str, str]] = {
    "1F1EB-1F1F7": ("flag: France", "country-flag"),
    "0031-FE0F-20E3": ("keycap: 1", "keycap"),
    "1F6B6-27A1": ("person walking: facing right", "person"),
}
GROUPS = ("smileys-emotion", "people-body", "component", "animals-nature", "food-drink", "travel-places",
          "activities", "objects", "symbols", "flags")  # fmt: skip
SUBGROUPS = ("person", "country-flag", "subdivision-flag", "keycap")


def icon_name(label: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in label.lower()).replace("--", "-").strip("-")


def write_packages(modules: Path, **broken: str) -> Path:
    """Write a `node_modules` folder; `broken` replaces the SVG body of a concept in every set."""
    for package in PACKAGES:
        write_json(modules / package.name / "package.json", {"name": package.name, "version": package.version})
    write_emoji_data(modules / "emojibase-data")
    for number, (style, package_name) in enumerate(STYLES.items()):
        write_icon_set(modules / package_name, style, 32 + 4 * number, broken)
    return modules


def write_emoji_data(folder: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"hexcode": code, "label": label, "group": GROUPS.index(group), "subgroup": 0, "tags": tags}
        for code, (label, group, _, tags) in CONCEPTS.items()
    ]
    entries += [
        {"hexcode": code, "label": label, "group": 9, "subgroup": SUBGROUPS.index(subgroup)}
        for code, (label, subgroup) in LEFT_OUT.items()
    ]
    entries.append({"hexcode": "1F1E6", "label": "regional indicator A"})
    write_json(folder / "en/data.json", entries)
    write_json(
        folder / "en/messages.json",
        {
            "groups": [{"key": key, "order": order} for order, key in enumerate(GROUPS)],
            "subgroups": [{"key": key, "order": order} for order, key in enumerate(SUBGROUPS)],
        },
    )
    write_json(folder / "meta/unicode-names.json", {"1F697": "AUTOMOBILE", "1F3E0": "HOUSE BUILDING"})


def write_icon_set(folder: Path, style: str, size: int, broken: dict[str, str]) -> None:
    """Write one set; every set has its own habits, as the real ones have."""
    icons: dict[str, Any] = {}
    aliases: dict[str, Any] = {}
    chars: dict[str, str] = {}
    for code, (label, _, colour, _) in CONCEPTS.items():
        name, half = icon_name(label), size / 2
        body = f'<circle cx="{half}" cy="{half}" r="{size * 0.45}" fill="{colour}"/>'
        if label == "fox":  # left and right differ
            body = f'<path d="M{size * 0.1} {half} L{size * 0.9} {size * 0.2} V{size * 0.8} Z" fill="{colour}"/>'
        chars[code.lower().replace("-fe0f", "")] = name
        icons[name] = {"body": broken.get(name, body)}
    if style == "noto":
        icons["unicorn-face"] = icons.pop("unicorn")
        aliases["unicorn"] = {"parent": "unicorn-face"}
        chars["1f984"] = "unicorn-face"
        aliases["dwelling"] = {"parent": "house"}
        aliases["apple"] = {"parent": "red-apple"}
    if style == "blob":  # neither code points nor the bear
        chars = {}
        icons["house-building"] = icons.pop("house")
        del icons["teddy-bear"]
    if style == "twemoji":
        icons["fox"]["hidden"] = True
    write_json(folder / "icons.json", {"icons": icons, "aliases": aliases, "width": size, "height": size})
    write_json(folder / "chars.json", chars)


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def build_tiny_primer(folder: Path, *, characters: bool = True, seed: int = 0) -> Path:
    """Build a set of icons through the real code, and put a few people with true records and simple pictures beside."""
    modules = write_packages(folder / "node_modules")
    out = folder / "primer"
    for _ in build_primer(out, seed=seed, packages_dir=modules, characters=False, workers=1):
        pass
    if characters:
        write_people(out)
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        write_json(out / "manifest.json", {**manifest, "characters": True})
    assert read_records(out / "icons.jsonl")
    return out


def write_people(out: Path) -> None:
    """Write people of every style, three for training and one held out, two pictures each."""
    lines = []
    for style in load_styles().values():
        rng = random.Random(style.key)
        for index in range(4):
            person = draw_identity(style, f"{style.key}-{index}", rng)
            split = "held_out_identity" if index == 3 else "train"
            for number in range(2):
                record = record_of(person, draw_variant(person, rng), number, split)
                lines.append(json.dumps(record) + "\n")
                path = out / record["file"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(portrait())
    (out / "characters.jsonl").write_text("".join(lines), encoding="utf-8")


def portrait() -> bytes:
    """Head and shoulders, cut off at the lower edge."""
    image = Image.new("RGBA", (128, 128))
    draw = ImageDraw.Draw(image)
    draw.ellipse((44, 20, 84, 72), fill=(240, 190, 150, 255))
    draw.rectangle((24, 76, 104, 127), fill=(30, 90, 200, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
