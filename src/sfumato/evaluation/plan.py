"""What a report on a base asks for: how many pictures of each kind, and how they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfumato.errors import ConfigError
from sfumato.runtime.suggestions import did_you_mean
from sfumato.runtime.toml_file import read_toml


class Table(BaseModel):
    """One table of the file: unknown keys and numbers that are not finite are refused, and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Drawing(Table):
    """How every picture is drawn.

    Attributes:
        steps: Sampler steps.
        sampler: One of `SAMPLERS`.
        guidance_scale: Strength of guidance; 1 is off.
        guidance_rescale: Share of the standard deviation to restore after guidance, 0 to 1.
        guidance_interval: Noise levels sigma at which guidance acts.
        batch_size: Pictures drawn at once; changes the speed, never the pictures.
    """

    steps: int = Field(default=20, ge=1)
    sampler: str = "dpm++2m"
    guidance_scale: float = Field(default=4.0, ge=0)
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    batch_size: int = Field(default=8, ge=1)


class Pictures(Table):
    """How many pictures are asked for; 0 leaves a kind out.

    Attributes:
        known_icons: Icons that are in the training set, in the same style.
        held_out_icons: Icons whose concept is in the training set, but not in the style asked for.
        pairs: Two icons in a relation.
        people: Drawn people of identities that are not in the training set.
        scenes: Captions of a mixture of training scenes, for the distance.
    """

    known_icons: int = Field(default=300, ge=0)
    held_out_icons: int = Field(default=300, ge=0)
    pairs: int = Field(default=150, ge=0)
    people: int = Field(default=200, ge=0)
    scenes: int = Field(default=250, ge=0)


class Probes(Table):
    """What the linear classifiers are fitted to.

    Attributes:
        icons: Real training icons for the style.
        people: Real pictures of training people for their attributes.
    """

    icons: int = Field(default=2500, ge=20)
    people: int = Field(default=3500, ge=20)


class EvaluationPlan(Table):
    """Everything that decides a report, apart from the base and the data.

    Attributes:
        seed: Decides prompts, seeds of pictures and resampling.
        drawing: How pictures are drawn.
        pictures: How many of each kind.
        probes: What the classifiers learn from.
    """

    seed: int = 0
    drawing: Drawing = Drawing()
    pictures: Pictures = Pictures()
    probes: Probes = Probes()


def load_plan(path: Path | None) -> EvaluationPlan:
    """Read a plan from a TOML file.

    Args:
        path: The file; `None` gives the usual plan.

    Raises:
        ConfigError: The file is not TOML, a key is unknown or a value is out of range.
    """
    if path is None:
        return EvaluationPlan()
    try:
        return EvaluationPlan.model_validate(read_toml(path))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(str(problem["loc"][-1]), _known(problem["loc"][:-1]))
            raise ConfigError(f"{path}: unknown key {key!r}.", field=key, hint=hint) from error
        reason = f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
        raise ConfigError(f"{path}: {key} is {problem['input']!r}; {reason}.", field=key) from error


def _known(place: tuple[int | str, ...]) -> list[str]:
    """Return the keys of a table."""
    table: Any = EvaluationPlan
    for part in place:
        annotation = table.model_fields[str(part)].annotation
        table = next(iter(get_args(annotation)), annotation)
    return list(table.model_fields)
