"""Write a concept for other programs."""

from __future__ import annotations

import time
from contextlib import ExitStack

from sfumato.concept_requests import ExportRequest
from sfumato.events import Artifact, Done, Notice
from sfumato.formats.atomic import keeping_old, kept_text
from sfumato.formats.concept import Concept, load_concept
from sfumato.formats.kohya import kohya_files, left_out, save_kohya, trigger_phrase, word_names
from sfumato.operations.stream import Events


def export(request: ExportRequest) -> Events:
    """Write a concept in another layout; it stays as it is, and what lay where a file goes is kept under another name.

    Args:
        request: Which, and where to.

    Yields:
        An `Artifact` for each file, a `Notice` with what a prompt says, others where something was there before or does
        not fit into the layout, `Done`.

    Raises:
        ConfigError: A file would take the place of the concept itself, of a folder or of another one, or has another
            ending.
        AdapterError: The other programs would read its factors as something else.
        SfumatoError: The concept cannot be read, or a file not be written.
    """
    started = time.perf_counter()
    concept = load_concept(request.concept)
    output = request.output or request.concept.with_name(f"{request.concept.stem}-{request.layout}.safetensors")
    files = kohya_files(concept, output)
    with ExitStack() as keeping:
        olds = {path: keeping.enter_context(keeping_old(path)) for path in files}
        save_kohya(concept, output)
    for path, kind in files.items():
        yield Artifact(path, kind if kind == "lora" else "embedding", {"bytes": path.stat().st_size})
        old = olds[path]()
        if old is not None:
            yield Notice(0, kept_text(path, old))
    yield from _said_of_tables(concept)
    names = word_names(concept, output)
    said = ", ".join(f"'{trigger_phrase(word, names)}'" for word in concept.words)
    yield Notice(
        0, f"In a prompt there: {said}." + (" Files of words go into the folder of embeddings." if names else "")
    )
    yield Done(time.perf_counter() - started, {"words": len(names)})


def _said_of_tables(concept: Concept) -> Events:
    """Say what the layout has no name for, and how much that is."""
    lost = left_out(concept)
    if lost:
        parts = ", ".join(f"{name.rpartition('.')[2]} ({share:.1%})" for name, share in lost.items())
        yield Notice(
            0,
            f"Left out, since the layout has no name for them: {parts}; the shares are of the squared change that the "
            "concept holds of the text encoder.",
        )
