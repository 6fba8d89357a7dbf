"""What can be asked about benchmarks of personalisation; see `requests`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from sfumato.data.benchmark.schema import MOST_PICTURES, PICTURES
from sfumato.requests import BaseName, Flag, LearnRequest, Request, choices_of

PRIOR = "+prior"
"""What is written after a method that also keeps its class as it was."""
_TRIED_WITH_PRIOR = ("lora", "dreambooth")


def _split_commas(value: object) -> object:
    """Turn `lora,pivotal` and repeated flags into one list."""
    if isinstance(value, str):
        value = (value,)
    if isinstance(value, list | tuple):
        return tuple(part.strip() for item in value for part in str(item).split(",") if part.strip())
    return value


def _every_method() -> tuple[str, ...]:
    """Return every method of `sfumato learn`, the usual one and the one of all weights with class pictures too."""
    names: list[str] = []
    for method in choices_of(LearnRequest.model_fields["method"]):
        names += [method, method + PRIOR] if method in _TRIED_WITH_PRIOR else [method]
    return tuple(names)


Methods = Annotated[
    tuple[str, ...],
    BeforeValidator(_split_commas),
    Field(
        min_length=1,
        description="Methods of `sfumato learn`, separated by commas; +prior after one adds class pictures, as in "
        "lora+prior.",
    ),
    Flag(("--method", "--methods"), "NAME[,NAME]"),
]


Judges = Annotated[
    tuple[str, ...],
    BeforeValidator(_split_commas),
    Field(
        min_length=1,
        description="'embedded', 'dual', or folders with CLIP, DINO or DINOv2, separated by commas; the first one "
        "measures PRES and drift.",
    ),
    Flag(("--judge-pictures",), "NAME|DIR[,…]"),
]


class CharactersDataRequest(Request):
    """Build a benchmark with truth: held-out people and icons, prompts, and the picture each asks for."""

    output: Annotated[Path, Field(description="New folder to write."), Flag((), "OUT", True)]
    seed: Annotated[int, Field(ge=0, description="Decides who is chosen and what is asked.")] = 0
    count: Annotated[int, Field(ge=0, le=420, description="Number of drawn people.")] = 10
    icons: Annotated[bool, Field(description="Take the five held-out icons too.")] = True
    pictures: Annotated[int, Field(ge=1, le=MOST_PICTURES, description="Pictures of each to learn from.")] = PICTURES
    primer: Annotated[Path, Field(description="Folder written by `sfumato data primer`."), Flag(metavar="DIR")] = Path(
        "runs/primer"
    )
    packages: Annotated[
        Path | None,
        Field(description="A node_modules folder to use instead of installing the packages."),
        Flag(metavar="DIR"),
    ] = None


class BenchmarkRequest(Request):
    """What every benchmark of personalisation is asked for."""

    folder: Annotated[Path, Field(description="Folder of the benchmark."), Flag((), "DIR", True)]
    base: BaseName = "primer"
    methods: Methods = _every_method()
    baseline: Annotated[bool, Field(description="Ask the untrained base too, in words that it knows.")] = True
    subjects: Annotated[
        int | None, Field(ge=1, description="Take that many subjects, spread over their kinds; default: all.")
    ] = None
    prompts: Annotated[int | None, Field(ge=1, description="Take that many prompts of each; default: all.")] = None
    pictures: Annotated[int, Field(ge=1, le=64, description="Pictures drawn for each prompt.")] = 2
    steps: Annotated[
        int | None,
        Field(ge=1, le=1_000_000, description="Optimizer steps of each lesson; default: as in learn."),
    ] = None
    batch_size: Annotated[int, Field(ge=1, le=256, description="Pictures of the subject per step.")] = 4
    rank: Annotated[
        int | None, Field(ge=1, le=1024, description="Rank of the low-rank factors; default: by method.")
    ] = None
    lr: Annotated[float | None, Field(gt=0, le=1, description="Highest learning rate; default: the method's.")] = None
    prior_weight: Annotated[
        float, Field(gt=0, le=10, description="Weight of class pictures where +prior is asked.")
    ] = 1.0
    num_class_images: Annotated[int, Field(ge=1, le=10_000, description="Number of class pictures.")] = 32
    cache: Annotated[
        Path | None,
        Field(description="Keep encoded pictures and texts here for other runs; default: with the run."),
        Flag(metavar="DIR"),
    ] = None
    draw_steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps of every picture.")] = 20
    guidance_scale: Annotated[
        float, Field(ge=0, le=100, description="How strictly to follow the text."), Flag(("--guidance",))
    ] = 4.0
    judge_texts: Annotated[
        str,
        Field(description="What compares pictures and prompts: 'auto', 'none', 'dual', or a folder with CLIP."),
        Flag(metavar="NAME|DIR"),
    ] = "auto"
    seed: Annotated[int, Field(ge=0, le=2**53 - 1, description="Seed of lessons and pictures.")] = 0
    output: Annotated[Path, Field(description="Folder for results."), Flag(("-o", "--output"), "DIR")] = Path(
        "out/benchmark"
    )


class EvaluateCharactersRequest(BenchmarkRequest):
    """Score methods on a benchmark with truth, written by `sfumato data characters`."""

    primer: Annotated[
        Path | None,
        Field(description="Folder written by `sfumato data primer`; its pictures teach how attributes are read."),
        Flag(metavar="DIR"),
    ] = None
    output: Annotated[Path, Field(description="Folder for results."), Flag(("-o", "--output"), "DIR")] = Path(
        "out/characters"
    )


class EvaluateDreamBenchRequest(BenchmarkRequest):
    """Run the DreamBooth protocol on a folder in the layout of google/dreambooth."""

    pictures: Annotated[int, Field(ge=1, le=64, description="Pictures drawn for each prompt.")] = 4
    live: Annotated[
        tuple[str, ...],
        Field(description="Class that gets the prompts for live subjects; may be given again."),
        Flag(("--live",), "CLASS"),
    ] = ("cat", "dog")
    judge_pictures: Judges = ("embedded",)
    output: Annotated[Path, Field(description="Folder for results."), Flag(("-o", "--output"), "DIR")] = Path(
        "out/dreambench"
    )
