"""sfumato: a workbench for latent diffusion.

Names are loaded when they are first used, so that `import sfumato` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sfumato.api import generate, learn, load, plan
    from sfumato.errors import SfumatoError
    from sfumato.events import (
        Artifact,
        Checkpoint,
        Done,
        Event,
        Finding,
        Metric,
        Notice,
        Preview,
        Progress,
        Step,
        Table,
        Verdict,
    )
    from sfumato.formats.bundle import Bundle, load_bundle, save_bundle
    from sfumato.formats.concept import Concept, load_concept
    from sfumato.formats.png_recipe import read_recipe
    from sfumato.operations import run
    from sfumato.operations.learn_plan import LearnPlan
    from sfumato.operations.pictures import Picture
    from sfumato.pipeline import Pipeline, Settings
    from sfumato.requests import (
        DemoRequest,
        DoctorRequest,
        EvaluateRequest,
        GenerateRequest,
        LearnRequest,
        PrimerDataRequest,
        ReplayRequest,
        TrainRequest,
    )
    from sfumato.samplers import SAMPLERS

__version__ = "0.1.0"

_HOMES = {
    "sfumato.api": ("generate", "learn", "load", "plan"),
    "sfumato.errors": ("SfumatoError",),
    "sfumato.events": (
        "Artifact",
        "Checkpoint",
        "Done",
        "Event",
        "Finding",
        "Metric",
        "Notice",
        "Preview",
        "Progress",
        "Step",
        "Table",
        "Verdict",
    ),
    "sfumato.formats.bundle": ("Bundle", "load_bundle", "save_bundle"),
    "sfumato.formats.concept": ("Concept", "load_concept"),
    "sfumato.formats.png_recipe": ("read_recipe",),
    "sfumato.operations": ("run",),
    "sfumato.operations.learn_plan": ("LearnPlan",),
    "sfumato.operations.pictures": ("Picture",),
    "sfumato.pipeline": ("Pipeline", "Settings"),
    "sfumato.requests": (
        "DemoRequest",
        "DoctorRequest",
        "EvaluateRequest",
        "GenerateRequest",
        "LearnRequest",
        "PrimerDataRequest",
        "ReplayRequest",
        "TrainRequest",
    ),
    "sfumato.samplers": ("SAMPLERS",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "SAMPLERS",
    "Artifact",
    "Bundle",
    "Checkpoint",
    "Concept",
    "DemoRequest",
    "DoctorRequest",
    "Done",
    "EvaluateRequest",
    "Event",
    "Finding",
    "GenerateRequest",
    "LearnPlan",
    "LearnRequest",
    "Metric",
    "Notice",
    "Picture",
    "Pipeline",
    "Preview",
    "PrimerDataRequest",
    "Progress",
    "ReplayRequest",
    "Settings",
    "SfumatoError",
    "Step",
    "Table",
    "TrainRequest",
    "Verdict",
    "__version__",
    "generate",
    "learn",
    "load",
    "load_bundle",
    "load_concept",
    "plan",
    "read_recipe",
    "run",
    "save_bundle",
]


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
