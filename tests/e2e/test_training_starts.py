"""How a run begins: from weights of another one, from a folder of pictures, with an optimizer that averages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.folder import FolderSampler
from sfumato.diffusion.schedules import Schedule
from sfumato.errors import ConfigError, DataError
from sfumato.events import Progress
from sfumato.formats.bundle import load_bundle
from sfumato.models.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.training.autoencoder import AutoencoderTrainer, train_autoencoder, without_shift
from sfumato.training.denoiser import train_denoiser
from sfumato.training.denoiser_checks import check_recipe
from sfumato.training.denoiser_start import check_start
from sfumato.training.ema import Ema
from sfumato.training.loop import train
from sfumato.training.parts import encoder_hash, load_autoencoder, save_autoencoder, start_weights
from sfumato.training.pictures import DataConfig, PictureBatches, fingerprint
from sfumato.training.recipe_file import DenoiserRecipe, parse_recipe, settings_of
from tiny_stages import DATA, FIRST, LOOP, SECOND, artifact, first, second
from training_task import done, last_checkpoint, notices, stop_after, tensor_bytes

SHORT = {**LOOP, "steps": 1}
EPS: dict[str, Any] = {"prediction": "eps", "schedule": {}}
AVERAGING = {"name": "schedule-free", "lr": 1e-2}


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a first stage."""
    folder = tmp_path_factory.mktemp("first")
    list(train_autoencoder(first(), folder))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, autoencoder: Path) -> Path:
    """The run of a second stage, for v with zero terminal SNR."""
    folder = tmp_path_factory.mktemp("base")
    list(train_denoiser(second(autoencoder, loop=SHORT), folder))
    return folder


def places(trained: Path) -> list[Path]:
    """Return what a run can be begun from: a run, a checkpoint, a bundle."""
    return [trained, trained / "checkpoints" / "step-00000001", trained / "bundle"]


def test_a_fixed_unet_that_the_recipe_would_read_otherwise_is_refused(
    tmp_path: Path, autoencoder: Path, trained: Path
) -> None:
    for place in places(trained):
        recipe = second(autoencoder, learns="text_encoder", init_from=str(place), **EPS)
        with pytest.raises(ConfigError) as refused:
            list(train_denoiser(recipe, tmp_path / "run"))
        assert refused.value.field == "prediction"
        assert refused.value.message == (
            f"learns is 'text_encoder', but the U-Net of '{place}' was trained for something else: prediction is "
            "'eps', there 'v'; schedule.zero_terminal_snr is false, there true. A U-Net that does not change must be "
            "used as it was trained."
        )
        assert refused.value.hint == "Set prediction='v' and schedule.zero_terminal_snr=true."
        assert not (tmp_path / "run").exists()
    slower = second(autoencoder, learns="text_encoder", init_from=str(trained), schedule={"beta_end": 0.02})
    with pytest.raises(ConfigError, match=r"schedule\.beta_end is 0\.02, there 0\.012") as refused:
        check_start(slower)
    assert refused.value.field == "schedule.beta_end"


def test_a_unet_that_learns_may_be_begun_for_something_else_and_that_is_told(
    tmp_path: Path, autoencoder: Path, trained: Path
) -> None:
    for number, place in enumerate(places(trained)):
        recipe = second(autoencoder, init_from=str(place), loop={**LOOP, "save_every": 1}, **EPS)
        seen = stop_after(train_denoiser(recipe, tmp_path / str(number)), 2)
        assert notices(seen) == [
            f"The U-Net of '{place}' was trained for something else: prediction is 'eps', there 'v'; "
            "schedule.zero_terminal_snr is false, there true. It learns the new ones from here on."
        ]
    rest = list(train_denoiser(recipe, tmp_path / "2", resume=True))
    assert not any("something else" in message for message in notices(rest)), "it is told once"


