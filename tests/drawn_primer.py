"""A training set drawn in code whose truths can be seen: shapes as icons, people with every attribute painted."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from sfumato.data.backgrounds import COLOURS
from sfumato.data.primer.attributes import draw_identity, draw_variant
from sfumato.data.primer.characters import record_of
from sfumato.data.primer.library import IconRecord, Primer
from sfumato.data.primer.looks import load_styles

STYLES = ("flat", "blob", "noto")
SHAPES = ("disc", "ring", "square", "bar", "triangle", "star", "cross", "ladder")
INKS = {"crimson": (200, 30, 60), "emerald": (20, 160, 90)}
PEOPLE_STYLES = ("open-peeps", "avataaars")


def drawn_primer(folder: Path, *, people: bool = True) -> Primer:
    """Write the pictures and open them as a set: 16 concepts in 3 styles, one pair in eight held out."""
    icons = []
    for number, (shape, ink) in enumerate((shape, ink) for shape in SHAPES for ink in INKS):
        for place, style in enumerate(STYLES):
            concept = f"{ink}-{shape}"
            split = "held_out_pair" if number % 3 == place and number % 2 == 0 else "train"
            file = f"icons/{style}/{concept}.png"
            write(folder / file, icon(shape, INKS[ink], style))
            icons.append(IconRecord(concept, style, f"{ink} {shape}", "objects", (), (), (), split, file))
    records = write_people(folder) if people else []
    return Primer(folder, icons, records, {"sha256": "0" * 64})


def write_people(folder: Path) -> list[dict[str, Any]]:
    records = []
    for key in PEOPLE_STYLES:
        rng = random.Random(key)
        for index in range(70):
            person = draw_identity(load_styles()[key], f"{key}-{index}", rng)
            record = record_of(person, draw_variant(person, rng), 0, "train" if index < 50 else "held_out_identity")
            write(folder / record["file"], portrait(record["attributes"]))
            records.append(json.loads(json.dumps(record)))
    return records


def icon(shape: str, ink: tuple[int, int, int], style: str) -> Image.Image:
    """Draw a shape, plain, with a thick outline, or with white dots."""
    image = Image.new("RGBA", (128, 128))
    draw = ImageDraw.Draw(image)
    fill = (*ink, 255)
    if shape == "disc":
        draw.ellipse((8, 8, 120, 120), fill=fill)
    elif shape == "ring":
        draw.ellipse((8, 8, 120, 120), outline=fill, width=26)
    elif shape == "square":
        draw.rectangle((8, 8, 120, 120), fill=fill)
    elif shape == "bar":
        draw.rectangle((46, 4, 82, 124), fill=fill)
    elif shape == "ladder":
        for step in range(5):
            draw.rectangle((24, 6 + 25 * step, 104, 17 + 25 * step), fill=fill)
    elif shape == "cross":
        draw.rectangle((48, 6, 80, 122), fill=fill)
        draw.rectangle((6, 48, 122, 80), fill=fill)
    else:
        corners = 3 if shape == "triangle" else 10
        radii = [60 if shape == "triangle" or i % 2 == 0 else 24 for i in range(corners)]
        turns = [2 * math.pi * i / corners - math.pi / 2 for i in range(corners)]
        draw.polygon(
            [(64 + r * math.cos(a), 64 + r * math.sin(a)) for r, a in zip(radii, turns, strict=True)], fill=fill
        )
    if style == "blob":
        edge = image.getchannel("A").point(lambda a: 255 if a > 0 else 0)
        black = Image.new("RGBA", image.size, (10, 10, 12, 255))
        small = image.resize((104, 104), Image.Resampling.NEAREST)
        image = Image.composite(black, Image.new("RGBA", image.size), edge)
        image.alpha_composite(small, (12, 12))
    if style == "noto":
        dots = Image.new("RGBA", image.size)
        for y in range(8, 128, 14):
            for x in range(8, 128, 14):
                ImageDraw.Draw(dots).rectangle((x, y, x + 5, y + 5), fill=(255, 240, 60, 255))
        image.paste(dots, (0, 0), Image.composite(dots, Image.new("RGBA", image.size), image).getchannel("A"))
    return image


def portrait(facts: dict[str, Any]) -> Image.Image:
    """Draw a head that shows every judged attribute plainly."""
    image = Image.new("RGBA", (128, 128))
    draw = ImageDraw.Draw(image)
    hair = {"blond": (240, 220, 120), "ginger": (210, 100, 30), "gray": (140, 140, 140)}
    colour = facts["hair_color"]
    if colour is not None:
        draw.ellipse((22, 8, 106, 96), fill=(*(hair.get(colour) or COLOURS.get(colour, (90, 60, 30))), 255))
    draw.ellipse((34, 24, 94, 104), fill=(240, 195, 160, 255))
    if facts["has_beard"]:
        draw.rectangle((38, 84, 90, 112), fill=(60, 35, 20, 255))
    if facts["has_glasses"]:
        for left in (36, 68):
            draw.rectangle((left, 46, left + 24, 64), outline=(0, 0, 0, 255), width=5)
    if facts["has_hat"]:
        draw.rectangle((20, 2, 108, 30), fill=(120, 20, 140, 255))
    mouth = {"happy": (0, 180), "laughing": (0, 180), "sad": (180, 360)}.get(facts["expression"])
    if mouth:
        draw.arc((48, 68, 80, 88), *mouth, fill=(150, 20, 20, 255), width=6)
    else:
        draw.rectangle((50, 74, 78, 80), fill=(150, 20, 20, 255))
    draw.rectangle((24, 108, 104, 127), fill=(30, 90, 200, 255))
    return image


def write(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
