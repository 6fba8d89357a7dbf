"""Values as JSON knows them: it has no number that is not finite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any


def json_value(value: Any) -> Any:
    """Return a value that JSON knows.

    Why: `json.dumps` writes NaN and Infinity, which no other program reads.

    Args:
        value: Anything.

    Returns:
        Texts, truth values, `None` and numbers as they are, but a number that is not finite as `None`; the same within
        mappings, lists, tuples and dataclasses; anything else as its text.
    """
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(entry) for entry in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: json_value(getattr(value, item.name)) for item in fields(value)}
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)


def flattened(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dict with dotted keys, as JSON would give them back."""
    if isinstance(settings, Mapping):
        flat: dict[str, Any] = {}
        for key, value in settings.items():
            flat |= flattened(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: json.loads(json.dumps(settings, default=str))}
