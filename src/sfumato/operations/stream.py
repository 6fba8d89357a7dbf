"""The type of what every use case returns."""

from __future__ import annotations

from collections.abc import Generator

from sfumato.events import Event

Events = Generator[Event, None, None]
"""Events as they happen; closing the generator cancels the work and saves what can be saved."""
