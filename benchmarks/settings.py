"""Settings of lessons against the truth: several ways to learn the same subjects, each beside the first of them.

An arm is a name and words of `sfumato learn`, such as `--arm "gentle: --lr 1e-3 --steps 150"`. Every arm learns every
subject of `sfumato data characters` and draws its prompts with the same seeds. Lessons and pictures are kept in the
output folder: the same command goes on where it stopped, and arms can be added to it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.budget import offer_budget, run_on_budget
from benchmarks.options import parser
from benchmarks.orderings import Difference, difference
from benchmarks.paper import OFFERED, TINY, measured, scorer_of
from benchmarks.paper_report import Values
from sfumato.benchmark_requests import BenchmarkRequest
from sfumato.cli.main import build_parser
from sfumato.data.benchmark.schema import open_benchmark
from sfumato.errors import ConfigError
from sfumato.evaluation.characters import COLUMNS, TRUTH, cases_of
from sfumato.evaluation.markdown_table import markdown_table
from sfumato.evaluation.scoreboard import Column
from sfumato.evaluation.trial import BASES, in_turns
from sfumato.events import Artifact, Done, Event, Table
from sfumato.formats.atomic import atomic_write_bytes
from sfumato.formats.bundle import load_bundle
from sfumato.operations.benchmark_report import facts_of
from sfumato.operations.measured_lesson import learn_beside
from sfumato.operations.stream import Events
from sfumato.operations.trials import Arm, run_trials
from sfumato.requests import LearnRequest
from sfumato.runtime.json_values import json_value

_USUAL = {"output": "out/settings", "prompts": "5", "pictures": "1"}
_OF_BENCHMARK = (
    *("folder", "output", "base", "placeholder", "class_noun", "resume", "verdict"),
    *("config", "json", "explain", "plan", "memory"),
)
"""Words of `learn` that the benchmark says itself, or that say nothing of a lesson."""


def arm_of(words: str) -> Arm:
    """Read an arm, such as `gentle: --lr 1e-3 --steps 150`.

    Raises:
        ConfigError: It has no name, its words are not those of `sfumato learn`, or they are the benchmark's to say.
    """
    label, colon, rest = words.partition(":")
    if not colon or not label.strip():
        raise ConfigError(
            f"--arm: given {words!r}; needed NAME: WORDS, such as 'gentle: --lr 1e-3'. The words may be missing.",
            field="arm",
        )
    try:
        split = shlex.split(rest)
    except ValueError as error:
        raise ConfigError(f"--arm: {label.strip()}: {error}.", field="arm") from error
    given = vars(build_parser("learn", LearnRequest).parse_args(split))
    taken = [name for name in _OF_BENCHMARK if given.pop(name, False)]
    if taken:
        raise ConfigError(f"--arm: {label.strip()}: {taken[0]!r} is not for an arm to say.", field="arm")
    return Arm(label.strip(), given)


def settings(request: BenchmarkRequest, arms: Sequence[Arm]) -> Events:
    """Learn and draw with every arm, and write `settings.json` and `settings.md`.

    Args:
        request: Benchmark, base and budget.
        arms: What is tried; the first is what the others are compared with.

    Yields:
        The events of lessons and drawing, the tables, the files and `Done`.

    Raises:
        ConfigError: Two arms have one name.
        SfumatoError: The benchmark, the base or a lesson is not usable.
    """
    started = time.perf_counter()
    labels = [arm.label for arm in arms]
    twice = [label for label in labels if labels.count(label) > 1 or label in (*BASES, TRUTH)]
    if twice:
        raise ConfigError(f"--arm: {twice[0]!r} names more than one row.", field="arm")
    benchmark = open_benchmark(request.folder)
    cases = in_turns(cases_of(request.folder, benchmark), request.subjects)
    bundle, scorer = load_bundle(request.base), scorer_of(request, benchmark)
    trials = yield from run_trials(request, cases, bundle, arms, learn_beside(bundle))
    values = yield from measured(scorer, trials)
    facts: dict[str, Any] = facts_of(request, bundle, {"seed": benchmark.seed, "primer": benchmark.primer})
    facts["plan"].pop("methods")
    yield from _written(values, arms, facts, request)
    yield Done(time.perf_counter() - started, {"subjects": len(cases), "trials": len(trials)})


def differences(values: Values, first: str, others: Sequence[str], seed: int) -> dict[str, dict[str, Difference]]:
    """Compare rows with the first, picture by picture.

    Returns:
        By row and column, over the subjects that have it in both rows (a lesson that was resumed has no seconds); a
        column without such subjects is left out.
    """
    found: dict[str, dict[str, Difference]] = {other: {} for other in others}
    for other in others:
        for column, mine in values[other].items():
            of_first = values[first].get(column, {})
            both = [name for name in mine if name in of_first]
            if both:
                pair = ({name: of[name] for name in both} for of in (mine, of_first))
                found[other][column] = difference(*pair, seed=seed)
    return found


def _written(values: Values, arms: Sequence[Arm], facts: dict[str, Any], request: BenchmarkRequest) -> Iterator[Event]:
    """Show the tables, and write them with all numbers."""
    labels = [arm.label for arm in arms]
    shown = [c for c in COLUMNS if any(c.key in columns for columns in values.values())]
    titles = ("arm", *(c.heading for c in shown))
    rows = [row for row in (*BASES, *labels, TRUTH) if row in values]
    tables = [Table(_title(request), titles, tuple((row, *_means(values[row], shown)) for row in rows))]
    found = differences(values, labels[0], labels[1:], request.seed)
    if found:
        told = tuple((label, *(_told(own.get(c.key), c) for c in shown)) for label, own in found.items())
        tables.append(Table(f"Beside {labels[0]}: difference, and * where it is beyond chance", titles, told))
    yield from tables
    plain = {label: {column: vars(one) for column, one in own.items()} for label, own in found.items()}
    content = {**facts, "arms": [vars(arm) for arm in arms], "beside_first": plain, "pictures": values}
    lines = [f"# {tables[0].title}", ""]
    for table in tables:
        lines += [table.title, "", *markdown_table(table.columns, table.rows), ""]
    for name, text in (
        ("settings.json", json.dumps(json_value(content), indent=1) + "\n"),
        ("settings.md", "\n".join(lines)),
    ):
        atomic_write_bytes(request.output / name, text.encode())
        yield Artifact(request.output / name, "report")


def _title(request: BenchmarkRequest) -> str:
    """Say what was measured."""
    return f"Settings of lessons on {request.base}, {request.pictures} picture(s) a prompt"


def _means(columns: dict[str, dict[str, list[float]]], shown: Sequence[Column]) -> list[str]:
    """Write the means of a row over subjects, each counting the same."""
    cells = []
    for column in shown:
        found = columns.get(column.key, {})
        means = [sum(own) / len(own) for own in found.values()]
        cells.append(column.show(sum(means) / len(means) if means else None))
    return cells


def _told(one: Difference | None, column: Column) -> str:
    """Write a difference, with a star where it is beyond chance."""
    if one is None:
        return "–"
    low, high = one.interval
    scale, form = (100, "+.0f") if column.form == "%" else (1, "+" + column.form)
    return format(scale * one.mean, form) + ("*" if low > 0 or high < 0 else "")


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    made = parser("settings", __doc__)
    offer_budget(made, OFFERED)
    made.add_argument(
        "--arm", action="append", required=True, metavar="NAME: WORDS", help="a way to learn; give several"
    )
    return made.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the lessons and print what they say.

    Args:
        words: Options.

    Returns:
        Exit code: 0, or 2 when something given is not usable.
    """
    options = _options(words)
    return run_on_budget(
        "settings",
        options,
        OFFERED,
        _USUAL,
        TINY,
        lambda request: settings(request, [arm_of(arm) for arm in options.arm]),
    )


if __name__ == "__main__":
    sys.exit(main())
