"""Both stages of training on pictures drawn in code: they learn, resume to the same bytes, and give usable parts."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.diffusion.schedules import Schedule
from sfumato.errors import CannotResume, CheckpointError, ConfigError, StorageError, UnknownFormat
from sfumato.events import Artifact, Checkpoint, Metric, Preview, Progress
from sfumato.formats.bundle import load_bundle
from sfumato.formats.safe_io import read_safetensors
from sfumato.models.tokenizer import Tokenizer
from sfumato.training import denoiser
from sfumato.training.autoencoder import AutoencoderTrainer, train_autoencoder
from sfumato.training.denoiser import DenoiserTrainer, train_denoiser
from sfumato.training.denoiser_checks import check_recipe
from sfumato.training.objectives import denoising_loss, noised
from sfumato.training.parts import encoder_hash, load_autoencoder, start_weights
from sfumato.training.pictures import DataConfig, PictureBatches
from sfumato.training.recipe_file import DenoiserRecipe, parse_recipe
from sfumato.training.text import learned_tokenizer
from tiny_stages import DATA, FIRST, LOOP, SECOND, artifact, first, second
from training_task import done, full_after, last_checkpoint, metrics, notices, stop_after, tensor_bytes

GAN = {"adversarial_weight": 0.5, "adversarial_start": 2, "discriminator_channels": 8, "discriminator_layers": 1}


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a trained first stage."""
    folder = tmp_path_factory.mktemp("first")
    list(train_autoencoder(first(loop={**LOOP, "steps": 40, "save_every": 100}), folder))
    return folder


def test_reconstruction_gets_better_and_latents_get_unit_variance(autoencoder: Path) -> None:
    before = AutoencoderTrainer(first()).validate(0)
    after = AutoencoderTrainer(first(init_from=str(autoencoder), ema=None)).validate(0)
    assert after["validation/l1"] < 0.9 * before["validation/l1"]
    assert after["validation/psnr"] > before["validation/psnr"]
    trained = load_autoencoder(autoencoder)
    images = PictureBatches(DataConfig(**DATA), 64)(0).images()
    latents = trained.to_latents(images, torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert 0.9 < float(latents.std()) < 1.1
    assert not any(weight.requires_grad for weight in trained.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"perceptual_weight": 0.0, **GAN}},
        {
            "objective": {"perceptual_weight": 0.0, **GAN, "discriminator_norm": "group"},
            "autoencoder": {**FIRST["autoencoder"], "kind": "vq", "codebook_size": 32},
            "ema": None,
            "shift": True,
        },
        {"objective": {"perceptual_weight": 0.0, **GAN}, "precision": "bf16"},
    ],
    ids=["kl", "vq", "bf16"],
)
def test_the_first_stage_resumes_to_the_same_bytes(tmp_path: Path, changes: dict[str, Any]) -> None:
    recipe = first(**changes)
    whole = list(train_autoencoder(recipe, tmp_path / "a"))
    stop_after(train_autoencoder(recipe, tmp_path / "b"), 3)
    rest = list(train_autoencoder(recipe, tmp_path / "b", resume=True))
    assert tensor_bytes(last_checkpoint(whole)) == tensor_bytes(last_checkpoint(rest))
    assert set(metrics(whole, "autoencoder/adversarial")) == set(metrics(whole, "discriminator/loss")) == {3, 4}
    assert tensor_bytes(artifact(whole).path) == tensor_bytes(artifact(rest).path)
    assert load_autoencoder(tmp_path / "a").config.kind == recipe.autoencoder.kind
    assert artifact(whole).info["scaling_factor"] > 0
    assert artifact(whole).info["shift_factor"] == 0


def test_a_decoder_learns_beside_a_finished_encoder(tmp_path: Path, autoencoder: Path) -> None:
    recipe = first(learns="decoder", latent_noise=0.3, init_from=str(autoencoder), ema=None)
    (made,) = (event for event in train_autoencoder(recipe, tmp_path / "run") if isinstance(event, Artifact))
    before, after = load_autoencoder(autoencoder), load_autoencoder(made.path)
    assert after.config == before.config and made.info["scaling_factor"] == before.config.scaling_factor
    assert encoder_hash(before) == encoder_hash(after)
    moved = {key for key, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[key])}
    assert moved == {key for key in after.state_dict() if key.startswith(("decoder.", "post_quant_conv."))}
    run = tmp_path / "second"
    stop_after(train_denoiser(second(autoencoder), run), 2)
    assert done(list(train_denoiser(second(tmp_path / "run"), run, resume=True))).info["step"] == 4
    with pytest.raises(ConfigError, match="learns is 'decoder' but init_from is not given"):
        AutoencoderTrainer(first(learns="decoder"))


