"""Sizes in bytes as people write them: 6GB, 800 MB, 4GiB."""

from __future__ import annotations

import re

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read a size; GB counts in thousands, GiB in 1,024.

    Args:
        text: A number and its unit: B, KB, MB, GB, TB, KiB, MiB, GiB, TiB, in any case; the last B may be left out.

    Returns:
        Bytes.

    Raises:
        ValueError: It is no such size, or not above 0.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is not None:
        number, prefix, is_binary = found[1], (found[2] or "").lower(), bool(found[3])
        size = int(float(number) * (_BINARY if is_binary else _DECIMAL)[prefix])
        if size > 0:
            return size
    raise ValueError("needed a size above 0 with its unit, for example 6GB, 800MB or 4GiB")


def bytes_text(count: int) -> str:
    """Write a size with three digits and a unit of thousands, such as 1.23 GB."""
    size, unit = float(count), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if size < 999.5 or unit == "TB":
            break
        size /= 1000
    digits = 0 if unit == "B" or size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{size:.{digits}f} {unit}"
