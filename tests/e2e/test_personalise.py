"""Learning a subject: the loss falls, the file works, the base stays, and resume gives the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.templates import TEMPLATES, TemplateSet
from sfumato.diffusion.schedules import Schedule
from sfumato.errors import CannotResume, ConfigError, DataError, EmptyDataset, NoTargetMatched, UnreadableImage
from sfumato.events import Artifact, Checkpoint, Event, Metric, Notice, Preview, Progress, Step
from sfumato.formats.bundle import Bundle, Word, load_bundle
from sfumato.formats.concept import load_concept
from sfumato.formats.lesson_record import LESSON_FILE
from sfumato.pipeline import Pipeline, Settings
from sfumato.requests import LearnRequest, choices_of
from sfumato.runtime.seeding import derive_seed
from sfumato.training.cache import TensorCache
from sfumato.training.learn_config import LearnConfig, SubjectConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS
from sfumato.training.optim import OptimConfig
from sfumato.training.personalise import learn
from sfumato.training.subject import (
    CLASS_SETTINGS,
    Samples,
    class_prompts,
    class_samples,
    joined,
    pick,
    read_subject,
    subject_caption,
)
from tiny import tiny_bundle
from tiny_pictures import draw_discs

pytestmark = pytest.mark.usefixtures("base_stays")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures of one red disc on different grounds."""
    folder = draw_discs(tmp_path_factory.mktemp("pictures"), 3)
    (folder / "1.txt").write_text("a <fox> on a grey background")
    return folder


