"""What is changed for a while and drawn with meanwhile: who does so now, so that two do not get in each other's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from sfumato.errors import ConfigError

Item = TypeVar("Item")


class InUse:
    """Changes to one thing that are open, and drawings with it that have not ended.

    Changes of one owner in one thread may lie within one another. Those of others would undo each other in the wrong
    order, and what was begun before a change would go on with something else.

    Attributes:
        changes: Grows with every change and its end.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._open: list[tuple[int, int]] = []
        self._drawing = 0
        self._lock = threading.Lock()

    @contextmanager
    def changed(self, owner: object) -> Iterator[None]:
        """Change it for the length of a `with` block.

        Args:
            owner: Who does so.

        Raises:
            ConfigError: Another owner or thread has changed it, or a drawing has not ended.
        """
        key = _key(owner)
        with self._lock:
            self._refuse_others(key)
            if self._drawing:
                raise ConfigError(
                    "The base draws pictures that are not finished; its concepts cannot be switched meanwhile.",
                    field="concepts",
                    hint="Take all events of `generate` first, or close it.",
                )
            self._open.append(key)
            self.changes += 1
        try:
            yield
        finally:
            with self._lock:
                self._open.remove(key)
                self.changes += 1

    def drawing(self, owner: object, changes: int, events: Iterator[Item]) -> Iterator[Item]:
        """Pass on the events of a drawing, as long as nothing has changed since it was planned.

        Args:
            owner: Who draws.
            changes: `changes` when it was planned.
            events: What it yields.

        Raises:
            ConfigError: Another owner or thread has changed it, or something has been changed since.
        """
        with self._lock:
            self._refuse_others(_key(owner))
            self._refuse_changed(changes)
            self._drawing += 1
        try:
            for event in events:
                yield event
                self._refuse_changed(changes)
        finally:
            with self._lock:
                self._drawing -= 1

    def _refuse_others(self, key: tuple[int, int]) -> None:
        """Refuse what is not within the changes that are open."""
        if self._open and self._open[-1] != key:
            raise ConfigError(
                "The base is in use with concepts that another thread or pipeline has switched on.",
                field="concepts",
                hint="Wait until it is done, or load the base a second time.",
            )

    def _refuse_changed(self, changes: int) -> None:
        """Refuse to go on with other concepts than the drawing was planned with."""
        if changes != self.changes:
            raise ConfigError(
                "Concepts were switched on or off after `generate` was called, before all of its events were taken.",
                field="concepts",
                hint="Take the events within the `with` block of `using`.",
            )


_KNOWN: WeakKeyDictionary[object, InUse] = WeakKeyDictionary()


def in_use(thing: object) -> InUse:
    """Return who uses a thing, such as a network; it is the same for all that ask."""
    return _KNOWN.setdefault(thing, InUse())


def _key(owner: object) -> tuple[int, int]:
    """Name an owner in this thread."""
    return threading.get_ident(), id(owner)
