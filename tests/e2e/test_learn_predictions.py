"""Lessons on bases that predict noise, as Stable Diffusion 1 does, or clean latents, or v without pure noise."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.diffusion.parameterization import Prediction
from sfumato.errors import ConfigError
from sfumato.events import Artifact, Metric, Step
from sfumato.formats.bundle import Bundle, save_bundle
from sfumato.formats.concept import load_concept
from sfumato.pipeline import Pipeline, Settings
from sfumato.runtime.seeding import generator
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS
from sfumato.training.objectives import DenoisingConfig, draw_times
from sfumato.training.optim import OptimConfig
from sfumato.training.personalise import learn
from sfumato.training.subject import read_subject
from tiny import tiny_bundle
from tiny_pictures import draw_discs

Run = Callable[..., Any]
BASES: tuple[tuple[Prediction, bool], ...] = (("eps", False), ("x_0", True), ("v", False))
LESSON = ("--as", "<fox>", "--class", "fox", "--steps", 4, "--save-every", 2, "--batch-size", 1, "--verdict-steps", 2)
DECAYING = OptimConfig(lr=1e-3, weight_decay=0.5, decay_all=True)
"""Of a word alone: the rows of the base's table stay as they are all the same (`base_stays`)."""

pytestmark = pytest.mark.usefixtures("base_stays")


@pytest.fixture(scope="module", params=BASES, ids=[f"{name}{'-zero-snr' if zero else ''}" for name, zero in BASES])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    prediction, zero_snr = request.param
    made = tiny_bundle(prediction=prediction, zero_snr=zero_snr)
    with torch.no_grad():  # texts are heard well, so that what a word alone changes stands out
        for name, weight in made.unet.named_parameters():
            if name.endswith("attn2.to_out.0.weight"):
                weight *= 4
    return made