def test_latents_are_spread_while_the_decoder_learns(autoencoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    for share in (0.0, 2.0):
        recipe = first(learns="decoder", latent_noise=share, init_from=str(autoencoder), batch_size=64)
        trainer = AutoencoderTrainer(recipe)
        decode = trainer.autoencoder.decode
        monkeypatch.setattr(trainer.autoencoder, "decode", lambda z, **more: (seen.append(z.detach()), decode(z))[1])  # noqa: B023
        trainer.loss(0)
    spread = (seen[1] - seen[0]).std((1, 2, 3)) / seen[0].std()
    assert 0.0 < float(spread.min()) < 0.3 and 1.5 < float(spread.max()) < 2.3
    assert 0.8 < float(spread.mean()) < 1.2


def test_the_perceptual_term_is_part_of_the_loss() -> None:
    changed = {**DATA, "size": 32}
    trainer = AutoencoderTrainer(first(data=changed, objective={"perceptual_weight": 0.5, "kl_weight": 0.0}))
    report = trainer.loss(0)
    expected = float(report.metrics["pixel"]) + 0.5 * float(report.metrics["perceptual"])
    assert float(report.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(report.metrics["perceptual"]) > 0 and float(report.metrics["regulariser"]) == 0
    assert trainer.validate(0)["validation/perceptual"] > 0


def test_a_text_encoder_learns_beside_a_fixed_unet_and_resumes_to_the_same_bytes(
    tmp_path: Path, autoencoder: Path
) -> None:
    list(train_denoiser(second(autoencoder), tmp_path / "before"))
    changes = {"learns": "text_encoder", "init_from": str(tmp_path / "before")}
    recipe = second(autoencoder, **changes, loop={**LOOP, "save_every": 1, "keep": 4})
    whole = list(train_denoiser(recipe, tmp_path / "a"))
    stop_after(train_denoiser(recipe, tmp_path / "b"), 2)
    rest = list(train_denoiser(recipe, tmp_path / "b", resume=True))
    assert tensor_bytes(last_checkpoint(whole)) == tensor_bytes(last_checkpoint(rest))
    start, steps = (sorted((tmp_path / run / "checkpoints").glob("step-*")) for run in ("before", "a"))
    saved = [tensor_bytes(step) for step in (start[-1], *steps)]
    unets, texts = ([state[f"{part}.safetensors"] for state in saved] for part in ("unet", "text_encoder"))
    assert len(saved) == 5 and unets[1:] == unets[1:2] * 4
    average, used = start_weights(start[-1], "unet"), read_safetensors(steps[0] / "unet.safetensors")
    assert all(torch.equal(average[name], used[name]) for name in used) and unets[0] != unets[1]
    assert not any(before == after for before, after in pairwise(texts))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({}, "init_from"),
        ({"init_from": "x", "text_encoder": None}, "learns"),
        ({"init_from": "x", "alignment": {"weight": 0.5, "width": 8}}, "alignment.weight"),
    ],
)
def test_a_text_encoder_that_cannot_learn_alone_is_refused(
    tmp_path: Path, autoencoder: Path, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        list(train_denoiser(second(autoencoder, learns="text_encoder", **changes), tmp_path / "a"))
    assert refused.value.field == field


@pytest.mark.parametrize(
    "changes",
    [{}, {"precision": "bf16"}, {"alignment": {"weight": 0.5, "width": 8}, "data": {**DATA, "size": 32}}],
    ids=["fp32", "bf16", "aligned"],
)
def test_the_second_stage_resumes_to_the_same_bytes_and_writes_a_bundle(
    tmp_path: Path, autoencoder: Path, changes: dict[str, Any]
) -> None:
    loop = {**LOOP, "validate_every": 2, "preview_every": 4}
    recipe = second(autoencoder, loop=loop, bundle_every=2, **changes)
    whole = list(train_denoiser(recipe, tmp_path / "a"))
    stop_after(train_denoiser(recipe, tmp_path / "b"), 3)
    rest = list(train_denoiser(recipe, tmp_path / "b", resume=True))
    assert tensor_bytes(last_checkpoint(whole)) == tensor_bytes(last_checkpoint(rest))
    assert {"unet.safetensors", "text_encoder.safetensors", "ema.safetensors"} <= set(
        tensor_bytes(last_checkpoint(whole))
    )
    assert {event.phase for event in whole if isinstance(event, Progress)} == {"tokenizer", "latents"}
    assert [event.path.name for event in whole if isinstance(event, Preview)] == ["step-00000004.png"]
    assert set(metrics(whole, "validation/loss")) == {2, 4} and set(metrics(whole, "validation/loss_raw")) == {2, 4}
    assert [event.info["step"] for event in whole if isinstance(event, Artifact)] == [2, 4]
    bundle = load_bundle(tmp_path / "a" / "bundle")
    assert (bundle.name, bundle.native_size, bundle.prediction) == ("small", recipe.data.size, "v")
    averaged = start_weights(last_checkpoint(whole), "ema")["unet.conv_in.weight"]
    torch.testing.assert_close(bundle.unet.conv_in.weight.detach(), averaged.half().float())


def test_the_denoising_loss_falls(tmp_path: Path, autoencoder: Path) -> None:
    recipe = second(
        autoencoder,
        loop={**LOOP, "steps": 40, "save_every": 100, "validate_every": 39},
        objective={"text_dropout": 0.1},
        optim={"lr": 3e-3},
    )
    losses = metrics(list(train_denoiser(recipe, tmp_path)), "validation/loss_raw")
    assert losses[40] < 0.95


def test_another_run_starts_from_the_weights_and_the_tokenizer(tmp_path: Path, autoencoder: Path) -> None:
    one = list(train_denoiser(second(autoencoder), tmp_path / "a"))
    frozen = {**LOOP, "steps": 1}
    for name, place in (("run", tmp_path / "a"), ("checkpoint", last_checkpoint(one)), ("bundle", artifact(one).path)):
        recipe = second(autoencoder, init_from=str(place), loop=frozen, optim={"lr": 1e-30, "weight_decay": 0.0})
        list(train_denoiser(recipe, tmp_path / name))
        for part, key in (("unet", "conv_in.weight"), ("text_encoder", "text_model.final_layer_norm.weight")):
            given, kept = start_weights(place, part)[key].float(), start_weights(tmp_path / name, part)[key]
            torch.testing.assert_close(given, kept, rtol=0, atol=0)
    vocabularies = {file.read_bytes() for file in tmp_path.glob("*/tokenizer/vocab.json")}
    assert len(vocabularies) == 1


def test_a_denoiser_without_text_trains_and_says_that_it_has_no_bundle(tmp_path: Path, autoencoder: Path) -> None:
    unet = {**SECOND["unet"], "context_dim": None}
    recipe = second(autoencoder, unet=unet, text_encoder=None, loop={**LOOP, "steps": 1, "preview_every": 1})
    events = list(train_denoiser(recipe, tmp_path))
    assert "A denoiser without text has no bundle" in notices(events)[-1]
    assert any(isinstance(event, Preview) for event in events)
    assert not (tmp_path / "tokenizer").exists()


def test_one_recipe_can_train_both_stages(tmp_path: Path) -> None:
    text = Path(__file__).parents[2] / "recipes" / "tiny-autoencoder.toml"
    short = text.read_text().replace("steps = 60", "steps = 2")
    (tmp_path / "first.toml").write_text(short)
    recipe = parse_recipe(
        {
            **SECOND,
            "autoencoder_recipe": str(tmp_path / "first.toml"),
            "data": {**DATA, "size": 32},
            "loop": {**LOOP, "steps": 1},
        },
        DenoiserRecipe,
        "both",
    )
    events = list(train_denoiser(recipe, tmp_path / "run"))
    assert next(event.phase for event in events if isinstance(event, Progress)) == "autoencoder"
    assert done(events).info["step"] == 1
    assert not any(event.path.parent.parent.name == "autoencoder" for event in events if isinstance(event, Checkpoint))
    (tmp_path / "first.toml").write_text(short.replace("steps = 2", "steps = 3"))
    assert done(list(train_denoiser(recipe, tmp_path / "run", resume=True))).info["step"] == 1
    (tmp_path / "first.toml").write_text(short.replace("lr = ", "weight_decay = 0.5\nlr = ", 1))
    with pytest.raises(CannotResume, match=r"optim\.weight_decay: 0\.01 → 0\.5"):
        list(train_denoiser(recipe, tmp_path / "run", resume=True))


def test_a_start_that_failed_leaves_no_tokenizer_behind(tmp_path: Path, autoencoder: Path) -> None:
    with pytest.raises(ConfigError):
        list(train_denoiser(second(autoencoder, unet={**SECOND["unet"], "in_channels": 3}), tmp_path))
    other = second(autoencoder, tokenizer={"vocab_size": 560, "context_length": 20, "captions": 128})
    list(train_denoiser(other, tmp_path))
    kept = Tokenizer.load(tmp_path / "tokenizer")
    assert kept.context_length == 20 and kept.vocab_size <= 560


def test_a_run_keeps_to_the_tokenizer_it_began_with(tmp_path: Path, autoencoder: Path) -> None:
    for name, size in (("one", 560), ("two", 600)):
        list(train_denoiser(second(autoencoder, tokenizer={"vocab_size": size, "captions": 128}), tmp_path / name))
    given = {"folder": str(tmp_path / "one" / "tokenizer")}
    list(train_denoiser(second(autoencoder, tokenizer=given), tmp_path / "run"))
    again = second(autoencoder, tokenizer=given, loop={**LOOP, "steps": 5})
    assert done(list(train_denoiser(again, tmp_path / "run", resume=True))).info["step"] == 5
    before = (tmp_path / "run" / "tokenizer" / "vocab.json").read_bytes()
    given = {"folder": str(tmp_path / "two" / "tokenizer")}
    with pytest.raises(CannotResume, match=r"two/tokenizer' holds another tokenizer than '.*run/tokenizer'"):
        list(train_denoiser(second(autoencoder, tokenizer=given), tmp_path / "run", resume=True))
    assert (tmp_path / "run" / "tokenizer" / "vocab.json").read_bytes() == before


def test_gradient_checkpointing_reaches_the_network(tmp_path: Path, autoencoder: Path) -> None:
    recipe = second(
        autoencoder, gradient_checkpointing=True, text_encoder=None, unet={**SECOND["unet"], "context_dim": None}
    )
    assert DenoiserTrainer(recipe, tmp_path, load_autoencoder(autoencoder), None).unet.gradient_checkpointing


def test_gradient_checkpointing_gives_the_same_bytes(tmp_path: Path, autoencoder: Path) -> None:
    folders = []
    for on in (False, True):
        events = list(train_denoiser(second(autoencoder, gradient_checkpointing=on), tmp_path / str(on)))
        folders.append(tensor_bytes(last_checkpoint(events)))
    assert folders[0] == folders[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder": None}, r"Neither autoencoder nor autoencoder_recipe is given"),
        ({"unet": {**SECOND["unet"], "in_channels": 3}}, r"unet\.in_channels is 3; the autoencoder .* need 4"),
        ({"unet": {**SECOND["unet"], "context_dim": 64}}, r"unet\.context_dim is 64; .* need 32"),
        ({"unet": {**SECOND["unet"], "resblock_updown": True}}, r"cannot express resblock_updown=True"),
        ({"init_from": "/nowhere"}, r"init_from is '/nowhere', which has no weights of 'unet'"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_computed(
    tmp_path: Path, autoencoder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, UnknownFormat), match=message):
        list(train_denoiser(second(autoencoder, **changes), tmp_path))
    assert not (tmp_path / "checkpoints").exists()


def eps_recipe(**changes: Any) -> DenoiserRecipe:
    """The second stage with a first one that is still to be trained, and eps."""
    given = {**SECOND, "prediction": "eps", "autoencoder_recipe": "first.toml", **changes}
    return parse_recipe(given, DenoiserRecipe, "second")


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({}, "prediction", r"ends in pure noise \(schedule\.zero_terminal_snr is true\).*=false"),
        (
            {"schedule": {"kind": "given", "num_train_steps": 4, "betas": [0.1, 0.5, 0.9, 1.0]}},
            "prediction",
            r"ends in pure noise \(the betas of kind 'given' end in 1\)",
        ),
        (
            {
                "schedule": {"kind": "given", "num_train_steps": 20, "betas": [0.999] * 20},
                "objective": {"weighting": "debiased"},
            },
            "objective.weighting",
            r"weighting is 'debiased' and prediction is 'eps'.*falls to 0 in 32 bits",
        ),
    ],
)
def test_times_that_have_no_loss_are_refused_before_anything_is_begun(
    tmp_path: Path, changes: dict[str, Any], field: str, message: str
) -> None:
    recipe = eps_recipe(**changes)
    with pytest.raises(ConfigError, match=message) as refused:
        list(train_denoiser(recipe, tmp_path))
    assert refused.value.field == field
    assert list(tmp_path.iterdir()) == []
    schedule, nothing = Schedule(recipe.schedule), torch.zeros(1, 1, 1, 1)
    last = torch.tensor([schedule.num_train_steps - 1])
    with pytest.raises(ConfigError):
        denoising_loss(recipe.objective, schedule, "eps", nothing, noised(schedule, "eps", nothing, last, nothing))


