"""Options of benchmarks on subjects whose truth is known: the budget of `sfumato evaluate characters`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sfumato.benchmark_requests import BenchmarkRequest
from sfumato.flags import flag_of


def offer_budget(made: argparse.ArgumentParser, names: Sequence[str]) -> None:
    """Let a benchmark be asked like `sfumato evaluate characters`.

    Args:
        made: Gets the options.
        names: Fields of `BenchmarkRequest`.
    """
    made.add_argument("--characters", dest="folder", metavar="DIR", required=True, help="what `data characters` wrote")
    for name in names:
        offered = BenchmarkRequest.model_fields[name]
        made.add_argument(*flag_of(name, offered).names, dest=name, help=offered.description)
