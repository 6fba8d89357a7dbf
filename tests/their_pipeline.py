"""The pipeline of diffusers on a folder of ours, and whether it draws what ours draws."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept
from sfumato.pipeline import Pipeline, Settings
from sfumato.runtime.seeding import noise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

STEPS = 8
"""Must divide 1000: diffusers' DDIM steps to `t - 1000 // steps`, which otherwise is not the next time it visits."""


def their_pipeline(folder: Path) -> Any:
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assert_same_with_concept(bundle: Bundle, concept: Concept, theirs: Any, prompt: str, plain: str) -> None:
    """Compare `a <fox>` with the concept on with their picture of a prompt; it must differ from the plain one."""
    pipeline = Pipeline(bundle)
    settings = Settings(steps=STEPS, sampler="ddim", guidance_scale=3.0)
    before = pipeline.images([plain], [1], settings)
    with pipeline.using((concept, 1.0)):
        ours = pipeline.images(["a <fox>"], [1], settings)
    expected = theirs(
        prompt,
        num_inference_steps=STEPS,
        guidance_scale=3.0,
        latents=noise((4, 8, 8), [1]),
        output_type="pt",
        height=32,
        width=32,
    ).images
    assert (ours - before).abs().max() > 0.01
    assert (expected - (ours / 2 + 0.5)).abs().max() <= 1e-4
