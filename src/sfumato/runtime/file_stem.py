"""The name of a file after words of a user."""

from __future__ import annotations

import re


def file_stem(words: str) -> str:
    """Return the letters and digits of words in lower case, with `-` for what lies between; empty if there are none."""
    return re.sub(r"[^\w]+", "-", words.lower()).strip("-_")
