"""Draw pictures and write them with their recipes inside."""

from __future__ import annotations

import time

from sfumato.events import Artifact, Done
from sfumato.formats.png_recipe import check_folder, place_picture
from sfumato.operations.pictures import Picture, check_choices, draw
from sfumato.operations.stream import Events
from sfumato.pipeline import Pipeline
from sfumato.requests import GenerateRequest


def generate(request: GenerateRequest, pipeline: Pipeline | None = None) -> Events:
    """Draw the pictures of a request into its folder.

    Args:
        request: What to draw and where to.
        pipeline: A loaded base to use instead of the one that the request names.

    Yields:
        What `draw` tells but for the pictures, an `Artifact` for every picture, `Done`.

    Raises:
        ConfigError: See `check_choices`.
        StorageError: Nothing can be written there; found before anything is drawn.
        SfumatoError: See `draw`.
    """
    started = time.perf_counter()
    check_choices(request)
    check_folder(request.output)
    for event in draw(request, pipeline):
        if isinstance(event, Picture):
            path = place_picture(request.output, event.stem, event.to_png())
            yield Artifact(path, "image", {"seed": event.seed, "prompt": request.prompt})
        else:
            yield event
    yield Done(time.perf_counter() - started, {"pictures": request.count})
