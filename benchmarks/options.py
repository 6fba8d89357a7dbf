"""Options that benchmarks share."""

from __future__ import annotations

import argparse
from pathlib import Path


def parser(name: str, description: str | None, repeats: int | None = None) -> argparse.ArgumentParser:
    """Build a parser with the shared options.

    Args:
        name: Name of the benchmark.
        description: What it measures.
        repeats: Default of `--repeats`; `None` for a benchmark that repeats nothing and has no such option.

    Returns:
        A parser with `--threads` and `--tiny`, and `--repeats` where it is used.
    """
    made = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=description)
    made.add_argument("--threads", type=int, default=2, help="threads of each side (default: 2)")
    if repeats is not None:
        made.add_argument(
            "--repeats", type=int, default=repeats, help=f"measured runs of each side (default: {repeats})"
        )
    made.add_argument("--tiny", action="store_true", help="sizes so small that only the benchmark itself is tested")
    return made


def side_parser(name: str, description: str | None, repeats: int = 7) -> argparse.ArgumentParser:
    """Build a parser for a benchmark that runs each side in a process of its own (`compare.in_turns`).

    Args:
        name: Name of the benchmark.
        description: What it measures.
        repeats: Default of `--repeats`.

    Returns:
        The shared parser with `--channels-last`, and the hidden `--side` and `--folder` of the processes.
    """
    made = parser(name, description, repeats)
    made.add_argument("--channels-last", action="store_true", help="give diffusers channels-last weights too")
    made.add_argument("--side", help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return made


def for_sides(options: argparse.Namespace, folder: str) -> list[str]:
    """Return the words that both processes of a comparison get.

    Args:
        options: Options of the benchmark.
        folder: Where the sides put their results.
    """
    words = ["--folder", folder, "--threads", str(options.threads)]
    words += ["--tiny"] if options.tiny else []
    return words + (["--channels-last"] if options.channels_last else [])
