"""Options that all benchmarks share."""

from __future__ import annotations

import argparse


def parser(name: str, description: str | None, repeats: int = 7) -> argparse.ArgumentParser:
    """Build a parser with the shared options.

    Args:
        name: Name of the benchmark.
        description: What it measures.
        repeats: Default of `--repeats`.

    Returns:
        A parser with `--threads`, `--repeats` and `--tiny`.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=description)
    made.add_argument("--threads", type=int, default=2, help="threads of each side (default: 2)")
    made.add_argument("--repeats", type=int, default=repeats, help=f"measured runs of each side (default: {repeats})")
    made.add_argument("--tiny", action="store_true", help="sizes so small that only the benchmark itself is tested")
    return made
