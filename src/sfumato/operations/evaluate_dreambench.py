"""Run the DreamBooth protocol on the user's pictures: subjects × prompts × seeds, for every method."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from sfumato.benchmark_requests import EvaluateDreamBenchRequest
from sfumato.data.dreambooth_folder import read_dreambooth
from sfumato.data.images import load_tensor, to_pixels
from sfumato.data.listing import list_entries
from sfumato.errors import ConfigError
from sfumato.evaluation.dreambench import NOTES, REAL, columns_of, dream_cases, score_dream
from sfumato.evaluation.encoders import Seeing, check_readable, choose_judges
from sfumato.evaluation.likeness import PictureDistance
from sfumato.evaluation.scoreboard import Entry, Scoreboard
from sfumato.evaluation.trial import BASELINE, Trial, by_subject, in_turns
from sfumato.evaluation.trial_grid import GridRow, trial_rows
from sfumato.events import Done, Progress
from sfumato.formats.bundle import load_bundle
from sfumato.formats.dual_encoder import load_dual_encoder
from sfumato.formats.png_recipe import check_folder
from sfumato.operations.benchmark_report import facts_of, write_board
from sfumato.operations.stream import Events
from sfumato.operations.trials import check_methods, notes_on, run_trials
from sfumato.runtime.suggestions import did_you_mean

_GRID_ROWS = 4


def evaluate_dreambench(request: EvaluateDreamBenchRequest) -> Events:
    """Run methods on a dataset and write `dreambench.json`, `dreambench.md` and `dreambench.png`.

    Args:
        request: Dataset, base, methods and budget. Lessons and pictures are kept in the output folder: the same command
            again goes on.

    Yields:
        The events of lessons and drawing, the table, the files and `Done`.

    Raises:
        ConfigError: A method is unknown, or an encoder does not know what it is asked for.
        CheckpointError: An encoder cannot be read; that is found before the first lesson.
        DataError: The dataset is not usable.
        SfumatoError: The base or a lesson is not usable.
    """
    started = time.perf_counter()
    check_methods(request)
    check_folder(request.output)
    subjects = read_dreambooth(request.folder, request.live)
    _check_live(request, {subject.class_noun for subject in subjects})
    cases = in_turns(dream_cases(subjects), request.subjects)
    bundle = load_bundle(request.base)
    judges, text = choose_judges(request.judge_pictures, request.judge_texts, dual=load_dual_encoder)
    check_readable(text, [asked.words for case in cases for asked in case.asked])
    encoders: dict[str, Seeing] = {judge.name: judge for judge in judges}
    trials = yield from run_trials(request, cases, bundle, bases=(BASELINE,))  # its words are the class noun alone
    entries: list[Entry] = []
    distance = PictureDistance()
    for number, own in enumerate(by_subject(trials), start=1):
        entries += score_dream(own, bundle.native_size, encoders, distance, text)
        yield Progress("scores", number, len(cases))
    order = [*dict.fromkeys(trial.method for trial in trials), REAL]
    board = Scoreboard(
        f"DreamBooth protocol on {bundle.name}: {len(cases)} of {len(subjects)} subjects",
        columns_of(list(encoders), None if text is None else text.name),
        sorted(entries, key=lambda entry: order.index(entry.method)),
        facts_of(request, bundle, {"subjects": [case.name for case in cases]}),
        [*NOTES, *notes_on(request.methods)],
        ceiling=REAL,
    )
    rows = _rows(trials, bundle.native_size)
    yield from write_board(board, rows, request.output, "dreambench", front=("real", "another"), not_drawn=REAL)
    yield Done(time.perf_counter() - started, {"subjects": len(cases), "trials": len(trials)})


def _rows(trials: Sequence[Trial], size: int) -> list[GridRow]:
    """Choose the rows of the sheet."""
    methods = list(dict.fromkeys(trial.method for trial in trials))
    rows: list[GridRow] = []
    for own in by_subject(trials):
        photos = [to_pixels(load_tensor(entry.path, size)) for entry in list_entries(own[0].case.folder)[:2]]
        another = {asked.name: photos[1:] for asked in own[0].case.asked}
        rows += trial_rows(own, another, photos[0], methods, _GRID_ROWS)
    return rows


def _check_live(request: EvaluateDreamBenchRequest, classes: Collection[str]) -> None:
    """Refuse live classes that were given and are none of the subjects': a spelling decides which prompts are drawn."""
    unknown = [name for name in request.live if name not in classes]
    if unknown and "live" in request.model_fields_set:
        raise ConfigError(
            f"--live: given '{unknown[0]}'; needed: classes out of {', '.join(sorted(classes))}.",
            field="live",
            hint=did_you_mean(unknown[0], sorted(classes)),
        )
