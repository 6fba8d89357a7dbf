"""Tables in pages of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, texts: int = 1) -> list[str]:
    r"""Write a table; a `|` in a title or a cell becomes `\|`, so that it ends no cell.

    Args:
        columns: Titles.
        rows: Cells, as many in a row as there are columns.
        texts: How many columns, from the left, hold texts; the others stand to the right, as numbers do.

    Returns:
        The lines: titles, alignment, rows.
    """
    aligned = ["---"] * texts + ["---:"] * (len(columns) - texts)
    return [_line(columns), f"|{'|'.join(aligned)}|", *map(_line, rows)]


def _line(cells: Sequence[object]) -> str:
    """Write one line."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
