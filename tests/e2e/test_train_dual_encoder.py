"""Train a dual encoder through the command line; use the one that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from drawn_primer import drawn_primer
from sfumato.data.backgrounds import Background
from sfumato.data.compose import Scene, compose, compose_pair
from sfumato.data.contrasts import Contrasts
from sfumato.data.primer.library import IconRecord, Primer
from sfumato.errors import ConfigError
from sfumato.events import Artifact, Event, Metric, Progress
from sfumato.formats.dual_encoder import EMBEDDED_DUAL_ENCODER, load_dual_encoder
from sfumato.models.dual_encoder import ImageTextEncoder
from sfumato.training.dual_encoder import DualEncoderTrainer, train_dual_encoder
from sfumato.training.parts import start_weights
from sfumato.training.recipe_file import DualEncoderRecipe, load_recipe
from sfumato.training.text import learned_tokenizer
from tiny_primer import build_tiny_primer
from training_task import last_checkpoint, metrics, stop_after, tensor_bytes

Run = Callable[..., Any]
RECIPE = Path(__file__).parents[2] / "recipes" / "tiny-dual-encoder.toml"
MOST_BYTES = 12_000_000


@pytest.fixture(scope="module")
def primer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_primer(tmp_path_factory.mktemp("dual"))


@pytest.fixture(scope="module")
def sights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What was seen is kept here for all tests of this file."""
    return tmp_path_factory.mktemp("sights")


def recipe(primer: Path, sights: Path, **changes: Any) -> DualEncoderRecipe:
    given = {"data.folder": str(primer), "sights.folder": str(sights), "loop.tensorboard": False}
    short = {"loop.steps": 4, "loop.save_every": 2, "loop.log_every": 1, "loop.validate_every": 4}
    return load_recipe(RECIPE, DualEncoderRecipe, {**given, **short, **changes})


def test_train_resume_and_use(sfumato: Run, primer: Path, sights: Path) -> None:
    places = ("--set", f"data.folder={primer}", "--set", f"sights.folder={sights}", "--set", "loop.save_every=4")
    short = ("--set", "loop.steps=4", "--set", "loop.validate_every=4")
    answer = sfumato("train", "dual-encoder", RECIPE, *places, *short, "--json")
    assert answer.code == 0, answer.out
    events = [json.loads(line) for line in answer.out.splitlines()]
    assert {"progress", "metric", "checkpoint", "artifact", "done"} <= {event["event"] for event in events}
    (made,) = [event for event in events if event["event"] == "artifact"]
    assert Path(made["path"]) == Path("runs/tiny-dual-encoder/dual-encoder") and made["info"]["step"] == 4
    again = sfumato("train", "dual-encoder", RECIPE, *places, *short)
    assert again.code == 2 and "already holds a run. Resume it (--resume)" in again.err
    answer = sfumato("train", "dual-encoder", RECIPE, *places, "--set", "loop.steps=6", "--resume")
    assert answer.code == 0, answer.err
    encoder = load_dual_encoder(folder=Path("runs/tiny-dual-encoder"))
    assert encoder.embed_texts(["a unicorn on blue"]).shape == (1, 32)
    wrong = sfumato("train", "denoiser", RECIPE)
    assert wrong.code == 2 and "has kind = 'dual-encoder'; needed: 'denoiser'" in wrong.err


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resume_gives_the_same_bytes(tmp_path: Path, primer: Path, sights: Path, precision: str) -> None:
    given = recipe(primer, sights, precision=precision)
    whole = list(train_dual_encoder(given, tmp_path / "a"))
    stop_after(train_dual_encoder(given, tmp_path / "b"), 3)
    rest = list(train_dual_encoder(given, tmp_path / "b", resume=True))
    assert tensor_bytes(last_checkpoint(whole)) == tensor_bytes(last_checkpoint(rest))
    assert tensor_bytes(artifact(whole).path) == tensor_bytes(artifact(rest).path)
    assert set(tensor_bytes(last_checkpoint(whole))) >= {"dual_encoder.safetensors", "ema.safetensors"}
    shown = {event.phase for event in rest if isinstance(event, Progress)}
    assert shown == {"scenes"}, "a resumed run looks at nothing again"


def test_an_optimizer_that_averages_ships_its_average(tmp_path: Path, primer: Path, sights: Path) -> None:
    pytest.importorskip("schedulefree")
    given = recipe(primer, sights, **{"optim.name": "schedule-free", "optim.lr": 1e-2, "ema.decay": 0.0})
    events = list(train_dual_encoder(given, tmp_path))
    assert "ema.safetensors" not in tensor_bytes(last_checkpoint(events))
    made, learned = load_dual_encoder(folder=tmp_path), start_weights(tmp_path, "dual_encoder")
    name = "text_projection.weight"
    assert not torch.equal(made.network.state_dict()[name], learned[name].half().float())


def artifact(events: list[Event]) -> Artifact:
    """Return the finished folder."""
    (made,) = (event for event in events if isinstance(event, Artifact))
    return made


