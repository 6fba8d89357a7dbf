"""Write what a benchmark measured: a table for people, the same for programs, and a sheet of pictures."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from sfumato import __version__
from sfumato.benchmark_requests import BenchmarkRequest
from sfumato.evaluation.scoreboard import Scoreboard
from sfumato.evaluation.trial import BASELINE
from sfumato.evaluation.trial_grid import GridRow, trial_grid
from sfumato.events import Artifact, Event, Notice, Table
from sfumato.formats.atomic import atomic_write_bytes
from sfumato.formats.bundle import Bundle


def facts_of(request: BenchmarkRequest, bundle: Bundle, benchmark: dict[str, object]) -> dict[str, object]:
    """Say what decides the numbers of a report."""
    values = request.model_dump(mode="json", exclude={"output", "folder", "base", "primer"})
    base = {"name": bundle.name, "hash": bundle.base_hash}
    return {"sfumato": __version__, "base": base, "benchmark": benchmark, "plan": values}


def write_board(
    board: Scoreboard, rows: Sequence[GridRow], folder: Path, name: str, *, front: Sequence[str], not_drawn: str
) -> Generator[Event, None, None]:
    """Show the table, say who learned, and write both as JSON and Markdown, with the sheet beside them.

    Args:
        board: What was measured.
        rows: Rows of the sheet.
        folder: Where to.
        name: Stem of the three files.
        front: Titles of the columns of the sheet before those of the methods.
        not_drawn: The line of the table that no method drew.
    """
    methods = [method for method in board.methods if method != not_drawn]
    shown = [column for column in board.columns if any(board.mean(m, column.key) is not None for m in board.methods)]
    cells = tuple((m, *(column.show(board.mean(m, column.key)) for column in shown)) for m in board.methods)
    yield Table(board.title, ("method", *(column.title for column in shown)), cells)
    for method, said in board.told().items():
        yield Notice(0, f"{method} {said}.")
    files = {
        f"{name}.json": board.to_json(BASELINE).encode(),
        f"{name}.md": board.to_markdown(BASELINE).encode(),
        f"{name}.png": trial_grid((*front, *methods), rows),
    }
    for file, content in files.items():
        atomic_write_bytes(folder / file, content)
        yield Artifact(folder / file, "image" if file.endswith(".png") else "report")