def test_times_that_have_a_loss_are_not_refused() -> None:
    check_recipe(eps_recipe(schedule={}, objective={"weighting": "debiased"}))
    check_recipe(eps_recipe(prediction="v", objective={"weighting": "debiased"}))
    check_recipe(eps_recipe(prediction="x_0"))


def test_validation_and_previews_are_computed_without_dropout(tmp_path: Path, autoencoder: Path) -> None:
    recipe = second(autoencoder, unet={**SECOND["unet"], "dropout": 0.3}, ema={"decay": 0.0})
    tokenizer = learned_tokenizer(recipe, tmp_path)
    trainer = DenoiserTrainer(recipe, tmp_path, load_autoencoder(autoencoder), tokenizer)
    list(trainer.pool.move_to(0))
    torch.manual_seed(0)
    with torch.no_grad():  # the layers that start at zero would hide what dropout does before them
        for weight in trainer.unet.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.05)
    validated, drawn, learned = [], [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        validated.append(trainer.validate(0))
        (preview,) = trainer.preview(0, tmp_path / str(seed))
        assert isinstance(preview, Preview)
        drawn.append(preview.path.read_bytes())
        assert all(part.training for network in trainer.modules.values() for part in network.modules())
        learned.append(float(trainer.loss(0).loss.detach()))
    assert validated[0] == validated[1] and drawn[0] == drawn[1]
    assert learned[0] != learned[1], "dropout is there while it learns"


def test_a_denoiser_outlives_a_disk_that_is_full_for_a_while(tmp_path: Path, autoencoder: Path) -> None:
    recipe = second(autoencoder, loop={**LOOP, "steps": 8, "preview_every": 1})
    whole = list(train_denoiser(recipe, tmp_path / "a"))
    running, seen = train_denoiser(recipe, tmp_path / "b"), []
    with pytest.MonkeyPatch.context() as patch:
        for event in running:
            seen.append(event)
            if isinstance(event, Metric) and event.step == 1:
                full_after(1, patch)
            if isinstance(event, Metric) and event.step == 5:
                patch.undo()
            if isinstance(event, Metric) and event.step == 7:
                break
        running.close()  # type: ignore[attr-defined]
    told = [message.split(" The run goes on")[1] for message in notices(seen)]
    preview, save = " without this preview.", " and saves again after 2 steps."
    assert told == [preview, save, preview, ": what it has encoded is in memory.", preview, save, preview]
    assert [event.step for event in seen if isinstance(event, Preview)] == [5, 6]
    rest = list(train_denoiser(recipe, tmp_path / "b", resume=True))
    assert tensor_bytes(last_checkpoint(rest)) == tensor_bytes(last_checkpoint(whole))


def test_a_bundle_on_the_way_that_cannot_be_written_ends_nothing(
    tmp_path: Path, autoencoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, failed = denoiser.save_bundle, []

    def fails_once(*given: Any) -> Any:
        if not failed:
            failed.append(given)
            raise StorageError("Could not write 'bundle': the disk is full.")
        return save(*given)

    monkeypatch.setattr(denoiser, "save_bundle", fails_once)
    events = list(train_denoiser(second(autoencoder, bundle_every=2), tmp_path))
    assert notices(events) == [
        "Could not write 'bundle': the disk is full. The run goes on and writes it again after 2 steps."
    ]
    assert artifact(events).info["step"] == 4 and load_bundle(tmp_path / "bundle").name == "small"


def test_a_folder_without_an_autoencoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"'{tmp_path}' holds no finished autoencoder: neither config\.json nor"):
        load_autoencoder(tmp_path)


def test_weights_of_another_size_are_refused_by_name(autoencoder: Path) -> None:
    wider = {**FIRST["autoencoder"], "channels": [16, 16]}
    with pytest.raises(
        CheckpointError, match=rf"The weights of '{autoencoder}' do not fit the Autoencoder.*size mismatch"
    ):
        AutoencoderTrainer(first(autoencoder=wider, init_from=str(autoencoder)))


def test_a_signal_at_the_end_of_the_first_stage_ends_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "recipes" / "tiny-autoencoder.toml").read_text()
    (tmp_path / "first.toml").write_text(text.replace("steps = 60", "steps = 2"))
    content = {**SECOND, "autoencoder_recipe": str(tmp_path / "first.toml"), "data": {**DATA, "size": 32}}
    recipe = parse_recipe(content, DenoiserRecipe, "both")
    measure = AutoencoderTrainer._measure_scale

    def interrupted(trainer: AutoencoderTrainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        measure(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderTrainer, "_measure_scale", interrupted)
        events = list(train_denoiser(recipe, tmp_path / "run"))
    assert notices(events)[-1] == "Stopped after the autoencoder: SIGINT was received. Resume goes on."
    assert (tmp_path / "run" / "autoencoder" / "autoencoder").is_dir() and not any(
        isinstance(event, Artifact) for event in events
    )
    assert done(events).info["stopped"] == "SIGINT was received"
    assert done(list(train_denoiser(recipe, tmp_path / "run", resume=True))).info["step"] == LOOP["steps"]


@pytest.mark.parametrize(
    ("changes", "message", "field"),
    [
        (
            {"autoencoder_recipe": "x.toml"},
            "Both are given, autoencoder 'a' and autoencoder_recipe 'x.toml'",
            "autoencoder",
        ),
        ({"bundle_every": 3}, "bundle_every is 3, but states are saved every 2 steps", "bundle_every"),
    ],
)
def test_what_a_recipe_would_leave_out_is_refused(changes: dict[str, Any], message: str, field: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_recipe(second(Path("a"), **changes))
    assert caught.value.field == field


def test_what_changes_nothing_in_a_recipe_is_said(tmp_path: Path) -> None:
    recipe = first(optim={"lr": 2e-3, "decay_steps": 3, "muon_precision": "bf16"}, loop={**LOOP, "steps": 1})
    assert notices(list(train_autoencoder(recipe, tmp_path))) == [
        "optim.decay_steps is 3 but optim.schedule is 'constant'. It changes nothing.",
        "optim.muon_precision is 'bf16' but optim.name is 'adamw'. It changes nothing.",
    ]
    assert "changes nothing" not in " ".join(notices(list(train_autoencoder(recipe, tmp_path, resume=True))))


def test_an_adversary_that_can_do_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="discriminator_layers is 3, which needs pictures of 24 pixels a side; they"):
        first(objective={**GAN, "perceptual_weight": 0.0, "discriminator_layers": 3})
    late = first(objective={**GAN, "perceptual_weight": 0.0, "adversarial_start": 4})
    assert notices(list(train_autoencoder(late, tmp_path)))[0] == (
        "The adversarial term begins at step 4; of the 4 steps of this run none has it."
    )


def test_the_discriminator_warms_up_from_its_own_first_step_and_sees_each_batch_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = {"warmup_steps": 2, "lr": 1e-3}
    recipe = first(
        objective={**GAN, "perceptual_weight": 0.0}, discriminator_optim=warm, loop={**LOOP, "accumulate": 2}
    )
    passes: list[int] = []
    reconstruct = AutoencoderTrainer._reconstruct

    def counted(trainer: AutoencoderTrainer, images: Any, draw: int) -> Any:
        passes.append(draw)
        return reconstruct(trainer, images, draw)

    monkeypatch.setattr(AutoencoderTrainer, "_reconstruct", counted)
    rates = metrics(list(train_autoencoder(recipe, tmp_path)), "discriminator/lr")
    assert rates == {3: pytest.approx(5e-4), 4: pytest.approx(1e-3)}
    assert passes == list(range(8))


def test_the_use_of_a_codebook_is_told() -> None:
    vq = {**FIRST["autoencoder"], "kind": "vq", "codebook_size": 8, "embed_dim": 4}
    values = AutoencoderTrainer(first(autoencoder=vq)).validate(0)
    assert 1 / 8 <= values["validation/codebook_used"] <= 1 <= values["validation/codebook_perplexity"] <= 8
