"""The settings of `sfumato learn` that go beyond what, how long and how strongly: optimizer, loss, pictures.

A setting that is not given keeps its default in the trainer, which may depend on the method and the optimizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sfumato.flags import Flag, Request

_PLACES: Mapping[str, str] = {
    "lr": "optim.lr",
    "steps": "loop.steps",
    "save_every": "loop.save_every",
    "optimizer": "optim.name",
    "schedule": "optim.schedule",
    "warmup": "optim.warmup_steps",
    "accumulate": "loop.accumulate",
    "ema_decay": "ema.decay",
    "gradient_checkpointing": "gradient_checkpointing",
    "precision": "precision",
    "loss": "objective.loss",
    "weighting": "objective.weighting",
    "gamma": "objective.gamma",
    "offset_noise": "objective.offset_noise",
    "times": "objective.times",
    "masks": "pictures.masks",
    "mask_folder": "pictures.mask_folder",
    "unmasked_weight": "pictures.unmasked_weight",
    "buckets": "pictures.buckets",
    "variants": "pictures.variants",
    "crop": "pictures.crop",
    "jitter": "pictures.jitter",
    "word": "word",
    "say_class": "say_class",
    "strength": "strength",
    "factor": "factor",
    "preview_prompts": "preview_prompts",
}
Table = Annotated[dict[str, Any], Field(description="Settings of the trainer, in a file alone."), Flag(file_only=True)]


class LearnSettings(Request):
    """How a subject is learned."""

    places: ClassVar[Mapping[str, str]] = _PLACES

    optimizer: Annotated[
        Literal["adamw", "muon", "adafactor", "adamw-8bit", "lion", "prodigy", "schedule-free"] | None,
        Field(description="Optimizer; default: adamw."),
    ] = None
    schedule: Annotated[
        Literal["constant", "cosine", "linear", "trapezoid"] | None,
        Field(description="Course of the learning rate; default: cosine, for a word alone and schedule-free constant."),
    ] = None
    warmup: Annotated[int | None, Field(ge=0, description="Steps of linear warm-up; default: 5.")] = None
    accumulate: Annotated[int | None, Field(ge=1, description="Batches that make one step; default: 1.")] = None
    ema_decay: Annotated[
        float | None,
        Field(ge=0, lt=1, description="Make a moving average with this decay the result; default: 0, none."),
        Flag(("--ema",), "DECAY"),
    ] = None
    gradient_checkpointing: Annotated[bool, Field(description="Save memory for time.")] = False
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        Field(
            description="Numbers to compute in while learning; bf16 takes less memory and is faster on processors with "
            "AMX or AVX512-bf16, slower on others. Default: fp32."
        ),
    ] = None
    loss: Annotated[
        Literal["l1", "l2", "huber", "pseudo_huber"] | None, Field(description="Error that is descended; default: l2.")
    ] = None
    weighting: Annotated[
        Literal["none", "min_snr", "debiased"] | None,
        Field(description="Weight of the loss by noise level; default: none."),
    ] = None
    gamma: Annotated[float | None, Field(gt=0, description="Ceiling of min_snr; default: 5.")] = None
    offset_noise: Annotated[
        float | None, Field(ge=0, le=1, description="Share of noise that shifts whole channels; default: 0.")
    ] = None
    times: Annotated[
        Literal["uniform", "logit_normal"] | None,
        Field(description="How training times are drawn; default: uniform."),
    ] = None
    masks: Annotated[
        Literal["none", "alpha", "file"] | None,
        Field(
            description="What of a picture is learned: all, what is solid (alpha), or what is white in a file beside "
            "it, NAME.mask.png or NAME-masklabel.png (file); default: none."
        ),
    ] = None
    mask_folder: Annotated[
        Path | None,
        Field(description="Folder of masks with the names of their pictures, for --masks file; default: beside them."),
        Flag(metavar="DIR"),
    ] = None
    unmasked_weight: Annotated[
        float | None, Field(ge=0, le=1, description="How much the rest counts; default: 0.1.")
    ] = None
    buckets: Annotated[
        bool, Field(description="Keep the proportions of pictures that are not square; off: their middle squares.")
    ] = False
    variants: Annotated[
        int | None, Field(ge=1, le=1000, description="Variants of each picture, for --crop and --jitter; default: 1.")
    ] = None
    crop: Annotated[
        float | None, Field(ge=0, lt=1, description="Largest share of a side that a variant cuts off; default: 0.")
    ] = None
    jitter: Annotated[
        float | None, Field(ge=0, lt=1, description="Largest change of a variant's colours; default: 0.")
    ] = None
    word: Annotated[str | None, Field(min_length=1, description="Rare word for --identifier rare.")] = None
    say_class: Annotated[
        bool, Field(description="Say the class noun after the word, where the method does; off: the word stands alone.")
    ] = True
    factor: Annotated[
        int | None, Field(ge=1, description="Side of lokr's small matrix; default: the divisor next to the root.")
    ] = None
    preview_prompts: Annotated[
        tuple[str, ...],
        Field(description="Text that is drawn at every save, or at loop.preview_every; may be given again."),
        Flag(("--preview",), "PROMPT"),
    ] = ()
    cache: Annotated[
        Path | None,
        Field(description="Keep encoded pictures and texts here for other runs; default: with the run."),
        Flag(metavar="DIR"),
    ] = None
    overrides: Annotated[
        tuple[str, ...],
        Field(description="Set any value of the trainer, for example optim.weight_decay=0.01; may be given again."),
        Flag(("--set",), "KEY=VALUE", sets_keys=True),
    ] = ()
    optim: Table = Field(default_factory=dict)
    objective: Table = Field(default_factory=dict)
    pictures: Table = Field(default_factory=dict)
    ema: Table = Field(default_factory=dict)
    loop: Table = Field(default_factory=dict)
