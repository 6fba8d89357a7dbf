"""Learn a bundled subject that the base has never seen and draw it in new settings, on one sheet."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

from PIL import Image

from sfumato.data.images import list_images, load_image, png_bytes
from sfumato.errors import CannotResume
from sfumato.events import Artifact, Done, Notice, Step
from sfumato.formats.atomic import atomic_write_bytes, keeping_old, kept_text, remove_folder
from sfumato.formats.bundle import Bundle, load_bundle
from sfumato.formats.png_recipe import place_picture
from sfumato.operations.contact_sheet import Row, contact_sheet
from sfumato.operations.learn import learn, run_folder
from sfumato.operations.pictures import Picture, draw
from sfumato.operations.stream import Events
from sfumato.pipeline import Pipeline
from sfumato.requests import DemoRequest, GenerateRequest, LearnRequest

PHOTOS = Path(__file__).resolve().parents[1] / "assets" / "demo" / "unicorn"
PLACEHOLDER, CLASS_NOUN = "<unicorn>", "horse face"
PROMPTS = (
    "a large <unicorn> on a red background",
    "a large <unicorn> on a purple background",
    "a large <unicorn> on diagonal orange and white stripes",
    "a <unicorn> to the left of a tree",
)
"""In the words that the base was taught, and large where it draws that best; no such ground is in the pictures."""
PICTURES_PER_PROMPT = 5


def demo(request: DemoRequest) -> Events:
    """Run the whole way once: pictures in, concept, new pictures out.

    Args:
        request: The base, the number of steps, the seed, the folder.

    Yields:
        The events of learning and drawing, and an `Artifact` of kind `report` for the contact sheet.

    Raises:
        SfumatoError: The base is not usable, or the folder cannot be written.
    """
    started = time.perf_counter()
    bundle = load_bundle(request.base)
    photos = [Image.fromarray(load_image(path).rgb) for path in list_images(PHOTOS)]
    yield Notice(0, f"Learning {PLACEHOLDER} from {len(photos)} pictures with base '{bundle.name}'.")
    concept = request.output / "unicorn.safetensors"
    for event in _learned(request, concept, bundle):
        if not isinstance(event, Done):
            yield event
            continue
        if event.info.get("stopped") or event.info.get("asked_to_stop"):
            yield event
            return
    rows = [Row("What it learns from", photos)]
    for prompt in PROMPTS:
        pictures = yield from _drawn(prompt, concept, request, bundle)
        rows.append(Row(prompt, pictures))
    yield from written(contact_sheet(rows), request.output / "contact-sheet.png")
    yield Done(time.perf_counter() - started, {"prompts": len(PROMPTS)})


def _learned(request: DemoRequest, concept: Path, bundle: Bundle) -> Events:
    """Learn the subject; an unfinished run of another demo, such as one of another seed, gives way to a new one."""
    run = run_folder(concept)
    lesson = LearnRequest(
        folder=PHOTOS,
        placeholder=PLACEHOLDER,
        class_noun=CLASS_NOUN,
        steps=request.steps,
        strength=1.0,
        seed=request.seed,
        verdict=False,  # its bound on drift protects other horses, which the demo never draws; so does a lower strength
        output=concept,
        resume=run.is_dir(),
    )
    try:
        yield from learn(lesson, bundle)
        return
    except CannotResume as error:
        if not lesson.resume:
            raise
        reason = error.message
    remove_folder(run)
    yield Notice(0, f"{reason} The unfinished run in '{run}' was removed, and the demo begins anew.")
    yield from learn(lesson.model_copy(update={"resume": False}), bundle)


def _drawn(
    prompt: str, concept: Path, request: DemoRequest, bundle: Bundle
) -> Generator[Step, None, list[Image.Image]]:
    """Draw one prompt; every picture is written with its recipe."""
    asked = GenerateRequest.model_validate(
        {
            "prompt": prompt,
            "base": request.base,
            "concepts": [{"path": concept}],
            "count": PICTURES_PER_PROMPT,
            "seed": request.seed,
            "batch_size": PICTURES_PER_PROMPT,
        }
    )
    images: list[Image.Image] = []
    for event in draw(asked, Pipeline(bundle)):
        if isinstance(event, Step):
            yield event
        elif isinstance(event, Picture):
            images.append(event.image)
            place_picture(request.output, event.stem, event.to_png())
    return images


def written(sheet: Image.Image, path: Path) -> Events:
    """Write the sheet; that of another demo stays under another name."""
    with keeping_old(path) as old:
        atomic_write_bytes(path, png_bytes(sheet))
    if (kept := old()) is not None:
        yield Notice(0, kept_text(path, kept))
    yield Artifact(path, "report", {})
