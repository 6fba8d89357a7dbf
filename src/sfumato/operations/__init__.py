"""Use cases: each takes a request and yields events, whoever shows them: the command line, a notebook, a program."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sfumato.benchmark_requests import CharactersDataRequest, EvaluateCharactersRequest, EvaluateDreamBenchRequest
from sfumato.concept_requests import ExportRequest
from sfumato.errors import ConfigError
from sfumato.operations.stream import Events
from sfumato.requests import (
    DemoRequest,
    DoctorRequest,
    EvaluateRequest,
    GenerateRequest,
    LearnRequest,
    PrimerDataRequest,
    ReplayRequest,
    Request,
    TrainRequest,
)

if TYPE_CHECKING:
    from sfumato.pipeline import Pipeline


def run(request: Request, sources: Mapping[str, str] | None = None, pipeline: Pipeline | None = None) -> Events:
    """Start the use case of a request.

    Each use case is imported when it is asked for: drawing a picture needs neither the trainer nor the evaluation.

    Args:
        request: Any request of `sfumato.requests`, `sfumato.benchmark_requests` or `sfumato.concept_requests`.
        sources: Where each field came from, which a plan tells; None where nothing tells.
        pipeline: For a `GenerateRequest`: a loaded base to use instead of the one that the request names.

    Returns:
        Its events; closing the generator cancels the work and saves what can be saved.

    Raises:
        ConfigError: No use case takes this kind of request, or it takes no pipeline.
    """
    if pipeline is not None and not isinstance(request, GenerateRequest):
        raise _takes_no_pipeline(request)
    match request:
        case GenerateRequest():
            from sfumato.operations.generate import generate

            return generate(request, pipeline)
        case ReplayRequest():
            from sfumato.operations.replay import replay

            return replay(request)
        case LearnRequest():
            return _learned(request, sources)
        case DemoRequest():
            from sfumato.operations.demo import demo

            return demo(request)
        case ExportRequest():
            from sfumato.operations.export import export

            return export(request)
        case TrainRequest():
            from sfumato.operations.train import train

            return train(request)
        case PrimerDataRequest():
            from sfumato.operations.primer_data import primer_data

            return primer_data(request)
        case DoctorRequest():
            from sfumato.operations.doctor import doctor

            return doctor(request)
        case EvaluateRequest():
            from sfumato.operations.evaluate import evaluate

            return evaluate(request)
        case CharactersDataRequest() | EvaluateCharactersRequest() | EvaluateDreamBenchRequest():
            return _benchmark(request)
        case _:
            raise ConfigError(f"There is no use case for a {type(request).__name__}.", field="request")


def _takes_no_pipeline(request: Request) -> ConfigError:
    """Say which request a pipeline goes with."""
    return ConfigError(
        f"A pipeline was given with a {type(request).__name__}; only a GenerateRequest takes one.",
        field="pipeline",
        hint="Leave it out: the request names its base.",
    )


def _benchmark(request: CharactersDataRequest | EvaluateCharactersRequest | EvaluateDreamBenchRequest) -> Events:
    """Start what has to do with benchmarks of personalisation."""
    match request:
        case CharactersDataRequest():
            from sfumato.operations.characters_data import characters_data

            return characters_data(request)
        case EvaluateCharactersRequest():
            from sfumato.operations.evaluate_characters import evaluate_characters

            return evaluate_characters(request)
        case EvaluateDreamBenchRequest():
            from sfumato.operations.evaluate_dreambench import evaluate_dreambench

            return evaluate_dreambench(request)


def _learned(request: LearnRequest, sources: Mapping[str, str] | None) -> Events:
    """Start a lesson, or plan it."""
    if request.plan:
        from sfumato.operations.plan_lesson import plan_lesson

        return plan_lesson(request, sources)
    from sfumato.operations.learn import learn

    return learn(request)
