"""Use cases: each takes a request and yields events, on a terminal, in a job and behind a server alike."""

from __future__ import annotations

from collections.abc import Generator

from sfumato.events import Event
from sfumato.requests import Request

Events = Generator[Event, None, None]


def run(request: Request) -> Events:
    """Start the use case of a request.

    Each use case is imported when it is asked for: drawing a picture needs neither the trainer nor the evaluation.

    Args:
        request: Any request of `sfumato.requests`.

    Returns:
        Its events; closing the generator cancels the work and saves what can be saved.

    Raises:
        ConfigError: No use case takes this kind of request.
    """
    raise NotImplementedError
