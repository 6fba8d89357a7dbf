"""Train a tiny model through the command line and draw with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sfumato.runtime.locks import only_one

Run = Callable[..., Any]
RECIPE = Path(__file__).parents[2] / "recipes" / "tiny.toml"
FEWER = (
    "--set",
    "loop.steps=4",
    "--set",
    "loop.preview_every=4",
    "--set",
    "loop.save_every=2",
    "--set",
    "ema.decay=0.5",
)


def test_one_training_at_a_time_in_a_folder(sfumato: Run) -> None:
    with only_one(Path("runs/tiny")):
        answer = sfumato("train", "denoiser", RECIPE, *FEWER)
    assert answer.code == 2 and "Another run works in 'runs/tiny'" in answer.err
    assert not Path("runs").exists()


def test_train_resume_and_draw(sfumato: Run) -> None:
    answer = sfumato("train", "denoiser", RECIPE, *FEWER, "--json")
    assert answer.code == 0, answer.out
    events = [json.loads(line) for line in answer.out.splitlines()]
    kinds = {event["event"] for event in events}
    assert {"progress", "metric", "preview", "checkpoint", "artifact", "done"} <= kinds
    assert events[-1]["info"] == {"step": 4, "steps": 4, "stopped": None}
    (bundle,) = [event["path"] for event in events if event["event"] == "artifact"]
    assert Path(bundle) == Path("runs/tiny/bundle")
    again = sfumato("train", "denoiser", RECIPE, *FEWER)
    assert again.code == 2 and "'runs/tiny' already holds a run. Resume it (--resume)" in again.err
    longer = ("--set", "loop.steps=6", *FEWER[2:], "--resume")
    assert sfumato("train", "denoiser", RECIPE, *longer).code == 0
    answer = sfumato("generate", "a large red circle on a blue background", "--base", bundle, "--steps", 4)
    assert answer.code == 0, answer.err
    assert sfumato("replay", "out/a-large-red-circle-on-a-blue-background-0.png").code == 0