def test_it_learns_to_tell_scenes_apart(tmp_path: Path, primer: Path, sights: Path) -> None:
    given = recipe(primer, sights, **{"loop.steps": 60, "loop.validate_every": 60, "loop.save_every": 60})
    events = list(train_dual_encoder(given, tmp_path))
    losses = list(metrics(events, "dual_encoder/loss").values())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    (values,) = (e.values for e in events if isinstance(e, Metric) and "validation/one_fact" in e.values)
    assert values["validation/text_of_picture/recall_at_5"] > 0.45  # chance is 5 of 16
    assert set(values) >= {"validation/one_fact/background", "new_pictures/one_fact/style"}
    assert artifact(events).info["validation/one_fact"] == pytest.approx(values["validation/one_fact"])


def test_every_scene_is_shown_once_a_round_and_captions_change(tmp_path: Path, primer: Path, sights: Path) -> None:
    given = recipe(primer, sights, wrong_captions=0.5)
    tokenizer = learned_tokenizer(given, tmp_path)
    assert tokenizer is not None
    trainer = DualEncoderTrainer(given, tmp_path, tokenizer)
    list(trainer.prepare())
    rounds = [sorted(n for draw in draws for n in trainer._numbers(draw).tolist()) for draws in (range(4), range(4, 8))]
    assert rounds[0] == rounds[1] == list(range(64))
    numbers = trainer._numbers(0)
    (right, wrong), (again, _), (other, _) = (trainer._captions(numbers, draw) for draw in (0, 0, 1))
    assert right == again != other and len(right) == 16 and 3 <= len(wrong) <= 13
    trainer.task()
    started = DualEncoderTrainer(
        recipe(primer, sights, init_from=str(run(given, tmp_path / "first"))), tmp_path, tokenizer
    )
    list(started.prepare())
    kept = start_weights(tmp_path / "first", "dual_encoder")
    assert all((kept[key] == value).all() for key, value in started.network.state_dict().items())


def run(given: DualEncoderRecipe, folder: Path) -> Path:
    """Train and return the run's folder."""
    list(train_dual_encoder(given, folder))
    return folder


def test_a_batch_larger_than_the_scenes_is_refused(tmp_path: Path, primer: Path, sights: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size is 128, but there are only 64 scenes"):
        list(train_dual_encoder(recipe(primer, sights, batch_size=128), tmp_path))


@pytest.fixture(scope="module")
def shipped() -> ImageTextEncoder:
    return load_dual_encoder()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Primer:
    """Shapes that the primer has too, under the names that it gives them."""
    made = drawn_primer(tmp_path_factory.mktemp("drawn"), people=False)
    named = {"crimson-disc": "red circle", "emerald-disc": "green circle", "emerald-square": "green square",
             "crimson-square": "red square", "crimson-triangle": "red triangle pointed up"}  # fmt: skip
    icons = [
        IconRecord(icon.concept, icon.style, named[icon.concept], "symbols", (), (), (), "train", icon.file)
        for icon in made.icons
        if icon.concept in named and icon.style == "flat"
    ]
    return Primer(made.folder, icons, [], made.manifest)


def scenes(primer: Primer) -> list[Scene]:
    """A handful of scenes of shapes on plain grounds."""
    concepts = [icon.concept for icon in primer.icons]
    grounds = [Background("plain", (name,)) for name in ("yellow", "white", "blue", "pink", "black")]
    single = [compose(primer, c, "flat", background=g) for c, g in zip(concepts, grounds, strict=True)]
    pairs = [
        compose_pair(primer, (concepts[i], "flat"), relation, (concepts[i - 1], "flat"))
        for i, relation in enumerate(("left of", "above", "right of", "below"))
    ]
    return single + pairs


def test_the_shipped_one_keeps_within_its_size_and_names_its_sources() -> None:
    files = [path for path in EMBEDDED_DUAL_ENCODER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    assert {path.suffix for path in files} <= {".json", ".txt", ".md", ".safetensors"}
    card = (EMBEDDED_DUAL_ENCODER / "README.md").read_text(encoding="utf-8")
    for word in ("Apache-2.0", "CC-BY 4.0", "Noto Emoji", "Twemoji", "recall", "Limits"):
        assert word in card


def test_the_shipped_one_prefers_what_is_true(shipped: ImageTextEncoder, drawn: Primer) -> None:
    contrasts, right, wrong, shown = Contrasts(drawn), [], [], []
    for number, scene in enumerate(scenes(drawn)):
        for kind in ("background", "object", "relation"):
            found = contrasts.draw(scene.facts, np.random.default_rng(number), kind)  # type: ignore[arg-type]
            if found is not None:
                right.append(found.right)
                wrong.append(found.wrong)
                shown.append(scene.image)
    better = shipped.fidelity(shown, right) > shipped.fidelity(shown, wrong)
    assert len(better) >= 18 and float(better.float().mean()) >= 0.8
