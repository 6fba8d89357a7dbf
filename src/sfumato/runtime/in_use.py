"""What is changed for a while and drawn with meanwhile: who does so now, so that two do not get in each other's way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar
from weakref import WeakKeyDictionary

from sfumato.errors import ConfigError

Item = TypeVar("Item")
_CONCEPTS = "concepts are switched on in its base elsewhere"
_OTHERWISE = "use one pipeline per thread, each with `sfumato.load`."


@dataclass(frozen=True, eq=False)
class Claim:
    """The right to change something for long and to draw with it meanwhile, which nobody else then may.

    It belongs to whoever holds it, in whatever thread.

    Attributes:
        doing: What it was taken for, as others are told.
    """

    doing: str


class InUse:
    """Changes to one thing that are open, and drawings with it that have not ended.

    Changes of one owner in one thread, or within one claim, may lie within one another. Those of others would undo each
    other in the wrong order, and what was begun before a change would go on with something else.

    Attributes:
        changes: Grows with every change and its end.
    """

    def __init__(self) -> None:
        self.changes = 0
        self._open: list[tuple[object, str]] = []
        self._drawing = 0
        self._lock = threading.RLock()  # the end of a drawing that nobody holds any more may come at any moment

    @contextmanager
    def changed(self, owner: object) -> Iterator[None]:
        """Change it for the length of a `with` block.

        Args:
            owner: Who does so: an object, which counts as another one in each thread, or a claim.

        Raises:
            ConfigError: Another owner or thread has changed it, or a drawing has not ended.
        """
        opened = _key(owner), _CONCEPTS
        self._begin(opened, "concepts cannot be switched")
        try:
            yield
        finally:
            self._end(opened)

    def claim(self, doing: str) -> Claim:
        """Take it for changes that last; whoever has taken it gives it back with `release`.

        Args:
            doing: What for, such as `a lesson learns on its base`.

        Raises:
            ConfigError: Somebody has changed it, or a drawing has not ended.
        """
        claim = Claim(doing)
        self._begin((claim, doing), "nothing can be learned")
        return claim

    def release(self, claim: Claim) -> None:
        """Give it back."""
        self._end((claim, claim.doing))

    def checked(self, owner: object) -> int:
        """Return `changes`, for what is planned now and done later.

        Args:
            owner: Who plans.

        Raises:
            ConfigError: Another owner or thread has changed it.
        """
        with self._lock:
            self._refuse_others(_key(owner))
            return self.changes

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

    def _begin(self, opened: tuple[object, str], refused: str) -> None:
        """Note a change, or say what is refused because of others."""
        with self._lock:
            self._refuse_others(opened[0])
            if self._drawing:
                raise ConfigError(
                    f"The pipeline is busy: its base draws pictures that are not finished; {refused} meanwhile.",
                    field="base",
                    hint=f"Take all events of `generate` first or close it; in several threads {_OTHERWISE}",
                )
            self._open.append(opened)
            self.changes += 1

    def _end(self, opened: tuple[object, str]) -> None:
        """Note the end of a change."""
        with self._lock:
            self._open.remove(opened)
            self.changes += 1

    def _refuse_others(self, key: object) -> None:
        """Refuse what is not within the changes that are open."""
        if self._open and self._open[-1][0] != key:
            raise ConfigError(
                f"The pipeline is busy: {self._open[0][1]}.",
                field="base",
                hint=f"Wait until that is done, or {_OTHERWISE}",
            )

    def _refuse_changed(self, changes: int) -> None:
        """Refuse to go on with something else than the drawing was planned with."""
        if changes != self.changes:
            raise ConfigError(
                "Concepts were switched on or off, or a lesson began or ended, after `generate` was called and before "
                "all of its events were taken.",
                field="base",
                hint=f"Take the events within the `with` block of `using`; in several threads {_OTHERWISE}",
            )


_KNOWN: WeakKeyDictionary[object, InUse] = WeakKeyDictionary()


def in_use(thing: object) -> InUse:
    """Return who uses a thing, such as a network; it is the same for all that ask."""
    return _KNOWN.setdefault(thing, InUse())


def _key(owner: object) -> object:
    """Name an owner: a claim, or anything else in this thread."""
    return owner if isinstance(owner, Claim) else (threading.get_ident(), id(owner))
