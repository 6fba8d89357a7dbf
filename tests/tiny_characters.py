"""A benchmark of two drawn subjects with four pictures and two prompts each."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from drawn_primer import write
from sfumato.data.benchmark.schema import FILE, Benchmark, Licence, Prompt, Subject, TrainingPicture

NOUNS = {"ann": ("character", "person", (220, 40, 40)), "box": ("icon", "robot", (40, 200, 60))}
GROUNDS = {"blue": (52, 112, 224), "yellow": (252, 216, 62), "green": (62, 164, 76), "grey": (128, 128, 128)}


def drawn(colour: tuple[int, int, int], ground: tuple[int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (32, 32), ground)
    ImageDraw.Draw(picture).ellipse((8, 8, 24, 24), fill=colour)
    return picture


def write_characters(folder: Path) -> Path:
    """Write the benchmark and return its folder."""
    subjects = []
    for name, (kind, class_noun, colour) in NOUNS.items():
        pictures, prompts = [], []
        for number, (ground, rgb) in enumerate(GROUNDS.items()):
            file, caption = f"{name}/train/{number}.png", f"a {class_noun} on {ground}"
            write(folder / file, drawn(colour, rgb))
            (folder / file).with_suffix(".txt").write_text(caption + "\n", encoding="utf-8")
            pictures.append(TrainingPicture(file=file, caption=caption, ground=ground, size=0.5))
        for place, ground in enumerate(("red", "black")):
            truth = f"{name}/truth/{ground}.png"
            write(folder / truth, drawn(colour, ((200, 30, 30), (0, 0, 0))[place]))
            asked = {"text": f"a {{}} on {ground}", "words": f"a {class_noun} on {ground}", "truths": (truth,)}
            unchanged = pictures[0].file
            prompts.append(Prompt(name=f"background-{place}", kind="background", unchanged=unchanged, **asked))
        values = {"name": name, "kind": kind, "style": "flat", "class_noun": class_noun, "licence": "flat"}
        plain = {"class_prompt": f"a {class_noun}", "pictures": tuple(pictures), "prompts": tuple(prompts)}
        subjects.append(Subject.model_validate({**values, **plain}))
    licences = {"flat": Licence(licence="MIT", attribution="someone")}
    benchmark = Benchmark(seed=0, primer="", subjects=tuple(subjects), licences=licences)
    (folder / FILE).write_text(benchmark.to_json(), encoding="utf-8")
    return folder
