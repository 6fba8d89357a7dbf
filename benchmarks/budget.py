"""How benchmarks on subjects whose truth is known are asked and run: the budget of `sfumato evaluate characters`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

import torch

from sfumato.benchmark_requests import BenchmarkRequest
from sfumato.cli.render import make_renderer
from sfumato.errors import SfumatoError
from sfumato.flags import flag_of
from sfumato.operations.stream import Events
from sfumato.resolve import resolve


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


def run_on_budget(
    name: str,
    options: argparse.Namespace,
    names: Sequence[str],
    usual: Mapping[str, object],
    tiny: Mapping[str, object],
    start: Callable[[BenchmarkRequest], Events],
) -> int:
    """Run a benchmark and show its events.

    Args:
        name: Name of the benchmark.
        options: What was asked for.
        names: Fields of `BenchmarkRequest` that were offered.
        usual: Values of fields that were not given.
        tiny: The same with `--tiny`, before those.
        start: Starts it.

    Returns:
        Exit code: 0, or 2 when something given is not usable.
    """
    torch.set_num_threads(options.threads)
    preset = {**usual, **(tiny if options.tiny else {})}
    given = {field: value for field in ("folder", *names) if (value := getattr(options, field)) is not None}
    try:
        request = resolve(BenchmarkRequest, preset=preset, flags=given).request
        with make_renderer(json_lines=False) as shown:
            for event in start(request):
                shown.show(event)
    except SfumatoError as error:
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    return 0
