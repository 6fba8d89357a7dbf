"""Build a benchmark with truth from people and icons that no base has seen."""

from __future__ import annotations

from sfumato.benchmark_requests import CharactersDataRequest
from sfumato.data.benchmark.build import build_benchmark
from sfumato.data.primer.library import Primer
from sfumato.operations.stream import Events


def characters_data(request: CharactersDataRequest) -> Events:
    """Build the benchmark into a new folder.

    Args:
        request: Where to, how many subjects, from which training set.

    Yields:
        Progress, the finished folder and `Done`.

    Raises:
        ConfigError: Nothing is asked for, or the folder is not new.
        DataError: The training set is missing or holds out too few people, or Node is needed and missing.
        StorageError: The folder cannot be written.
    """
    primer = Primer.open(request.primer)
    yield from build_benchmark(
        request.output,
        primer,
        seed=request.seed,
        count=request.count,
        icons=request.icons,
        pictures=request.pictures,
        packages=request.packages,
    )
