"""Words of a prompt that are written like words of concepts, and that nothing knows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from sfumato.errors import ConfigError
from sfumato.events import Notice
from sfumato.pipeline import Pipeline
from sfumato.requests import GenerateRequest, flag_of

_WORD = re.compile(r"<[^<>\s]+>")
_FILE = re.compile(r"<(?:lora|lyco|lycoris|hypernet):([^<>:]+)(?::([^<>:]*))?[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r"\([^()]*[^()\d\s]\s*:\s*\d*\.?\d+\s*\)")


def check_files_in_prompts(request: GenerateRequest) -> None:
    """Refuse prompts that name a file as other programs have it: `<lora:fox:0.8>`.

    Raises:
        ConfigError: One does.
    """
    for field, text in _prompts(request):
        if named := _FILE.search(text):
            use = f"{named[1]}.safetensors" + (f":{named[2]}" if named[2] else "")
            raise ConfigError(
                f"The prompt has {named[0]}, which is no text here.",
                field=field,
                hint=f"Take it out; give --concept {use}",
            )


def unknown_words(request: GenerateRequest, pipeline: Pipeline, known: Iterable[str]) -> Iterator[Notice]:
    """Say which words of the prompts look like those of concepts but are drawn as plain text.

    Args:
        request: What is to be drawn.
        pipeline: Its base.
        known: Words of the concepts that are used.
    """
    told = {word.lower() for word in (*known, *(word.placeholder for word in pipeline.bundle.words))}
    for field, text in _prompts(request):
        name = "prompt" if field == "prompt" else flag_of(field, GenerateRequest.model_fields[field]).names[-1]
        for word in dict.fromkeys(_WORD.findall(text)):
            if word.lower() not in told and not pipeline.bundle.tokenizer.knows(word):
                yield Notice(0, f"Neither the base nor a concept knows {word}: it is read as plain text ({name}).")
        for weight in dict.fromkeys(_WEIGHT.findall(text)):
            yield Notice(0, f"{weight} is read as plain text: words have no weights here ({name}).")


def _prompts(request: GenerateRequest) -> Sequence[tuple[str, str]]:
    """Return the texts of a request, by field."""
    return ("prompt", request.prompt), ("negative_prompt", request.negative_prompt)
