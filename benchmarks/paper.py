"""The experiments of the DreamBooth, LoRA and Textual Inversion papers, small, on subjects whose truth is known.

Prior preservation, class noun, rank, learning rate of a word, its vectors, number of pictures: each is a group of rows
in one table, with a sentence whether the ordering that the paper reports is found, not found, or within chance. Lessons
and pictures are kept in the output folder: the same command goes on where it stopped, and experiments share their
lessons. A figure for each experiment shows what its rows reach, with intervals.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Generator, Sequence
from typing import Any

from benchmarks.budget import offer_budget, run_on_budget
from benchmarks.options import parser
from benchmarks.paper_experiments import EXPERIMENTS, Setup, arms_of, choose
from benchmarks.paper_figures import figure, figure_name
from benchmarks.paper_report import SLACK, PaperReport, Values, gather
from sfumato.benchmark_requests import BenchmarkRequest
from sfumato.data.benchmark.schema import Benchmark, open_benchmark
from sfumato.evaluation.characters import NOTES, Scorer, cases_of
from sfumato.evaluation.encoders import choose_encoders
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.likeness import PictureDistance
from sfumato.evaluation.reading import Reader
from sfumato.evaluation.scoreboard import FEWEST
from sfumato.evaluation.trial import BASELINE, Trial, by_subject, in_turns
from sfumato.events import Artifact, Done, Event, Notice, Progress, Table
from sfumato.formats.atomic import atomic_write_bytes
from sfumato.formats.bundle import load_bundle
from sfumato.formats.dual_encoder import load_dual_encoder
from sfumato.operations.benchmark_report import facts_of
from sfumato.operations.measured_lesson import learn_beside
from sfumato.operations.stream import Events
from sfumato.operations.trials import OF_ALL_WEIGHTS, run_trials

OFFERED = (
    *("base", "subjects", "prompts", "pictures", "steps", "batch_size", "num_class_images", "draw_steps"),
    *("cache", "judge_texts", "seed", "output"),
)
"""Fields of the budget that can be given."""
_USUAL = {"output": "out/paper"}
TINY = {"subjects": 1, "prompts": 2, "steps": 1, "batch_size": 1, "num_class_images": 1, "draw_steps": 1}
_READ = (
    "Found: the 95 % bootstrap interval of the difference (of pictures that share subject, prompt and seed; subjects "
    "are drawn first, then the pictures of each) lies on the side that the paper reports. Not found: it lies on the "
    f"other side. Within chance: it holds both, or there are fewer than {FEWEST} subjects.",
    f"A loss of subject fidelity is small up to {SLACK:g} of the way from the base in words to the truth.",
    OF_ALL_WEIGHTS,
    "All ranks have the alpha of the usual one, as in the paper; rank 8 is the plain lora.",
    "Lessons run one after another in one process; their seconds include neither its start nor reading the base, nor "
    "what --cache held already.",
)


def paper(request: BenchmarkRequest, names: Sequence[str]) -> Events:
    """Run experiments and write `paper.json`, `paper.md` and a figure for each experiment.

    Args:
        request: Benchmark, base and budget.
        names: Of the experiments.

    Yields:
        The events of lessons and drawing, the table, the sentences, the files and `Done`.

    Raises:
        DataError: The benchmark is not usable.
        SfumatoError: The base or a lesson is not usable.
    """
    started = time.perf_counter()
    benchmark = open_benchmark(request.folder)
    cases = in_turns(cases_of(request.folder, benchmark), request.subjects)
    bundle = load_bundle(request.base)
    experiments = [EXPERIMENTS[name](Setup(request, benchmark, cases, bundle.unet.config.widest)) for name in names]
    scorer = scorer_of(request, benchmark)
    arms = arms_of(experiments)
    trials = yield from run_trials(request, cases, bundle, arms, learn_beside(bundle), bases=(BASELINE,))
    values = yield from measured(scorer, trials)
    facts: dict[str, Any] = facts_of(request, bundle, {"seed": benchmark.seed, "primer": benchmark.primer})
    facts["plan"].pop("methods")  # what is tried stands with each experiment
    title = f"The papers' experiments on {bundle.name}: {len(cases)} subjects with known truth"
    yield from _written(PaperReport(title, experiments, values, facts, request.seed, (*_READ, *_notes())), request)
    yield Done(time.perf_counter() - started, {"subjects": len(cases), "trials": len(trials)})


def scorer_of(request: BenchmarkRequest, benchmark: Benchmark) -> Scorer:
    """Load what judges pictures of subjects whose truth is known."""
    judges = choose_encoders("embedded", request.judge_texts, eye=FeatureExtractor(), dual=load_dual_encoder)
    return Scorer(request.folder, benchmark, judges.pictures, PictureDistance(), Reader(), judges.texts)


def measured(scorer: Scorer, trials: Sequence[Trial]) -> Generator[Event, None, Values]:
    """Score subject by subject."""
    groups, scored = by_subject(trials), []
    for number, own in enumerate(groups, start=1):
        scored.append((own, scorer.rows(own)))
        yield Progress("scores", number, len(groups))
    return gather(scored)


def _notes() -> list[str]:
    """Return the notes of `evaluate characters` on columns that this table has too."""
    return [
        note
        for note in NOTES
        if note.startswith(("Truth", "Subject fidelity", "Prompt fidelity", "Change made", "Drift", "DIV"))
    ]


def _written(report: PaperReport, request: BenchmarkRequest) -> Generator[Event, None, None]:
    """Show the table and the sentences, and write the files."""
    titles, rows = report.table()
    yield Table(report.title, titles, tuple(rows))
    for experiment in report.experiments:
        yield Notice(0, report.sentence(experiment))
    drawn = {figure_name(experiment): figure(report, experiment) for experiment in report.experiments}
    figures = [f"![{one.title}]({figure_name(one)})" for one in report.experiments]
    page = "\n\n".join([report.to_markdown().rstrip("\n"), "## Figures", *figures]) + "\n"
    written = {**drawn, "paper.json": report.to_json().encode(), "paper.md": page.encode()}
    for name, content in written.items():
        atomic_write_bytes(request.output / name, content)
        yield Artifact(request.output / name, "report")


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the options."""
    made = parser("paper", __doc__)
    offer_budget(made, OFFERED)
    made.add_argument("--only", metavar="NAME[,NAME]", help=f"experiments out of {', '.join(EXPERIMENTS)}")
    return made.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    """Run the experiments and print what they say.

    Args:
        words: Options.

    Returns:
        Exit code: 0, or 2 when something given is not usable.
    """
    options = _options(words)
    return run_on_budget("paper", options, OFFERED, _USUAL, TINY, lambda request: paper(request, choose(options.only)))


if __name__ == "__main__":
    sys.exit(main())