@pytest.fixture(scope="module")
def stored(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the base."""
    folder = tmp_path_factory.mktemp("stored") / "tiny"
    save_bundle(bundle, folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_discs(tmp_path_factory.mktemp("pictures"), 3)


def config(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    loop = LoopConfig(**{"steps": 6, "log_every": 1, "save_every": 3, "tensorboard": False, **changes.pop("loop", {})})
    rank = {"rank": 4} if METHODS[changes.get("method", "lora")].has_rank else {}
    values = {"folder": folder, "placeholder": "<fox>", "class_noun": "fox", "output": output, "batch_size": 2}
    return LearnConfig(**{**values, **rank, "loop": loop, **changes})


@contextmanager
def learning(chosen: LearnConfig, bundle: Bundle) -> Iterator[Learner]:
    """Attach what learns to the base for the length of a `with` block."""
    learner = Learner(chosen, bundle, read_subject(chosen.folder, "<fox>", "fox", bundle))
    try:
        yield learner
    finally:
        learner.close()


def mean_loss(learner: Learner, draws: range) -> float:
    """Return the mean loss of some draws, whose pictures, times and noise are always the same."""
    with torch.no_grad():
        return float(np.mean([float(learner.loss(draw).loss) for draw in draws]))


def test_a_subject_is_learned_and_the_concept_draws_it(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    changes = {"batch_size": 4, "targets": ("all",), "optim": OptimConfig(lr=1e-2, weight_decay=0.0)}
    chosen = config(pictures, tmp_path / "fox.safetensors", loop={"steps": 60, "save_every": 60}, **changes)
    events = list(learn(chosen, bundle, tmp_path / "run"))
    losses = [event.values["learn/loss"] for event in events if isinstance(event, Metric)]
    with learning(chosen, bundle) as beginner:
        assert np.mean(losses[-20:]) < 0.8 * mean_loss(beginner, range(40, 60)), "the same draws before the lesson"
    (made,) = (event.path for event in events if isinstance(event, Artifact))
    samples = read_subject(pictures, "<fox>", "fox", bundle)
    pipeline, settings = Pipeline(bundle), Settings(steps=8, guidance_scale=1.0)

    def distance(prompt: str) -> float:
        """Of sampled latents to the nearest picture."""
        *_, last = pipeline.generate([prompt], [1, 2, 3, 4], settings, decode=False)
        assert isinstance(last, Step)
        return float((last.x_t[:, None] - samples.mean[None]).square().mean((2, 3, 4)).min(1).values.mean())

    before = distance("a fox")
    with pipeline.using((load_concept(made), 1.0)):
        assert distance("a <fox>") < 0.7 * before


def test_eps_at_pure_noise_is_refused_before_anything_is_drawn(pictures: Path, tmp_path: Path) -> None:
    made = tiny_bundle(prediction="eps", zero_snr=True)
    with pytest.raises(ConfigError, match="predicts eps, but its schedule ends in pure noise") as refused:
        next(iter(learn(config(pictures, tmp_path / "fox.safetensors"), made, tmp_path / "run")))
    assert refused.value.field == "base" and not (tmp_path / "run").exists()


def test_a_word_alone_is_learned(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    changes = {"method": "textual-inversion", "batch_size": 4, "optim": OptimConfig(lr=1e-2, weight_decay=0.0)}
    chosen = config(pictures, tmp_path / "fox.safetensors", loop={"steps": 50, "save_every": 50}, **changes)
    list(learn(chosen, bundle, tmp_path / "run"))
    learned = load_concept(chosen.output).main.rows
    with learning(chosen, bundle) as learner:
        rows = learner.words.rows
        assert rows is not None and learned is not None
        before = mean_loss(learner, range(1000, 1040))
        rows.rows.data = learned
        assert mean_loss(learner, range(1000, 1040)) < before, "draws that the lesson has not seen"
    pipeline = Pipeline(bundle)
    with pipeline.using((load_concept(chosen.output), 1.0)):
        said = pipeline.context("a <fox> on a blue background")
        assert not torch.equal(said, pipeline.context("a fox on a blue background"))


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"weighting": "min_snr", "offset_noise": 0.1}, "prior_weight": 0.5, "num_class_images": 2},
        {"objective": {"weighting": "debiased"}, "method": "textual-inversion", "num_vectors": 2, "optim": DECAYING},
    ],
    ids=["lora", "textual-inversion"],
)
def test_a_resumed_lesson_ends_with_the_same_bytes(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    changes = {**changes, "objective": DenoisingConfig(text_dropout=0.1, **changes["objective"]), "flip": True}
    whole = config(pictures, tmp_path / "whole.safetensors", **changes)
    parted = config(pictures, tmp_path / "parted.safetensors", **changes)
    list(learn(whole, bundle, tmp_path / "whole"))
    run = learn(parted, bundle, tmp_path / "parted")
    next(event for event in run if isinstance(event, Metric) and event.step == 5)
    run.close()
    list(learn(parted, bundle, tmp_path / "parted", resume=True))
    assert parted.output.read_bytes() == whole.output.read_bytes()


WEIGHTS: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
    ("eps", "min_snr"): lambda snr: snr.clamp(max=5) / snr,
    ("x_0", "min_snr"): lambda snr: snr.clamp(max=5),
    ("v", "min_snr"): lambda snr: snr.clamp(max=5) / (snr + 1),
    ("eps", "debiased"): lambda snr: snr**-0.5,
    ("x_0", "debiased"): lambda snr: snr**0.5,
    ("v", "debiased"): lambda snr: snr**0.5 / (snr + 1),
}


@pytest.mark.parametrize("weighting", ["min_snr", "debiased"])
def test_a_loss_is_weighted_as_the_prediction_needs(bundle: Bundle, pictures: Path, weighting: str) -> None:
    rows: dict[str, Tensor] = {}
    for name in ("none", weighting):
        chosen = config(pictures, Path("fox.safetensors"), objective=DenoisingConfig(weighting=name, text_dropout=0.0))
        with learning(chosen, bundle) as learner, torch.no_grad():
            reports = [learner.loss(draw) for draw in range(8)]
        rows[name] = torch.cat([report.per_sample for report in reports if report.per_sample is not None])
    t = [draw_times(chosen.objective, 2, 1000, generator(0, "train/times", draw)) for draw in range(8)]
    kept = bundle.schedule.alphas_cumprod[torch.cat(t)]
    wanted = WEIGHTS[bundle.prediction, weighting](kept / (1 - kept)).float()
    torch.testing.assert_close(rows[weighting], rows["none"] * wanted, rtol=1e-4, atol=0)


def learned_and_judged(sfumato: Run, stored: Path, pictures: Path, *more: object) -> None:
    """Learn through the command line and check what the verdict says."""
    answer = sfumato("learn", pictures, *LESSON, *more, "--base", stored, "--lr", 0.05, "--json")
    assert answer.code == 0, answer.err
    lines = [json.loads(line) for line in answer.out.splitlines()]
    (verdict,) = (line for line in lines if line["event"] == "verdict")
    assert verdict["step"] in (2, 4) and np.isfinite(verdict["scores"]["subject_fidelity"])
    assert load_concept(Path("fox.safetensors")).lineage["verdict"]["steps"] == [2, 4]


def drawn(sfumato: Run, stored: Path, concept: str, output: str) -> Path:
    """Draw with the concept through the command line, and draw the same picture again."""
    answer = sfumato("generate", "a <fox>", "--base", stored, "--steps", 3, "--concept", concept, "-o", output)
    assert answer.code == 0, answer.err
    picture = Path(output, "a-fox-0.png")
    answer = sfumato("replay", picture)
    assert answer.code == 0, answer.err
    return picture


def test_the_verdict_runs_and_the_concept_is_drawn(
    sfumato: Run, stored: Path, pictures: Path, two_prompts: Path
) -> None:
    few = ("--verdict-prompts", two_prompts)
    learned_and_judged(sfumato, stored, pictures, *few, "--rank", 2, "--weighting", "min_snr")
    with_it, without = (drawn(sfumato, stored, f"fox.safetensors:{strength}", f"at-{strength}") for strength in (1, 0))
    assert with_it.read_bytes() != without.read_bytes()


@pytest.mark.parametrize("bundle", BASES[:1], indirect=True, ids=["eps"])
def test_a_word_is_judged_and_drawn(sfumato: Run, stored: Path, pictures: Path, two_prompts: Path) -> None:
    few = ("--verdict-prompts", two_prompts)
    learned_and_judged(sfumato, stored, pictures, *few, "--method", "textual-inversion", "--weighting", "debiased")
    drawn(sfumato, stored, "fox.safetensors", "out")