def config(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    loop = {"steps": 6, "log_every": 1, "save_every": 3, "tensorboard": False, **changes.pop("loop", {})}
    values: dict[str, Any] = {
        "folder": folder,
        "placeholder": "<fox>",
        "class_noun": "fox",
        "output": output,
        **({"rank": 4} if METHODS[changes.get("method", "lora")].has_rank else {}),
        "batch_size": 2,
        "loop": LoopConfig(**loop),
        **changes,
    }
    return LearnConfig(**values)


def losses(events: list[Event]) -> list[float]:
    return [
        event.values["learn/loss"] for event in events if isinstance(event, Metric) and "learn/loss" in event.values
    ]


def test_subject_is_learned_and_the_concept_draws_it(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen = config(
        pictures,
        tmp_path / "fox.safetensors",
        batch_size=4,
        targets=("all",),
        loop={"steps": 80, "save_every": 80},
        optim=OptimConfig(lr=1e-2, weight_decay=0.0),
    )
    events = list(learn(chosen, bundle, tmp_path / "run"))
    values = losses(events)
    assert np.mean(values[-20:]) < 0.8 * np.mean(values[:10])
    artifact = next(event for event in events if isinstance(event, Artifact))
    assert artifact.kind == "concept"
    assert artifact.info["expansion"] == "<fox> fox"
    concept = load_concept(artifact.path)
    samples = read_subject(pictures, "<fox>", "fox", bundle)
    pipeline, settings = Pipeline(bundle), Settings(steps=8, guidance_scale=1.0)

    def distance(prompt: str) -> float:
        """Of sampled latents to the nearest picture; the random decoder of the tiny base would blur everything."""
        *_, last = pipeline.generate([prompt], [1, 2, 3, 4], settings, decode=False)
        assert isinstance(last, Step)
        drawn = last.x_t
        return float((drawn[:, None] - samples.mean[None]).square().mean((2, 3, 4)).min(1).values.mean())

    before = distance("a fox")
    with pipeline.using((concept, 1.0)):
        assert distance("a <fox>") < 0.7 * before


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"identifier": "rare", "text_encoder": False},
        {"prior_weight": 0.5},
        {"method": "textual-inversion", "num_vectors": 2, "templates": "object", "anchor_weight": 0.1},
        {"method": "pivotal", "templates": "style", "kind": "style"},
        {"method": "dreambooth", "prior_weight": 1.0},
        {"method": "textual-inversion", "num_vectors": 3, "progressive_steps": 2, "per_image_words": True},
    ],
    ids=["lora", "rare", "prior", "textual-inversion", "pivotal", "dreambooth", "progressive"],
)
def test_resumed_run_ends_with_the_same_bytes(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    dropout = 0.1 if METHODS[changes.get("method", "lora")].factors else 0.0
    changes |= {"dropout": dropout, "flip": True, **({"num_class_images": 3} if "prior_weight" in changes else {})}
    whole = config(pictures, tmp_path / "whole.safetensors", **changes)
    parted = config(pictures, tmp_path / "parted.safetensors", **changes)
    list(learn(whole, bundle, tmp_path / "whole"))
    run = learn(parted, bundle, tmp_path / "parted")
    for event in run:
        if isinstance(event, Metric) and event.step == 5:  # two steps after the checkpoint: closing saves step 5
            break
    run.close()
    assert not parted.output.exists()
    events = list(learn(parted, bundle, tmp_path / "parted", resume=True))
    assert losses(events) != []
    assert [event.step for event in events if isinstance(event, Checkpoint)] == [6]
    assert parted.output.read_bytes() == whole.output.read_bytes()


def test_a_whole_base_is_resumed_to_the_same_bytes(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    whole, parted = (config(pictures, tmp_path / name, method="dreambooth", rank=16) for name in ("whole", "parted"))
    list(learn(whole, bundle, tmp_path / "a"))
    run = learn(parted, bundle, tmp_path / "b")
    next(event for event in run if isinstance(event, Metric) and event.step == 5)
    run.close()
    list(learn(parted, bundle, tmp_path / "b", resume=True))
    for file in sorted(whole.output.rglob("*.safetensors")):
        assert (parted.output / file.relative_to(whole.output)).read_bytes() == file.read_bytes()


def test_killed_run_goes_on_from_its_last_checkpoint(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    whole = config(pictures, tmp_path / "whole.safetensors")
    list(learn(whole, bundle, tmp_path / "run"))
    last = tmp_path / "run" / "checkpoints" / "step-00000006"
    (last / "learned-unet.safetensors").write_bytes(b"cut short")  # what a crash of the machine could leave
    again = config(pictures, tmp_path / "again.safetensors")
    list(learn(again, bundle, tmp_path / "run", resume=True))
    assert again.output.read_bytes() == whole.output.read_bytes()


def test_another_setting_or_picture_is_not_resumed(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    list(learn(config(pictures, tmp_path / "a.safetensors"), bundle, tmp_path / "run"))
    with pytest.raises(CannotResume, match="rank: 4 → 8"):
        list(learn(config(pictures, tmp_path / "a.safetensors", rank=8), bundle, tmp_path / "run", resume=True))
    with pytest.raises(CannotResume, match="already holds a run"):
        list(learn(config(pictures, tmp_path / "a.safetensors"), bundle, tmp_path / "run"))
    drawn = {"preview_prompts": ("a <fox>",), "loop": {"preview_every": 3}}  # they teach nothing
    shown = config(pictures, tmp_path / "a.safetensors", **drawn)
    assert list(learn(shown, bundle, tmp_path / "run", resume=True))


def test_class_pictures_are_drawn_once_by_the_plain_base(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen = config(pictures, tmp_path / "a.safetensors", prior_weight=1.0, num_class_images=5)
    events = list(learn(chosen, bundle, tmp_path / "run"))
    drawn = [event for event in events if isinstance(event, Progress) and event.phase == "class pictures"]
    assert [event.done for event in drawn] == [2, 4, 5]
    metrics = [event.values for event in events if isinstance(event, Metric)]
    assert all("learn/prior" in values and "learn/subject" in values for values in metrics)
    events = list(learn(chosen, bundle, tmp_path / "run", resume=True))
    assert not [event for event in events if isinstance(event, Progress) and event.phase == "class pictures"]


def class_set(bundle: Bundle, count: int, cache: Path, stop: int | None = None) -> tuple[list[int], Samples | None]:
    """Draw class pictures, perhaps only a few; return how many there were at each event, and the pictures."""
    seen: list[int] = []
    for event in class_samples(Pipeline(bundle), ["a fox", "a red fox"], count, 3, TensorCache(cache)):
        if isinstance(event, Samples):
            return seen, event
        assert isinstance(event, Progress) and event.total == count
        seen.append(event.done)
        if stop is not None and event.done >= stop:
            return seen, None
    raise AssertionError


def test_class_pictures_go_on_and_grow_with_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    seen, whole = class_set(bundle, 9, tmp_path / "whole")
    assert whole is not None and seen == [4, 8, 9] and whole.captions[:3] == ("a fox", "a red fox", "a fox")
    assert class_set(bundle, 9, tmp_path / "parts", stop=4) == ([4], None)
    seen, grown = class_set(bundle, 6, tmp_path / "parts")
    assert seen == [6] and grown is not None and torch.equal(grown.mean, whole.mean[:6])
    seen, ended = class_set(bundle, 9, tmp_path / "parts")
    assert seen == [9] and ended is not None and torch.equal(ended.mean, whole.mean)
    seed = derive_seed(3, "class pictures", 8)
    *_, alone = Pipeline(bundle).generate(["a fox"], [seed], CLASS_SETTINGS, decode=False)
    assert isinstance(alone, Step) and torch.equal(alone.x_t, whole.mean[8:])
    assert class_set(bundle, 9, tmp_path / "whole")[0] == []


def test_class_pictures_of_another_reading_of_the_weights_are_not_taken(bundle: Bundle, tmp_path: Path) -> None:
    class_set(bundle, 1, tmp_path)
    later = Schedule(replace(bundle.schedule.config, beta_end=0.013))
    words = (Word("fox", "red robot", "robot"),)
    for change in ({"schedule": later}, {"prediction": "x_0"}, {"words": words}):
        assert class_set(replace(bundle, **change), 1, tmp_path)[0] == [1]
    assert class_set(bundle, 1, tmp_path)[0] == []


def test_class_pictures_may_be_asked_by_the_captions(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    for name in ("noun", "captions"):
        changes = {"prior_weight": 1.0, "num_class_images": 3, "class_prompts": name}
        list(learn(config(pictures, tmp_path / f"{name}.safetensors", **changes), bundle, tmp_path / name))
    assert (tmp_path / "noun.safetensors").read_bytes() != (tmp_path / "captions.safetensors").read_bytes()
    samples = read_subject(pictures, "<fox>", "fox", bundle)
    fox, cat = (SubjectConfig(folder=pictures, placeholder=f"<{noun}>", class_noun=noun) for noun in ("fox", "cat"))
    assert class_prompts(fox, samples) == ("a fox", "a fox on a grey background")
    assert class_prompts(cat, joined([samples, read_subject(pictures, "<cat>", "cat", bundle)]))[0] == "a cat"
    with pytest.raises(ConfigError, match="captions are not said"):
        list(learn(config(pictures, tmp_path / "x.safetensors", templates="object", **changes), bundle, tmp_path / "x"))
    assert class_prompts(fox, None) == ("a fox",) and class_prompts(fox, None, is_style=True) == ("a picture",)


def test_rare_word_is_kept_in_the_file(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    for word, name in ((None, "a"), ("zq", "b")):
        chosen = config(pictures, tmp_path / f"{name}.safetensors", identifier="rare", word=word, text_encoder=False)
        list(learn(chosen, bundle, tmp_path / name))
        concept = load_concept(chosen.output)
        assert concept.main.rows is None
        assert set(concept.factors) == {"unet"}
        given, noun = concept.main.expansion.split(" ")
        assert noun == "fox"
        assert len(bundle.tokenizer.pieces(given)) == 1
        assert word in (None, given)


def word_only(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    optim = OptimConfig(lr=5e-2, weight_decay=0.0)
    return config(folder, output, **{"method": "textual-inversion", "optim": optim, **changes})


def test_a_word_alone_is_learned(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen = word_only(pictures, tmp_path / "fox.safetensors", batch_size=4, loop={"steps": 150, "save_every": 150})
    list(learn(chosen, bundle, tmp_path / "run"))
    concept = load_concept(chosen.output)
    learner = Learner(chosen, bundle, read_subject(pictures, "<fox>", "fox", bundle))
    try:
        rows = learner.words.rows
        assert rows is not None and concept.main.rows is not None
        before = sum(float(learner.loss(draw).loss.detach()) for draw in range(1000, 1030))
        rows.rows.data = concept.main.rows
        after = sum(float(learner.loss(draw).loss.detach()) for draw in range(1000, 1030))  # the same times and noise
    finally:
        learner.close()
    assert after < before
    assert concept.main.expansion == "<fox>" and concept.factors == {} and concept.main.rows is not None
    assert chosen.output.stat().st_size < 8_000
    pipeline = Pipeline(bundle)
    with pipeline.using((concept, 1.0)):
        said = pipeline.context("a <fox> on a blue background")
        assert not torch.equal(said, pipeline.context("a fox on a blue background"))


def test_all_weights_learn_and_the_whole_base_is_written(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    changes = {"method": "dreambooth", "optim": OptimConfig(lr=1e-3, weight_decay=0.0)}
    steps = {"steps": 40, "save_every": 40}
    usual = METHODS["dreambooth"].rank
    tuned = config(pictures, tmp_path / "tuned", loop=steps, batch_size=4, rank=usual, **changes)
    events = list(learn(tuned, bundle, tmp_path / "a"))
    assert np.mean(losses(events)[-10:]) < np.mean(losses(events)[:10])
    artifact = next(event for event in events if isinstance(event, Artifact))
    assert (artifact.kind, artifact.path) == ("bundle", tuned.output)
    record = json.loads((tuned.output / LESSON_FILE).read_text())
    assert (record["base_hash"], record["lineage"]["steps"]) == (bundle.base_hash, 40)
    assert record["request"]["optim"]["lr"] == 1e-3
    made = load_bundle(tuned.output)
    (word,) = made.words
    assert (word.placeholder, word.class_noun) == ("<fox>", "fox")
    assert word.expansion == artifact.info["expansion"] and word.expansion.endswith(" fox")
    assert made.base_hash != bundle.base_hash
    assert Pipeline(made).expand("a <fox> in snow") == f"a {word.expansion} in snow"

    small = config(pictures, tmp_path / "small.safetensors", loop=steps, batch_size=4, rank=64, **changes)
    events = list(learn(small, bundle, tmp_path / "b"))
    (held,) = (event.message for event in events if isinstance(event, Notice) and "holds" in event.message)
    concept = load_concept(small.output)
    assert held == f"Rank 64 holds {concept.lineage['change_held']:.0%} of what the weights have changed."
    assert 0.9 < concept.lineage["change_held"] < 1.0  # norms and biases are not in the factors
    tokens = bundle.tokenizer.encode([f"a {word.expansion}"])
    wanted = made.text_encoder(tokens).context
    plain, pipeline = bundle.text_encoder(tokens).context, Pipeline(bundle)
    with pipeline.using((concept, 1.0)):
        near = pipeline.context("a <fox>")
    assert float((near - wanted).norm()) < 0.35 * float((plain - wanted).norm())


def test_an_anchored_word_stays_near_where_it_started(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    way = {}
    for weight in (0.0, 10.0):
        chosen = word_only(pictures, tmp_path / f"{weight}.safetensors", anchor_weight=weight, initializer="robot")
        list(learn(chosen, bundle, tmp_path / str(weight)))
        rows = load_concept(chosen.output).main.rows
        assert rows is not None
        table = bundle.text_encoder.text_model.embeddings.token_embedding.weight
        (piece,) = bundle.tokenizer.pieces("robot")
        way[weight] = float((rows[0] - table[piece.id]).norm())
    assert 0 < way[10.0] < 0.7 * way[0.0]


def test_templates_take_turns_and_name_the_placeholder(bundle: Bundle, pictures: Path) -> None:
    samples = read_subject(pictures, "<fox>", "fox", bundle)
    learner = Learner(config(pictures, Path("x.safetensors"), templates="object"), bundle, samples)
    try:
        said = [text for draw in range(40) for text in learner.words.captions(samples, [0, 1], draw)]
        assert set(said) == {sentence.format("<fox>") for sentence in TEMPLATES["object"]}
        assert learner.words.captions(samples, [0, 1], 3) == said[6:8]
    finally:
        learner.close()


@pytest.mark.parametrize("kind", ["object", "style"])
def test_every_template_has_one_place_and_is_said_once(kind: TemplateSet) -> None:
    assert all(sentence.count("{}") == 1 for sentence in TEMPLATES[kind])
    assert len(set(TEMPLATES[kind])) == len(TEMPLATES[kind]) >= 8


def test_the_methods_of_the_request_are_those_of_the_table() -> None:
    assert set(choices_of(LearnRequest.model_fields["method"])) == set(METHODS)


def test_lineage_and_request_stand_in_the_file(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    chosen = config(pictures, tmp_path / "fox.safetensors", seed=5, num_vectors=2)
    list(learn(chosen, bundle, tmp_path / "run"))
    concept = load_concept(chosen.output)
    assert concept.base_hash == bundle.base_hash
    assert concept.base_name == "tiny"
    assert concept.lineage["pictures"] == ["0.png", "1.png", "2.png"]
    assert concept.lineage["steps"] == 6
    assert concept.lineage["seed"] == 5
    assert len(concept.lineage["data_hash"]) == 64
    assert concept.request["rank"] == 4
    assert concept.main.rows is not None
    assert concept.main.rows.shape == (2, 32)


def test_folders_with_repeats_and_metadata(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name, files in (("20_sks fox", ("0.png", "1.png")), ("30_fox statue", ("2.png",))):
        (tree / name).mkdir(parents=True)
        for file in files:
            (tree / name / file).write_bytes((pictures / file).read_bytes())
    entry = {"file_name": "20_sks fox/1.png", "text": "a fox in snow"}
    (tree / "metadata.jsonl").write_text(json.dumps(entry), encoding="utf-8")
    plain, samples = (joined([read_subject(folder, "<fox>", "fox", bundle)]) for folder in (pictures, tree))
    assert isinstance(plain, Samples) and isinstance(samples, Samples)
    assert samples.names == ("20_sks fox/0.png", "20_sks fox/1.png", "30_fox statue/2.png")
    assert samples.captions == ("a <fox>", "a <fox> in snow", "<fox> statue")
    assert torch.equal(samples.mean, plain.mean)
    assert (samples.repeats, samples.round) == ((2, 2, 3), [0, 0, 1, 1, 2, 2, 2])
    assert (plain.repeats, plain.round) == ((1, 1, 1), [0, 1, 2])
    events = list(learn(config(tree, tmp_path / "a.safetensors", loop={"steps": 7}), bundle, tmp_path / "run"))
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert notices == [
        "Folder names give weights: a round shows each of 3 pictures 2 to 3 times.",
        "2 of 3 pictures have a caption; the others are learned as 'a <fox>'.",
    ]
    artifact = next(event for event in events if isinstance(event, Artifact))
    assert load_concept(artifact.path).lineage["pictures"] == list(samples.names)
    (tree / "30_fox statue").rename(tree / "50_fox statue")
    with pytest.raises(CannotResume, match="data: "):
        list(learn(config(tree, tmp_path / "a.safetensors"), bundle, tmp_path / "run", resume=True))


def test_how_many_pictures_have_a_caption_is_said_where_some_have(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    draw_discs(bare, 2)

    def said(folder: Path, **changes: Any) -> list[str]:
        events = learn(config(folder, tmp_path / "a.safetensors", **changes), bundle, tmp_path / "run")
        until = takewhile(lambda event: not isinstance(event, Metric), events)
        found = [event.message for event in until if isinstance(event, Notice)]
        events.close()
        shutil.rmtree(tmp_path / "run")
        return found

    assert said(bare) == said(pictures, templates="object") == []
    assert said(pictures, kind="style") == [
        "1 of 3 pictures has a caption; the others are learned as 'a picture, <fox> style'."
    ]
    further = (SubjectConfig(folder=bare, placeholder="<cat>", class_noun="cat"),)
    (bare / "0.CAPTION").write_text("a cat on grey")
    assert said(pictures, further=further) == [
        "2 of 5 pictures have a caption; the others are learned as 'a <fox>' or 'a <cat>'."
    ]
    (bare / "1.caption").write_text("a cat on white, looking to the left")
    assert said(bare) == []
    assert said(bare, flip=True) == [
        "The caption of 1.png names a side; with --flip it is said of the mirrored picture too. Leave --flip out, or "
        "do not say left and right."
    ]


def test_repeats_weight_the_draws(bundle: Bundle, pictures: Path) -> None:
    samples = replace(read_subject(pictures, "<fox>", "fox", bundle), repeats=(1, 3, 2))
    shown = samples.round
    drawn = [shown[place] for draw in range(6) for place in pick(len(shown), 2, 0, "train/subject", draw)]
    assert [drawn.count(row) for row in range(3)] == [2, 6, 4]


def test_preview_draws_like_the_finished_concept(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    plain = config(pictures, tmp_path / "a.safetensors")
    shown = config(
        pictures, tmp_path / "b.safetensors", preview_prompts=("a <fox>",), loop={"preview_every": 3, "steps": 6}
    )
    list(learn(plain, bundle, tmp_path / "a"))
    events = list(learn(shown, bundle, tmp_path / "b"))
    assert [event.path.is_file() for event in events if isinstance(event, Preview)] == [True, True]
    one, other = load_concept(plain.output), load_concept(shown.output)
    assert all(torch.equal(tensor, other.factors["unet"][name]) for name, tensor in one.factors["unet"].items())


def test_bad_input_is_named(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    for folder in (empty, broken):
        folder.mkdir()
    (broken / "x.png").write_bytes(b"not a picture")
    output = tmp_path / "a.safetensors"
    for folder, error, message in (
        (empty, EmptyDataset, "empty holds no pictures"),
        (tmp_path / "gone", DataError, "gone does not exist"),
        (broken, UnreadableImage, r"x\.png is not a readable picture"),
    ):
        with pytest.raises(error, match=message):
            list(learn(config(folder, output), bundle, tmp_path / "run"))
    for changes, wrong, message in (
        ({"output": tmp_path / "a.pt"}, ConfigError, r"a\.pt' does not end in \.safetensors"),
        ({"targets": ("attn3",)}, NoTargetMatched, "The pattern 'attn3'"),
        ({"word": "zq"}, ConfigError, "word is 'zq' but identifier is 'new'"),
        (
            {"method": "textual-inversion", "identifier": "rare"},
            ConfigError,
            "identifier is 'rare' but the method 'textual-inversion' learns vectors of a new word",
        ),
        (
            {"method": "dreambooth", "identifier": "new"},
            ConfigError,
            "identifier is 'new' but the method 'dreambooth' does not learn vectors of a new word",
        ),
        ({"output": tmp_path / "a.bin", "method": "dreambooth"}, ConfigError, r"a\.bin' does not end in \.safetensors"),
        ({"placeholder": "two words"}, ConfigError, "'two words' is not one word"),
        ({"placeholder": "fox", "class_noun": "cat"}, ConfigError, "'fox' is one token"),
    ):
        with pytest.raises(wrong, match=message):
            list(learn(config(pictures, **{"output": output, **changes}), bundle, tmp_path / "run"))


def test_caption_that_is_too_long_is_named(bundle: Bundle, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a <fox> " + "in the snow " * 12)
    with pytest.raises(DataError, match="the limit is 32"):
        list(learn(config(tmp_path, tmp_path / "out.safetensors"), bundle, tmp_path / "run"))


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("a <FOX> asleep", "a <FOX> asleep"),
        ("a red fox, asleep", "a red <fox>, asleep"),
        ("asleep on a sofa", "a <fox>, asleep on a sofa"),
    ],
)
def test_captions_name_the_placeholder(given: str, made: str) -> None:
    assert subject_caption(given, "<fox>", "fox") == made


def test_every_picture_is_seen_once_per_round() -> None:
    seen = [row for draw in range(5) for row in pick(4, 4, 0, "x", draw)]
    assert all(sorted(seen[start : start + 4]) == [0, 1, 2, 3] for start in range(0, 20, 4))
    spanning = [row for draw in range(4) for row in pick(4, 3, 0, "x", draw)]
    assert spanning == seen[:12]
