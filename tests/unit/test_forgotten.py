"""Weights that somebody changes by hand: after `forget` a pipeline draws and names what they are now."""

from __future__ import annotations

import torch

from sfumato.pipeline import Pipeline, Settings
from tiny import tiny_bundle

SETTINGS = Settings(steps=2)


def changed(pipeline: Pipeline) -> Pipeline:
    """Change every kernel so that nothing notices: its place in memory and its version stay."""
    for layer in pipeline.bundle.unet.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data.mul_(1.25)
    return pipeline


def test_changed_weights_are_drawn_with_and_named_after_forget() -> None:
    pipeline = Pipeline(tiny_bundle())
    before, old = pipeline.images(["a red fox"], [0], SETTINGS)[0], pipeline.bundle.base_hash
    changed(pipeline).forget()
    fresh = changed(Pipeline(tiny_bundle()))
    drawn = pipeline.images(["a red fox"], [0], SETTINGS)[0]
    assert torch.equal(drawn, fresh.images(["a red fox"], [0], SETTINGS)[0]) and not torch.equal(drawn, before)
    assert pipeline.bundle.base_hash == fresh.bundle.base_hash != old
