"""The settings of learning: masks, buckets, variants, caches, averages, optimizers; and numbers that are not finite."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.buckets import bucket_sizes
from sfumato.errors import ConfigError, DataError, Diverged
from sfumato.events import Event, Metric, Notice
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, load_concept
from sfumato.models.autoencoder import Autoencoder
from sfumato.training import personalise
from sfumato.training.ema import EmaConfig
from sfumato.training.learn_config import LearnConfig, SubjectConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS
from sfumato.training.optim import OptimConfig
from sfumato.training.optim_library import SUITED
from sfumato.training.personalise import learn
from sfumato.training.picture_config import PictureConfig
from sfumato.training.subject import BucketedSamples, Samples, read_subject
from tiny import tiny_bundle

Run = Callable[..., Any]
FOX = ("--as", "<fox>", "--class", "fox", "--steps", 2, "--batch-size", 2)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures with solid alpha channels, two of them far from square."""
    folder = tmp_path_factory.mktemp("pictures")
    for index, (width, height) in enumerate(((40, 40), (100, 25), (26, 100))):
        rng = np.random.default_rng(index)
        pixels = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def config(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    loop = {"steps": 4, "log_every": 1, "save_every": 2, "tensorboard": False, **changes.pop("loop", {})}
    values = {"folder": folder, "placeholder": "<fox>", "class_noun": "fox", "output": output, "batch_size": 2}
    values |= {"rank": 2} if METHODS[changes.get("method", "lora")].has_rank else {}
    return LearnConfig(**{**values, "loop": LoopConfig(**loop), **changes})


def learned(chosen: LearnConfig, bundle: Bundle, run: Path, **options: Any) -> Concept:
    list(learn(chosen, bundle, run, **options))
    return load_concept(chosen.output)


def same_factors(one: Concept, other: Concept) -> bool:
    left, right = ({f"{p}.{n}": t for p, f in c.factors.items() for n, t in f.items()} for c in (one, other))
    assert left.keys() == right.keys()
    return all(torch.equal(tensor, right[name]) for name, tensor in left.items())


def test_a_solid_mask_learns_what_no_mask_does_and_another_does_not(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    plain, solid, half = (
        config(pictures, tmp_path / f"{name}.safetensors", pictures=PictureConfig(masks=masks))  # type: ignore[arg-type]
        for name, masks in (("plain", "none"), ("solid", "alpha"), ("half", "file"))
    )
    without = learned(plain, bundle, tmp_path / "plain")
    assert same_factors(without, learned(solid, bundle, tmp_path / "solid"))
    with pytest.raises(DataError, match=r"0\.png has no mask beside it"):
        list(learn(half, bundle, tmp_path / "half"))
    for file in sorted(pictures.glob("?.png")):
        with Image.open(file) as opened:
            mask = Image.new("L", opened.size, 0)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        mask.save(pictures / f"{file.stem}-masklabel.png")
    masks = tmp_path / "masks"
    masks.mkdir()
    for file in pictures.glob("*-masklabel.png"):
        (masks / file.name.replace("-masklabel", "")).write_bytes(file.read_bytes())
    apart = config(
        pictures, tmp_path / "apart.safetensors", pictures=PictureConfig(masks="file", mask_folder=masks)
    )  # kohya's way
    try:
        learned(apart, bundle, tmp_path / "apart")
        other = learned(half, bundle, tmp_path / "half")
        samples = read_subject(pictures, "<fox>", "fox", bundle, pictures=half.pictures)
    finally:
        for file in pictures.glob("*-masklabel.png"):
            file.unlink()
    assert not same_factors(without, other)
    assert apart.output.read_bytes() == half.output.read_bytes()
    assert other.lineage["pictures"] == ["0.png", "1.png", "2.png"]
    assert isinstance(samples, Samples) and samples.weights is not None
    assert samples.weights[0, 0, 0].tolist() == pytest.approx([1.0] * 4 + [0.1] * 4)


def test_buckets_keep_proportions_and_resume_to_the_same_bytes(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    data = PictureConfig(buckets=True, masks="alpha", variants=3, crop=0.3, jitter=0.2)
    samples = read_subject(pictures, "<fox>", "fox", bundle, pictures=data, seed=1)
    assert isinstance(samples, BucketedSamples)
    sizes = {tuple(8 // 2 * side for side in bucket.mean.shape[:1:-1]) for bucket in samples.buckets}
    assert sizes == {(16, 64), (32, 32), (64, 16)} <= set(bucket_sizes(32, bundle.downsample_factor))
    assert samples.repeats == (1, 1, 1) and sorted(samples.names) == ["0.png", "1.png", "2.png"]
    assert [len(bucket.mean) for bucket in samples.buckets] == [3, 3, 3]
    other = read_subject(pictures, "<fox>", "fox", bundle, pictures=data, seed=2)
    assert isinstance(other, BucketedSamples) and other.data_hash != samples.data_hash
    assert torch.equal(other.buckets[0].mean[0], samples.buckets[0].mean[0])
    assert not torch.equal(other.buckets[0].mean[1], samples.buckets[0].mean[1])
    whole, parted = (config(pictures, tmp_path / f"{name}.safetensors", pictures=data) for name in ("whole", "parted"))
    list(learn(whole, bundle, tmp_path / "whole"))
    run = learn(parted, bundle, tmp_path / "parted")
    next(event for event in run if isinstance(event, Metric) and event.step == 3)
    run.close()
    list(learn(parted, bundle, tmp_path / "parted", resume=True))
    assert parted.output.read_bytes() == whole.output.read_bytes()


def test_one_folder_of_masks_for_two_subjects_is_refused(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    other = SubjectConfig(folder=pictures, placeholder="<cat>", class_noun="cat")
    data = PictureConfig(masks="file", mask_folder=tmp_path)
    with pytest.raises(ConfigError, match=r"mask_folder is '.*' but there are 2 subjects"):
        list(learn(config(pictures, tmp_path / "a.safetensors", pictures=data, further=(other,)), bundle, tmp_path))


def test_class_pictures_are_square_beside_buckets(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    """Class pictures count in the loss although no batch can hold both sizes."""
    changes: dict[str, Any] = {"pictures": PictureConfig(buckets=True), "num_class_images": 2}
    one, other = (
        config(pictures, tmp_path / f"{weight}.safetensors", prior_weight=weight, **changes) for weight in (0.5, 0.1)
    )
    events = list(learn(one, bundle, tmp_path / "one"))
    metrics = [event.values for event in events if isinstance(event, Metric) and "learn/prior" in event.values]
    assert len(metrics) == 4 and all(values["learn/prior"] > 0 for values in metrics)
    assert not same_factors(load_concept(one.output), learned(other, bundle, tmp_path / "other"))


def test_a_cache_gives_the_same_bytes_and_saves_the_encoding(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    moments = Autoencoder.moments
    monkeypatch.setattr(Autoencoder, "moments", lambda self, images: calls.append(1) or moments(self, images))
    frozen_text = {"identifier": "rare", "text_encoder": False, "flip": True}
    chosen = config(pictures, tmp_path / "a.safetensors", **frozen_text)
    found, counts = [], []
    for number in range(3):
        list(learn(chosen, bundle, tmp_path / f"run{number}", cache=tmp_path / "cache"))
        found.append(chosen.output.read_bytes())
        counts.append(len(calls))
        if number == 1:
            first = sorted((tmp_path / "cache" / "latents").iterdir())[0]
            first.write_bytes(first.read_bytes()[:-4])
            text = sorted((tmp_path / "cache" / "texts").iterdir())[0]
            text.write_bytes(text.read_bytes()[:-1] + b"\0")
    list(learn(chosen, bundle, tmp_path / "run"))
    assert counts == [6, 6, 7]
    assert [*found, chosen.output.read_bytes()] == [found[0]] * 4


def test_the_average_is_the_result(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    plain = config(pictures, tmp_path / "plain.safetensors")
    mean = config(pictures, tmp_path / "mean.safetensors", ema=EmaConfig(decay=0.5, warmup=False))
    last = learned(plain, bundle, tmp_path / "plain")
    averaged = learned(mean, bundle, tmp_path / "mean")
    saved = learned(replace_output(mean, tmp_path / "again.safetensors"), bundle, tmp_path / "mean", resume=True)
    assert same_factors(averaged, saved) and not same_factors(last, averaged)
    name = next(name for name in last.factors["unet"] if name.endswith("up"))
    assert 0 < float(averaged.factors["unet"][name].norm()) < float(last.factors["unet"][name].norm())


def replace_output(chosen: LearnConfig, output: Path) -> LearnConfig:
    return chosen.model_copy(update={"output": output})


def test_checkpointing_changes_no_bit_and_is_switched_off_again(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    made = []
    for on in (False, True):
        chosen = config(pictures, tmp_path / f"{on}.safetensors", gradient_checkpointing=on, dropout=0.2)
        made.append(learned(chosen, bundle, tmp_path / str(on)))
        assert not bundle.unet.gradient_checkpointing
    assert same_factors(*made)
    samples = read_subject(pictures, "<fox>", "fox", bundle)
    learner = Learner(config(pictures, Path("x.safetensors"), gradient_checkpointing=True), bundle, samples)
    assert bundle.unet.gradient_checkpointing
    learner.close()


@pytest.mark.parametrize("name", sorted(set(SUITED) - {"adamw", "muon"}))
def test_every_optimizer_resumes_to_the_same_bytes(bundle: Bundle, pictures: Path, tmp_path: Path, name: str) -> None:
    suited = {key: value for key, value in SUITED[name].items() if key != "lr_factor"}  # type: ignore[index]
    optim = OptimConfig.model_validate({"name": name, "lr": 1e-3, "warmup_steps": 2, **suited})
    show = {"preview_prompts": ("a <fox>",), "loop": {"preview_every": 3}}
    whole = config(pictures, tmp_path / "whole.safetensors", optim=optim)
    parted = config(pictures, tmp_path / "parted.safetensors", optim=optim, **show)
    list(learn(whole, bundle, tmp_path / "whole"))
    run = learn(parted, bundle, tmp_path / "parted")
    next(event for event in run if isinstance(event, Metric) and event.step == 3)
    run.close()
    list(learn(parted, bundle, tmp_path / "parted", resume=True))
    one, other = load_concept(whole.output), load_concept(parted.output)
    assert same_factors(one, other)


def poisoned(row: int) -> Callable[..., Samples]:
    """Read the subject as always, with one picture whose latents are no numbers."""

    def read(*arguments: Any, **options: Any) -> Samples:
        samples = read_subject(*arguments, **options)
        assert isinstance(samples, Samples)
        mean = samples.mean.clone()
        mean[row] = float("nan")
        return replace(samples, mean=mean)

    return read


def finite(concept: Concept) -> bool:
    tensors = [tensor for factors in concept.factors.values() for tensor in factors.values()]
    tensors += [] if concept.main.rows is None else [concept.main.rows]
    return bool(tensors) and all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


@pytest.mark.parametrize("method", METHODS)
def test_a_poisoned_picture_is_named_and_survived(
    bundle: Bundle, pictures: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personalise, "read_subject", poisoned(1))
    chosen = config(pictures, tmp_path / "a.safetensors", method=method, batch_size=1, loop={"steps": 9})
    events = list(learn(chosen, bundle, tmp_path / "run"))
    notices = [event.message for event in events if isinstance(event, Notice) and "dropped" in event.message]
    notices += [event.message for event in events if isinstance(event, Notice) and "brought back" in event.message]
    assert 1 <= len(set(notices)) <= 3
    for message in notices:
        assert "the loss was nan" in message and "layer 'unet.conv_in'" in message and "in sample 1.png" in message
    assert finite(load_concept(chosen.output))


@pytest.mark.parametrize("stops", [False, True])
def test_a_picture_that_spoils_every_batch_is_named_as_what_is_to_go(
    bundle: Bundle, pictures: Path, tmp_path: Path, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personalise, "read_subject", poisoned(1))
    chosen = config(pictures, tmp_path / "a.safetensors", batch_size=LearnConfig.model_fields["batch_size"].default)
    chosen = chosen.model_copy(update={"loop": chosen.loop.model_copy(update={"steps": 20})})
    if stops:
        run = learn(chosen, bundle, tmp_path / "run")
        next(event for event in run if isinstance(event, Notice) and event.step >= 4)
        run.close()
    with pytest.raises(Diverged, match=r"8 steps up to step \d+ were not finite: .*in sample 1\.png\.") as caught:
        list(learn(chosen, bundle, tmp_path / "run", resume=stops))
    assert caught.value.hint == "Take 1.png out: it was in every one of them, and the other samples were finite."


@pytest.mark.parametrize("method", METHODS)
def test_a_huge_learning_rate_is_named_or_survived(bundle: Bundle, pictures: Path, tmp_path: Path, method: str) -> None:
    optim = OptimConfig(lr=1e30, weight_decay=0.0)
    chosen = config(pictures, tmp_path / "a.safetensors", method=method, optim=optim, loop={"steps": 20})
    events: list[Event] = []
    try:
        for event in learn(chosen, bundle, tmp_path / "run"):
            events.append(event)
    except Diverged as error:
        assert "were not finite" in str(error) and "Lower the learning rate" in str(error)
        assert any(isinstance(event, Notice) and "brought back" in event.message for event in events)
        assert not chosen.output.exists()
    else:
        assert finite(load_concept(chosen.output))
    assert all(bool(torch.isfinite(weight).all()) for weight in bundle.unet.parameters())


def asked(path: str = "fox.safetensors") -> dict[str, Any]:
    return dict(load_concept(Path(path)).request)


def test_flags_win_over_the_file_and_the_file_over_defaults(sfumato: Run, base: Path, photos: Path) -> None:
    Path("how.toml").write_text(
        "rank = 8\nsteps = 3\n[optim]\nname = 'lion'\nlr = 2e-4\nweight_decay = 0.1\n[objective]\nloss = 'huber'\n"
        "delta = 0.3\n[loop]\nclip_norm = 2.0\n[ema]\ndecay = 0.9\n[pictures]\nvariants = 2\njitter = 0.1\n"
    )
    words = ("learn", photos, *FOX, "--no-verdict", "--rank", 2, "--base", base, "--config", "how.toml")
    flags = (
        "--loss",
        "pseudo_huber",
        "--weighting",
        "min_snr",
        "--gamma",
        3,
        "--offset-noise",
        0.05,
        "--times",
        "logit_normal",
    )
    more = ("--accumulate", 2, "--warmup", 1, "--schedule", "linear", "--set", "optim.decay_all=true", "--jitter", 0.2)
    answer = sfumato(*words, *flags, *more, "--gradient-checkpointing")
    assert answer.code == 0, answer.err
    found = asked()
    assert (found["rank"], found["loop"]["steps"], found["loop"]["accumulate"]) == (2, 2, 2)
    optim = found["optim"]
    assert (optim["name"], optim["lr"], optim["weight_decay"], optim["decay_all"]) == ("lion", 2e-4, 0.1, True)
    assert (optim["betas"], optim["warmup_steps"], optim["schedule"]) == ([0.9, 0.99], 1, "linear")
    objective = found["objective"]
    assert (objective["loss"], objective["delta"], objective["gamma"]) == ("pseudo_huber", 0.3, 3)
    assert (objective["weighting"], objective["times"], objective["offset_noise"]) == ("min_snr", "logit_normal", 0.05)
    assert (found["ema"]["decay"], found["pictures"]["variants"], found["pictures"]["jitter"]) == (0.9, 2, 0.2)
    assert (found["loop"]["clip_norm"], found["gradient_checkpointing"]) == (2.0, True)


@pytest.mark.parametrize(
    ("words", "lr", "schedule"),
    [
        ((), 2e-3, "cosine"),
        (("--optimizer", "prodigy"), 1.0, "cosine"),
        (("--optimizer", "lion"), 1e-3, "cosine"),
        (("--optimizer", "adafactor"), 0.2, "cosine"),
        (("--optimizer", "adafactor", "--method", "textual-inversion"), 0.05, "constant"),
        (("--optimizer", "adafactor", "--method", "dreambooth"), 1e-3, "cosine"),
        (("--optimizer", "adafactor", "--init", "pissa"), 0.02, "cosine"),
        (("--optimizer", "adafactor", "--set", "init=pissa"), 0.02, "cosine"),
        (("--method", "textual-inversion", "--schedule", "cosine"), 5e-3, "cosine"),
        (("--optimizer", "adafactor", "--lr", "3e-3"), 3e-3, "cosine"),
        (("--set", "optim.name=schedule-free"), 2e-3, "constant"),
    ],
)
def test_the_learning_rate_suits_optimizer_and_method(
    sfumato: Run, base: Path, photos: Path, words: tuple[str, ...], lr: float, schedule: str
) -> None:
    answer = sfumato("learn", photos, *FOX, "--no-verdict", "--base", base, *words)
    assert answer.code == 0, answer.err
    optim = asked()["optim"]
    assert (optim["lr"], optim["schedule"]) == (pytest.approx(lr), schedule)


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        (("--set", "optim.lrr=1"), "", "settings: unknown key 'optim.lrr'. Did you mean 'lr'?"),
        (("--config", "how.toml"), "[objectiv]\nloss = 'l1'", "unknown key 'objectiv'. Did you mean 'objective'?"),
        (
            ("--config", "how.toml"),
            "[pictures]\nmask = 'alpha'",
            "unknown key 'pictures.mask'. Did you mean 'masks'?",
        ),
        (("--optimizer", "lyon"), "", "--optimizer: given 'lyon'; needed one of adamw, muon"),
        (("--optimizer", "schedule-free", "--schedule", "cosine"), "", "schedule is 'cosine' but the optimizer"),
        (("--optimizer", "lion", "--set", "optim.eps=1e-6"), "", "optim.eps is 1e-06 but optim.name is 'lion', which"),
        (("--set", "optim.betas=[0.9, 1.0]"), "", "betas is (0.9, 1.0); both numbers must lie in [0, 1)"),
        (("--num-vectors", "3", "--progressive-steps", "1"), "", "would join after 2 steps, but the lesson has 2"),
        (("--optimizer", "schedule-free", "--ema", "0.9"), "", "ema.decay is 0.9, but the optimizer of 'learn'"),
        (("--crop", "0.2"), "", "variants is 1, crop 0.2 and jitter 0.0"),
        (("--masks", "alpha"), "", "0.png has no transparency"),
        (("--set", "steps"), "", "--set: given 'steps'; needed KEY=VALUE"),
    ],
)
def test_wrong_settings_are_named(
    sfumato: Run, base: Path, photos: Path, words: tuple[str, ...], content: str, message: str
) -> None:
    Path("how.toml").write_text(content)
    answer = sfumato("learn", photos, *FOX, "--base", base, *words)
    assert answer.code == 2 and message in answer.err, answer.err
    assert answer.err.count("\n") == 1 and not Path("fox.safetensors").exists()


def test_a_cache_folder_stays_and_tables_are_no_flags(sfumato: Run, base: Path, photos: Path) -> None:
    words = ("learn", photos, *FOX, "--no-verdict", "--base", base, "--cache", "kept")
    assert sfumato(*words, "-o", "a.safetensors").code == 0
    assert len(list(Path("kept/latents").iterdir())) == 3
    assert sfumato(*words, "-o", "b.safetensors").code == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    assert "kept" not in json.dumps(asked("a.safetensors"))
    answer = sfumato("learn", photos, *FOX, "--optim", "x")
    assert answer.code == 2 and "unexpected '--optim'" in answer.err


def test_settings_of_a_verdict_without_one_are_named(sfumato: Run, base: Path, photos: Path) -> None:
    words = ("learn", photos, *FOX, "--base", base, "--verdict-prompts", "none.txt", "--max-drift", 0.3)
    answer = sfumato(*words, "--no-verdict")
    assert answer.code == 0, answer.err
    assert "Without a verdict --verdict-prompts, --max-drift change nothing." in answer.out
    answer = sfumato("learn", photos, *FOX, "--base", base, "--no-verdict", "--no-early-stop")
    assert "Without a verdict --early-stop changes nothing." in answer.out
    answer = sfumato(*words, "--no-verdict", "--plan")
    assert answer.code == 0, answer.err
