"""Guess which known name an unknown one was meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return a hint for a name that does not exist.

    Args:
        given: What the user wrote.
        known: The names that exist.

    Returns:
        `Did you mean 'x'?` when one name is close, else the list of the known names.
    """
    names = list(known)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(names)}."