def test_the_same_levels_in_other_words_are_no_other_schedule(autoencoder: Path, trained: Path) -> None:
    recipe = second(autoencoder, init_from=str(trained / "bundle"))
    given = {"kind": "given", "num_train_steps": 1000, "betas": Schedule(recipe.schedule).betas.tolist()}
    assert check_start(recipe) is None
    assert check_start(second(autoencoder, init_from=str(trained), schedule=given)) is None
    shorter = {**given, "num_train_steps": 2, "betas": [0.5, 1.0]}
    told = check_start(second(autoencoder, init_from=str(trained), schedule=shorter))
    assert told is not None and "schedule.betas is 2 numbers, there None" in told
    assert check_start(second(autoencoder)) is None


def test_weights_that_are_not_there_are_refused_before_the_first_stage_is_trained(tmp_path: Path) -> None:
    (tmp_path / "first.toml").write_text(toml(FIRST))
    recipe = nested(tmp_path / "first.toml", init_from=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"init_from is '.*nowhere', which has no weights of 'unet'"):
        list(train_denoiser(recipe, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_fixed_unet_beside_latents_it_has_never_seen_is_refused(
    tmp_path: Path, autoencoder: Path, trained: Path
) -> None:
    list(train_autoencoder(first(seed=1, loop=SHORT), tmp_path / "other"))
    for number, place in enumerate(places(trained)):
        fixed = {"learns": "text_encoder", "init_from": str(place), "loop": SHORT}
        with pytest.raises(ConfigError) as refused:
            list(train_denoiser(second(tmp_path / "other", **fixed), tmp_path / "run"))
        assert refused.value.field == "autoencoder"
        assert refused.value.message == (
            f"learns is 'text_encoder', but the U-Net of '{place}' was trained on latents of another encoder than that "
            f"of '{tmp_path / 'other'}'. A U-Net that does not change must be used as it was trained."
        )
        assert not (tmp_path / "run" / "tokenizer").exists()
        for name, same in (("run", autoencoder), ("bundle", trained / "bundle")):  # a bundle holds it in 16 bits
            events = list(train_denoiser(second(same, **fixed), tmp_path / f"{name}-{number}"))
            assert done(events).info["step"] == 1


def toml(recipe: dict[str, Any]) -> str:
    """Write a recipe as TOML."""
    tables = {key: value for key, value in recipe.items() if isinstance(value, dict)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in recipe.items() if key not in tables]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines)


def nested(file: Path, **changes: Any) -> DenoiserRecipe:
    """The second stage with a recipe for the first."""
    return parse_recipe({**SECOND, "autoencoder_recipe": str(file), "loop": SHORT, **changes}, DenoiserRecipe, "second")


@pytest.mark.parametrize(
    ("changes", "wrong", "message"),
    [
        ({"unet": {**SECOND["unet"], "in_channels": 3}}, {}, r"unet\.in_channels is 3; .* need 4"),
        ({"unet": {**SECOND["unet"], "channels": [16] * 5}}, {}, r"needed: a multiple of 32"),
        ({}, {"batch_size": 0}, r"first\.toml: batch_size is 0"),
        ({"data": {"kind": "folder", "folder": "nowhere", "size": 16}}, {}, r"nowhere does not exist"),
    ],
)
def test_a_second_stage_that_cannot_be_is_refused_before_the_first_is_trained(
    tmp_path: Path, changes: dict[str, Any], wrong: dict[str, Any], message: str
) -> None:
    (tmp_path / "first.toml").write_text(toml({**FIRST, **wrong}))
    with pytest.raises((ConfigError, DataError), match=message):
        list(train_denoiser(nested(tmp_path / "first.toml", **changes), tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_an_optimizer_that_averages_ships_its_average(tmp_path: Path) -> None:
    pytest.importorskip("schedulefree")
    folders = []
    for name, ema in (("none", None), ("zero", {"decay": 0.0})):
        events = list(train_autoencoder(first(optim=AVERAGING, ema=ema), tmp_path / name))
        assert set(tensor_bytes(last_checkpoint(events))) == {
            "autoencoder.safetensors",
            "optimizer-autoencoder.safetensors",
        }
        folders.append(artifact(events))
    assert tensor_bytes(folders[0].path) == tensor_bytes(folders[1].path)
    assert folders[0].info == folders[1].info
    learned = start_weights(tmp_path / "zero", "autoencoder")["decoder.conv_out.weight"]
    assert not torch.equal(load_autoencoder(folders[1].path).decoder.conv_out.weight, learned)


def test_a_run_that_has_kept_an_average_of_decay_0_goes_on_and_ships_the_right_weights(tmp_path: Path) -> None:
    pytest.importorskip("schedulefree")
    recipe = first(optim=AVERAGING, ema={"decay": 0.0})
    whole = list(train_autoencoder(recipe, tmp_path / "new"))
    trainer = AutoencoderTrainer(recipe)
    task = trainer.task()
    assert task.ema is None and recipe.ema is not None
    task.ema = Ema({"autoencoder": trainer.autoencoder}, recipe.ema)  # as it was built before
    settings = settings_of(recipe, data=fingerprint(recipe.data))
    stop_after(train(task, recipe.loop, tmp_path / "old", settings=settings), 2)
    assert (tmp_path / "old" / "checkpoints" / "step-00000002" / "ema.safetensors").is_file()
    rest = list(train_autoencoder(recipe, tmp_path / "old", resume=True))
    assert tensor_bytes(artifact(rest).path) == tensor_bytes(artifact(whole).path)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_shift_in_the_layers_gives_the_same_latents_and_pictures(kind: str) -> None:
    torch.manual_seed(0)
    config = AutoencoderConfig(
        kind=kind,
        channels=(8, 16),
        latent_channels=4,
        embed_dim=3 if kind == "vq" else None,
        codebook_size=32 if kind == "vq" else None,
        norm_groups=8,
        scaling_factor=0.7,
        shift_factor=0.4,
    )
    given = Autoencoder(config).eval()
    with torch.no_grad():
        for weight in given.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    before = encoder_hash(given)
    made = without_shift(given)
    assert (made.config.scaling_factor, made.config.shift_factor) == (0.7, 0.0)
    assert encoder_hash(given) == before and given.config.shift_factor == 0.4, "the one given stays"
    images = PictureBatches(DataConfig(**DATA), 8)(0).images()
    with torch.no_grad():
        (mean, std), (other, spread) = given.moments(images), made.moments(images)
        torch.testing.assert_close(other, mean, rtol=0, atol=1e-5)
        assert (spread is None) == (std is None) == (kind == "vq")
        if std is not None:
            torch.testing.assert_close(spread, std, rtol=0, atol=1e-5)
        latents = given.to_latents(images)
        torch.testing.assert_close(made.to_images(latents), given.to_images(latents), rtol=0, atol=1e-5)
    assert without_shift(made) is made


def test_a_trained_shift_is_not_in_the_file(tmp_path: Path) -> None:
    plain, shifted = (
        load_autoencoder(artifact(list(train_autoencoder(first(shift=shift), tmp_path / str(shift)))).path)
        for shift in (False, True)
    )
    assert shifted.config.shift_factor == plain.config.shift_factor == 0
    assert shifted.config.scaling_factor == plain.config.scaling_factor
    images = PictureBatches(DataConfig(**DATA), 8)(0).images()
    moved = plain.to_latents(images) - shifted.to_latents(images)
    assert float(moved.mean().abs()) > 1e-3 and float(moved.std()) < 1e-5
    there_and_back = [one.to_images(one.to_latents(images)) for one in (plain, shifted)]
    torch.testing.assert_close(*there_and_back, rtol=0, atol=1e-5)


def test_a_decoder_keeps_the_encoder_it_was_given_with_its_shift(tmp_path: Path, autoencoder: Path) -> None:
    older = load_autoencoder(autoencoder)
    older.set_scaling(older.config.scaling_factor, 0.3)
    save_autoencoder(older, tmp_path / "older", 16)
    recipe = first(learns="decoder", init_from=str(tmp_path / "older"), ema=None, loop=SHORT)
    made = load_autoencoder(artifact(list(train_autoencoder(recipe, tmp_path / "run"))).path)
    assert made.config == older.config and encoder_hash(made) == encoder_hash(older)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, None),
        ({"kind": "vq", "codebook_size": 32}, "cannot decode with its VQModel"),
        ({"quant_conv": False}, "never adds its shift_factor of 0.3"),
    ],
)
def test_bundles_hold_no_shift_and_say_where_diffusers_cannot_read_them(
    tmp_path: Path, changes: dict[str, Any], told: str | None
) -> None:
    torch.manual_seed(0)
    shape = {**FIRST["autoencoder"], "channels": (8, 16), "shift_factor": 0.3, **changes}
    save_autoencoder(Autoencoder(AutoencoderConfig(**shape)), tmp_path / "older", 16)
    recipe = second(tmp_path / "older", loop={**LOOP, "steps": 2, "save_every": 1}, bundle_every=1)
    events = list(train_denoiser(recipe, tmp_path / "run"))
    made = load_bundle(tmp_path / "run" / "bundle").autoencoder
    assert made.config.shift_factor == (0.3 if "quant_conv" in changes else 0.0)
    given, latents = load_autoencoder(tmp_path / "older"), torch.randn(2, 4, 8, 8)
    if told is None:
        torch.testing.assert_close(made.to_images(latents), given.to_images(latents), rtol=0, atol=5e-3)
        assert given.config.shift_factor == 0.3
    messages = notices(events)
    assert len(messages) == (told is not None), "once a run, not at every bundle"
    for message in messages:
        assert f"'{tmp_path / 'run' / 'bundle'}' is for sfumato alone" in message and str(told) in message


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty pictures with captions."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(40):
        Image.fromarray(np.full((16, 16, 3), 6 * n, np.uint8)).save(folder / f"{n:02d}.png")
        (folder / f"{n:02d}.txt").write_text(f"grey number {n}")
    return folder


