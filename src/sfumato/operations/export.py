"""Write a concept for other programs."""

from __future__ import annotations

import time

from sfumato.concept_requests import ExportRequest
from sfumato.errors import ConfigError
from sfumato.events import Artifact, Done, Notice
from sfumato.formats.concept import load_concept
from sfumato.formats.kohya import save_kohya, trigger_phrase, word_names
from sfumato.operations.stream import Events


def export(request: ExportRequest) -> Events:
    """Write a concept in another layout; it stays as it is.

    Args:
        request: Which, and where to.

    Yields:
        An `Artifact` for each file, a `Notice` with what a prompt says, `Done`.

    Raises:
        ConfigError: The output is the concept itself, or has another ending.
        AdapterError: The other programs would read its factors as something else.
        SfumatoError: The concept cannot be read, or a file not be written.
    """
    started = time.perf_counter()
    concept = load_concept(request.concept)
    output = request.output or request.concept.with_name(f"{request.concept.stem}-{request.layout}.safetensors")
    if output.resolve() == request.concept.resolve():
        raise ConfigError(f"'{output}' is the concept itself.", field="output", hint="Choose another name.")
    for path, kind in save_kohya(concept, output).items():
        yield Artifact(path, kind if kind == "lora" else "embedding", {"bytes": path.stat().st_size})
    names = word_names(concept)
    said = ", ".join(f"'{trigger_phrase(word, names)}'" for word in concept.words)
    yield Notice(
        0, f"In a prompt there: {said}." + (" Files of words go into the folder of embeddings." if names else "")
    )
    yield Done(time.perf_counter() - started, {"words": len(names)})
