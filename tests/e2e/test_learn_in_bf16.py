"""Learning in bf16: frozen weights are held in it, a base that is handed in stays as it is, files as of any lesson."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import CannotResume
from sfumato.events import Metric, Notice
from sfumato.formats.bundle import Bundle, load_bundle
from sfumato.formats.concept import load_concept
from sfumato.operations import learn as operation
from sfumato.requests import LearnRequest
from sfumato.training import personalise
from sfumato.training.learn_config import LearnConfig
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS
from sfumato.training.personalise import learn
from sfumato.training.subject import Samples, read_subject

Run = Callable[..., Any]
LESSON = ("--as", "<fox>", "--class", "fox", "--steps", 2, "--batch-size", 1, "--verdict-steps", 2)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def bundle(request: pytest.FixtureRequest, base: Path) -> Bundle:
    return load_bundle(base, held_in=request.param)


def config(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    every = 3 if "preview_prompts" in changes else 0
    loop = LoopConfig(steps=4, log_every=1, save_every=2, preview_every=every, tensorboard=False)
    values = {"folder": folder, "placeholder": "<fox>", "class_noun": "fox", "output": output, "batch_size": 2}
    return LearnConfig(**{**values, "rank": 2, "precision": "bf16", "loop": loop, **changes})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_its_file_works_on_the_float32_base(
    sfumato: Run, base: Path, photos: Path, two_prompts: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Bundle] = []

    def load(*where: Any, **how: Any) -> Bundle:
        loaded.append(load_bundle(*where, **how))
        return loaded[-1]

    monkeypatch.setattr(operation, "load_bundle", load)
    rank = ("--rank", 2) if METHODS[method].has_rank else ()  # type: ignore[index]
    words = (
        *LESSON,
        *rank,
        "--verdict-prompts",
        two_prompts,
        "--base",
        base,
        "--method",
        method,
        "--precision",
        "bf16",
    )
    answer = sfumato("learn", photos, *words)
    assert answer.code == 0, answer.err
    (used,) = loaded
    assert used.held_in == ("fp32" if method == "dreambooth" else "bf16")
    concept = load_concept(Path("fox.safetensors"))
    assert concept.base_hash == used.base_hash == load_bundle(base).base_hash
    assert "verdict" in concept.lineage and concept.request["precision"] == "bf16"
    tensors = [tensor for factors in concept.factors.values() for tensor in factors.values()]
    tensors += [] if concept.main.rows is None else [concept.main.rows]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert all(bool(tensor.isfinite().all()) for tensor in tensors)
    drawn = sfumato("generate", "a <fox>", "--base", base, "--steps", 2, "--concept", "fox.safetensors")
    assert drawn.code == 0, drawn.err


@pytest.mark.usefixtures("base_stays")
def test_a_lesson_keeps_float32_factors_and_resumes(bundle: Bundle, photos: Path, tmp_path: Path) -> None:
    extra = {"preview_prompts": ("a <fox>",), "prior_weight": 0.5, "num_class_images": 2}
    whole = config(photos, tmp_path / "whole.safetensors", **extra)
    parted = config(photos, tmp_path / "parted.safetensors", **extra)
    events = list(learn(whole, bundle, tmp_path / "whole"))
    values = [event.values["learn/loss"] for event in events if isinstance(event, Metric)]
    if bundle.held_in == "fp32":
        plain = config(photos, tmp_path / "plain.safetensors", precision="fp32", **extra)
        exact = [e.values["learn/loss"] for e in learn(plain, bundle, tmp_path / "plain") if isinstance(e, Metric)]
        assert values != exact and values == pytest.approx(exact, rel=0.02)
    run = learn(parted, bundle, tmp_path / "parted")
    next(event for event in run if isinstance(event, Metric) and event.step == 3)
    run.close()
    list(learn(parted, bundle, tmp_path / "parted", resume=True))
    assert parted.output.read_bytes() == whole.output.read_bytes()
    factors = load_concept(whole.output).factors["unet"]
    assert {factor.dtype for factor in factors.values()} == {torch.float32}


def test_the_first_step_is_the_same_however_weights_are_held(base: Path, photos: Path, tmp_path: Path) -> None:
    losses = []
    for held_in in ("fp32", "bf16"):
        chosen = config(photos, tmp_path / f"{held_in}.safetensors")
        run = learn(chosen, load_bundle(base, held_in=held_in), tmp_path / held_in)  # type: ignore[arg-type]
        losses.append([event.values["learn/loss"] for event in run if isinstance(event, Metric)])
    assert losses[0] == losses[1]
    files = [load_concept(tmp_path / f"{held_in}.safetensors").factors for held_in in ("fp32", "bf16")]
    for part, factors in files[0].items():
        assert all(torch.equal(tensor, files[1][part][name]) for name, tensor in factors.items())


def test_a_run_does_not_go_on_with_weights_held_otherwise(base: Path, photos: Path, tmp_path: Path) -> None:
    chosen = config(photos, tmp_path / "fox.safetensors")
    run = learn(chosen, load_bundle(base, held_in="bf16"), tmp_path / "run")
    next(event for event in run if isinstance(event, Metric) and event.step == 3)
    run.close()
    with pytest.raises(CannotResume, match="held_in"):
        list(learn(chosen, load_bundle(base), tmp_path / "run", resume=True))


@pytest.mark.usefixtures("base_stays")
def test_a_poisoned_picture_is_named_and_survived(
    bundle: Bundle, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poisoned(*arguments: Any, **options: Any) -> Samples:
        samples = read_subject(*arguments, **options)
        assert isinstance(samples, Samples)
        mean = samples.mean.clone()
        mean[1] = float("nan")
        return replace(samples, mean=mean)

    monkeypatch.setattr(personalise, "read_subject", poisoned)
    chosen = config(photos, tmp_path / "fox.safetensors", batch_size=1)
    notices = [e.message for e in learn(chosen, bundle, tmp_path / "run") if isinstance(e, Notice)]
    assert any("the loss was nan" in message and "in sample 1.png" in message for message in notices)
    concept = load_concept(chosen.output)
    assert all(bool(t.isfinite().all()) for factors in concept.factors.values() for t in factors.values())


def test_a_base_that_is_handed_in_stays_float32(base: Path, photos: Path, tmp_path: Path) -> None:
    given = load_bundle(base)
    before = {name: tensor.clone() for name, tensor in given.unet.state_dict().items()}
    request = LearnRequest(
        folder=photos,
        placeholder="<fox>",
        class_noun="fox",
        steps=1,
        batch_size=1,
        precision="bf16",
        verdict=False,
        output=tmp_path / "fox.safetensors",
    )
    list(operation.learn(request, given))
    assert given.held_in == "fp32"
    for name, tensor in given.unet.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name])
