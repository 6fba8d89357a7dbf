"""The record of a lesson in the folder of the whole base that it made: what a concept's file has in its header."""

from __future__ import annotations

import json

from sfumato.formats.concept import HEADER, Concept, file_header

LESSON_FILE = "sfumato_lesson.json"


def lesson_record(concept: Concept) -> str:
    """Write down words, base, request and lineage, the verdict too where there was one.

    Args:
        concept: What was learned; factors are not needed.

    Returns:
        JSON for `LESSON_FILE`.
    """
    return json.dumps(json.loads(file_header(concept)[HEADER]), sort_keys=True, indent=2) + "\n"
