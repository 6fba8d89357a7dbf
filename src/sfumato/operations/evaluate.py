"""Measure a base model on fixed prompts and seeds."""

from __future__ import annotations

from sfumato.data.primer.library import Primer
from sfumato.evaluation.base import evaluate_base
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.plan import load_plan
from sfumato.evaluation.subject import subject_of
from sfumato.formats.bundle import load_bundle
from sfumato.formats.png_recipe import check_folder
from sfumato.operations.stream import Events
from sfumato.pipeline import Pipeline
from sfumato.requests import EvaluateRequest


def evaluate(request: EvaluateRequest) -> Events:
    """Measure a base and write `base.json`, `base.md` and `sheet.png`.

    Features of real pictures are kept in the folder `cache` of the training set, so that the next report is quicker.

    Args:
        request: Which base, which data, which plan, where to.

    Yields:
        Progress, the numbers, the files and `Done`.

    Raises:
        ConfigError: The plan is not usable.
        DataError: The training set is missing or damaged.
        CheckpointError: The base is not usable.
        StorageError: The report cannot be written.
    """
    check_folder(request.output)
    plan = load_plan(request.recipe)
    primer = Primer.open(request.data)
    subject = subject_of(Pipeline(load_bundle(request.base)))
    eye = FeatureExtractor(cache=request.data / "cache")
    yield from evaluate_base(subject, primer, plan, request.output, eye)
