"""How a command is written so that the user's shell reads it as it is meant."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

_PLAIN = re.compile(r"[\w@%+=:,./\\-]+", re.ASCII)


def command_line(words: Sequence[str]) -> str:
    """Write a command; in Windows' shells single quotes quote nothing, and `<` reads a file.

    Args:
        words: The words of the command.
    """
    if os.name != "nt":
        return shlex.join(words)
    return " ".join(word if _PLAIN.fullmatch(word) else '"' + word.replace('"', r"\"") + '"' for word in words)
