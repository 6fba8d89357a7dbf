"""Findings and tables as text, wide enough to be read and short enough for one page."""

from __future__ import annotations

from collections.abc import Sequence

from sfumato.events import Finding, Table

SEVERITIES = ("error", "warning", "note")
SHOWN = 5
"""Files that are shown of each kind of finding."""

_INDENT = " " * 9


def findings_text(findings: Sequence[Finding]) -> str:
    """Write findings as a list: gravest first, files of one kind together, and what to do about them once.

    Args:
        findings: The findings, in any order.

    Returns:
        Lines; of a kind with many files the first five.
    """
    groups: dict[str, list[Finding]] = {}
    for item in sorted(findings, key=lambda item: SEVERITIES.index(item.severity)):
        groups.setdefault(item.kind, []).append(item)
    lines: list[str] = []
    for items in groups.values():
        first = items[0]
        lines.append(f"{first.severity:9}{first.title}{f' ({len(items)})' if len(items) > 1 else ''}")
        shown = items[:SHOWN]
        width = max(len(_plain(str(item.path))) for item in shown)
        lines += [f"{_INDENT}{_plain(str(item.path)):{width}}  {_plain(item.found)}" for item in shown]
        if len(items) > SHOWN:
            lines.append(f"{_INDENT}and {len(items) - SHOWN} more; --json names all")
        lines.append(f"{_INDENT}→ {first.meaning} {first.advice}")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Write letters that a terminal cannot show, or would obey, as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def table_text(table: Table) -> str:
    """Write a table with columns of equal width, numbers to the right."""
    cells = [tuple(map(str, row)) for row in (table.columns, *table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    is_number = [all(not isinstance(row[column], str) for row in table.rows) for column in range(len(widths))]
    lines = [table.title] if table.title else []
    for row in cells:
        padded = [
            f"{cell:>{width}}" if right else f"{cell:{width}}"
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