def in_folder(photos: Path) -> dict[str, Any]:
    """Learn from a folder."""
    return {"kind": "folder", "folder": str(photos), "size": 16, "workers": 0}


def test_all_broken_files_of_a_folder_are_named_before_the_first_step(
    tmp_path: Path, autoencoder: Path, photos: Path
) -> None:
    for n in range(3, 14):
        (photos / f"{n:02d}.png").write_bytes(b"no picture")
    (photos / "20.txt").write_bytes(b"\xff\xfe\x00")
    (photos / "30.png").write_bytes((photos / "30.png").read_bytes()[:60])
    data = in_folder(photos)
    (tmp_path / "first.toml").write_text(toml({**FIRST, "data": data}))
    for events in (
        train_autoencoder(first(data=data), tmp_path / "run"),
        train_denoiser(second(autoencoder, data=data), tmp_path / "run"),
        train_denoiser(nested(tmp_path / "first.toml", data=data), tmp_path / "run"),
    ):
        with pytest.raises(DataError) as refused:
            list(events)
        message = refused.value.message
        assert message.startswith(f"13 of 40 pictures in {photos} cannot be learned from: {photos / '03.png'} is not a")
        assert all(f"{photos / name}" in message for name in ("04.png", "12.png"))
        assert "13.png" not in message and message.endswith("; and 3 more.")
        assert refused.value.field == "data.folder"
        assert f"`sfumato data doctor {photos}`" in str(refused.value.hint)
        assert not (tmp_path / "run").exists()


