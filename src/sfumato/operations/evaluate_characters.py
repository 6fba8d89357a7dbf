"""Score methods of personalisation on subjects whose true pictures are known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sfumato.benchmark_requests import EvaluateCharactersRequest
from sfumato.data.benchmark.schema import Benchmark, open_benchmark
from sfumato.data.images import load_image
from sfumato.data.listing import list_entries
from sfumato.data.primer.library import Primer
from sfumato.errors import ConfigError
from sfumato.evaluation.characters import COLUMNS, DETAILS, NOTES, TRUTH, Scorer, cases_of, wanted_attributes
from sfumato.evaluation.encoders import choose_encoders
from sfumato.evaluation.features import FeatureExtractor, Measuring
from sfumato.evaluation.likeness import PictureDistance
from sfumato.evaluation.probes import check_available
from sfumato.evaluation.reading import Reader, fit_reader
from sfumato.evaluation.scoreboard import Entry, Scoreboard
from sfumato.evaluation.trial import Trial, by_subject, in_turns
from sfumato.evaluation.trial_grid import GridRow, trial_rows
from sfumato.events import Done, Notice, Progress
from sfumato.formats.bundle import load_bundle
from sfumato.formats.dual_encoder import load_dual_encoder
from sfumato.formats.png_recipe import check_folder
from sfumato.operations.benchmark_report import facts_of, write_board
from sfumato.operations.stream import Events
from sfumato.operations.trials import check_methods, notes_on, run_trials

_GRID_ROWS = 5


def evaluate_characters(request: EvaluateCharactersRequest) -> Events:
    """Run methods on a benchmark and write `characters.json`, `characters.md` and `characters.png`.

    Args:
        request: Benchmark, base, methods and budget. Lessons and pictures are kept in the output folder: the same
            command again goes on.

    Yields:
        The events of lessons and drawing, the table, the files and `Done`.

    Raises:
        ConfigError: A method is unknown.
        DataError: The benchmark or the training set is not usable.
        SfumatoError: The base or a lesson is not usable.
    """
    started = time.perf_counter()
    check_methods(request)
    check_folder(request.output)
    benchmark = open_benchmark(request.folder)
    primer = None if request.primer is None else _primer(request.primer, benchmark)
    cases = in_turns(cases_of(request.folder, benchmark), request.subjects)
    bundle = load_bundle(request.base)
    eye = FeatureExtractor(cache=None if request.primer is None else request.primer / "cache")
    judges = choose_encoders("embedded", request.judge_texts, eye=eye, dual=load_dual_encoder)
    if primer is not None and wanted_attributes(benchmark, cases):
        check_available()  # found before the first lesson
    trials = yield from run_trials(request, cases, bundle)
    reader, notes = Reader(), [*NOTES, *notes_on(request.methods)]
    if judges.texts is not None:
        notes.append(f"Prompt fidelity is judged by {judges.texts.name}.")
    wanted = wanted_attributes(benchmark, [trial.case for trial in trials])
    if primer is None and wanted:
        notes.append("Attributes of drawn people were not read: that needs the training set (--primer).")
        yield Notice(0, notes[-1])
    elif primer is not None and wanted:
        reader = yield from fit_reader(primer, eye, wanted)
    scorer = Scorer(request.folder, benchmark, judges.pictures, PictureDistance(), reader, judges.texts)
    entries = yield from _scored(scorer, trials)
    board = Scoreboard(
        f"Personalising {bundle.name}: {len(cases)} subjects with known truth",
        COLUMNS,
        entries,
        facts_of(request, bundle, {"seed": benchmark.seed, "primer": benchmark.primer}),
        notes,
        ceiling=TRUTH,
        details=DETAILS,
    )
    rows = _rows(request.folder, benchmark, trials)
    yield from write_board(
        board, rows, request.output, "characters", front=("learned from", "the truth"), not_drawn=TRUTH
    )
    yield Done(time.perf_counter() - started, {"subjects": len(cases), "trials": len(trials)})


def _primer(folder: Path, benchmark: Benchmark) -> Primer:
    """Open the training set, which must be the one that the subjects are held out from."""
    primer = Primer.open(folder)
    found = str(primer.manifest.get("sha256", ""))
    if found != benchmark.primer:
        raise ConfigError(
            f"--primer: {folder} has hash {found[:12] or 'none'}; the benchmark was made from {benchmark.primer[:12]}.",
            field="primer",
            hint="In another set its people may be among those that the classifiers learn from.",
        )
    return primer


def _scored(scorer: Scorer, trials: Sequence[Trial]) -> Measuring[list[Entry]]:
    """Score subject by subject."""
    groups, entries = by_subject(trials), list[Entry]()
    for number, own in enumerate(groups, start=1):
        entries += scorer.score(own)
        yield Progress("scores", number, len(groups))
    order = [*dict.fromkeys(trial.method for trial in trials), TRUTH]
    return sorted(entries, key=lambda entry: order.index(entry.method))


def _rows(folder: Path, benchmark: Benchmark, trials: Sequence[Trial]) -> list[GridRow]:
    """Choose the rows of the sheet."""
    subjects = {subject.name: subject for subject in benchmark.subjects}
    methods = list(dict.fromkeys(trial.method for trial in trials))
    rows: list[GridRow] = []
    for own in by_subject(trials):
        asked = {item.name for item in own[0].case.asked}
        wanted = {
            prompt.name: [load_image(folder / file).rgb for file in prompt.truths[:1]]
            for prompt in subjects[own[0].case.name].prompts
            if prompt.name in asked
        }
        learned = load_image(list_entries(own[0].case.folder)[0].path).rgb
        rows += trial_rows(own, wanted, learned, methods, _GRID_ROWS)
    return rows
