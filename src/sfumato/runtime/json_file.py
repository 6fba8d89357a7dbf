"""Read JSON files that others wrote: whatever is wrong with one is said in one message that names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfumato.errors import CheckpointError

_OF_VALUES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
"""What Python and torch raise for values of another kind or size than was thought of."""


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: The file.
        default: What a missing file means; None makes it an error.

    Returns:
        Its content.

    Raises:
        CheckpointError: The file is missing, cannot be read or is no JSON object.
    """
    if default is not None and not path.is_file():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"'{path}' is missing.", hint="The folder is not complete; download or copy it again."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read as JSON: {error}.", hint="Download or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"'{path}' holds a {type(content).__name__}, a JSON object is needed.")
    return content


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Turn what a value of a wrong kind or size makes fail within the block into one message that names its place.

    Args:
        place: The file that is read within the block, or the folder that holds it.

    Raises:
        CheckpointError: There is such a value; errors of ours pass as they are.
    """
    try:
        yield
    except _OF_VALUES as error:
        raise CheckpointError(
            f"'{place}' holds a value that nothing can be made of: {error!r}.", hint="Download or copy it again."
        ) from error