def test_the_pictures_of_a_folder_are_read_once_for_both_stages_and_not_on_resume(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, faults = [], FolderSampler.faults

    def counted(sampler: FolderSampler) -> Iterator[str | None]:
        read.append(sampler)
        return faults(sampler)

    monkeypatch.setattr(FolderSampler, "faults", counted)
    data = in_folder(photos)
    (tmp_path / "first.toml").write_text(toml({**FIRST, "data": data}))
    recipe = nested(tmp_path / "first.toml", data=data, loop=LOOP)
    seen = stop_after(train_denoiser(recipe, tmp_path / "run"), 2)
    told = [(e.done, e.total) for e in seen if isinstance(e, Progress) and e.phase == "pictures"]
    assert told == [(0, 40), (32, 40), (40, 40)] and len(read) == 1
    rest = list(train_denoiser(recipe, tmp_path / "run", resume=True))
    assert done(rest).info["step"] == 4 and len(read) == 1


def test_a_run_goes_on_elsewhere_and_measured_otherwise(tmp_path: Path, autoencoder: Path) -> None:
    list(train_denoiser(second(autoencoder, loop={**LOOP, "steps": 2}), tmp_path))
    state = next((tmp_path / "checkpoints").iterdir()) / "state.json"
    content = json.loads(state.read_text())
    content["settings"] |= {"device": "cuda:1", "compile": True}
    rewritten(state, content)
    events = list(
        train_denoiser(second(autoencoder, loop={**LOOP, "steps": 4}, validation_pictures=3), tmp_path, resume=True)
    )
    said = "It goes on on cpu, not on cuda:1: steps are rounded otherwise there."
    assert any(said in message for message in notices(events)) and done(events).info["step"] == 4


def rewritten(state: Path, content: dict[str, Any]) -> None:
    """Write another state into a checkpoint, whose list of files knows it."""
    state.write_text(json.dumps(content))
    manifest = state.with_name("manifest.json")
    files = json.loads(manifest.read_text())
    content_hash = hashlib.sha256(state.read_bytes()).hexdigest()
    files[state.name] = {"bytes": state.stat().st_size, "sha256": content_hash}
    manifest.write_text(json.dumps(files))


def test_previews_of_more_steps_than_there_are_times(tmp_path: Path, autoencoder: Path) -> None:
    schedule = {**SECOND["schedule"], "num_train_steps": 20}
    preview = {"prompts": ["a disc"], "steps": 30}
    loop = {**LOOP, "preview_every": 2}
    with pytest.raises(ConfigError, match="preview.steps is 30, but the schedule has 20 times") as caught:
        check_recipe(second(autoencoder, schedule=schedule, preview=preview, loop=loop))
    assert caught.value.field == "preview.steps"
    check_recipe(second(autoencoder, schedule=schedule, preview=preview))
    check_recipe(second(autoencoder, schedule=schedule, preview={**preview, "steps": 20}, loop=loop))


def test_texts_of_another_length_than_the_tokenizer_reads(tmp_path: Path, autoencoder: Path, trained: Path) -> None:
    recipe = second(autoencoder, init_from=str(trained), tokenizer={"context_length": 12})
    with pytest.raises(ConfigError, match="context_length is 12, but the tokenizer of .* reads") as caught:
        list(train_denoiser(recipe, tmp_path / "run"))
    assert caught.value.field == "tokenizer.context_length"


def test_what_changes_nothing_in_a_recipe_of_a_kind_is_said(tmp_path: Path, autoencoder: Path) -> None:
    quiet = {"preview": {}, "loop": {**LOOP, "preview_every": 2}, "data": {**DATA, "flip": True}}
    said = notices(list(train_denoiser(second(autoencoder, **quiet), tmp_path / "a")))
    assert [message for message in said if "It changes nothing." in message] == [
        "data.flip is on but data.kind is 'shapes', and it is for 'folder'. It changes nothing.",
        "loop.preview_every is 2 but preview.prompts is empty, so there is nothing to draw. It changes nothing.",
    ]
    objective = {**FIRST["objective"], "adversarial_start": 3, "codebook_weight": 0.5}
    said = notices(list(train_autoencoder(first(objective=objective), tmp_path / "b")))
    assert [message for message in said if "It changes nothing." in message] == [
        "objective.adversarial_start is 3 but objective.adversarial_weight is 0. It changes nothing.",
        "objective.codebook_weight is 0.5 but autoencoder.kind is 'kl', and it is for 'vq'. It changes nothing.",
    ]
