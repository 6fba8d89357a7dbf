"""Folders of base models: round trip, strictness, and errors that name key and value."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.diffusion.parameterization import Prediction
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.errors import (
    CheckpointError,
    MissingKeys,
    SfumatoError,
    ShapeMismatch,
    StorageError,
    UnknownFormat,
    UnsafeFile,
    UnusedKeys,
)
from sfumato.formats.bundle import Bundle, Word, find_bundle, load_bundle, save_bundle
from sfumato.formats.bundle_outline import read_bundle_outline
from sfumato.formats.diffusers_config import read_scheduler, write_scheduler
from sfumato.formats.diffusers_unet import read_unet_config, write_unet_config
from sfumato.formats.network_weights import hash_of_networks
from sfumato.formats.safe_io import read_safetensors, write_safetensors
from sfumato.models.presets import UNETS
from sfumato.models.unet_config import UNetConfig
from sfumato.runtime.precision import Holding
from tiny import tiny_bundle

UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    save_bundle(bundle, tmp_path / "base", files={"README.md": "# card\n"})
    return tmp_path / "base"


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_an_outline_says_without_weights_what_the_bundle_says(folder: Path) -> None:
    loaded = load_bundle(folder)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    outline = read_bundle_outline(folder)
    assert (outline.native_size, outline.downsample_factor) == (loaded.native_size, loaded.downsample_factor) == (32, 8)
    assert outline.tokenizer.vocabulary == loaded.tokenizer.vocabulary
    assert outline.tokenizer.context_length == loaded.tokenizer.context_length
    edit(folder / "unet/config.json", lambda content: content.pop("sample_size"))
    assert read_bundle_outline(folder).native_size == 64 * 4
    (folder / "vae/config.json").unlink()
    with pytest.raises(CheckpointError, match=r"vae/config\.json' is missing"):
        read_bundle_outline(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_round_trip(bundle: Bundle, tmp_path: Path, dtype: torch.dtype) -> None:
    save_bundle(bundle, tmp_path / "base", dtype)
    loaded = load_bundle(tmp_path / "base")
    assert loaded.base_hash == bundle.base_hash
    assert (loaded.name, loaded.native_size, loaded.prediction) == ("tiny", 32, "v")
    for part, module in loaded.modules.items():
        assert not module.training
        for name, parameter in module.named_parameters():
            assert parameter.dtype == torch.float32
            assert not parameter.requires_grad
            assert torch.equal(parameter, bundle.modules[part].state_dict()[name])
    assert loaded.tokenizer.encode(["a red fox"]).equal(bundle.tokenizer.encode(["a red fox"]))
    assert loaded.downsample_factor == 8


def test_loaded_weights_are_copies_of_the_file(folder: Path) -> None:
    loaded, before = load_bundle(folder), (folder / UNET_FILE).read_bytes()
    with torch.no_grad():
        for parameter in loaded.unet.parameters():
            parameter.add_(1)
    assert (folder / UNET_FILE).read_bytes() == before


def test_further_files_are_written(folder: Path) -> None:
    assert (folder / "README.md").read_text() == "# card\n"


@pytest.mark.parametrize(
    "config",
    [
        ScheduleConfig(),
        ScheduleConfig("linear", 1e-4, 0.02, 500, True),
        ScheduleConfig("cosine", num_train_steps=100),
        ScheduleConfig("sqrt", num_train_steps=100, zero_terminal_snr=True),
        ScheduleConfig("given", num_train_steps=3, betas=(0.1, 0.2, 0.3)),
    ],
)
@pytest.mark.parametrize("prediction", ["eps", "x_0", "v"])
def test_schedules_survive_the_file(config: ScheduleConfig, prediction: Any) -> None:
    read, what = read_scheduler(json.loads(json.dumps(write_scheduler(config, prediction))), "file")
    assert what == prediction
    torch.testing.assert_close(Schedule(read).betas, Schedule(config).betas, atol=1e-14, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(4, 4, (32, 64), num_heads=8, context_dim=16),
        UNetConfig(4, 4, (320, 640, 1280, 1280), head_width=64, context_dim=1024, linear_projection=True),
        UNetConfig(4, 4, (32, 64, 64), attention_downsamples=(2, 4), transformer_depth=(0, 2, 10), num_heads=2,
                   context_dim=16, vector_width=40, blocks_per_level=1),
        UNetConfig(4, 4, (32,), attention_downsamples=(), num_heads=4, context_dim=16, concat_channels=5,
                   scale_shift_norm=True, num_classes=7, dropout=0.1, norm_groups=16),
    ],
)  # fmt: skip
def test_unet_configurations_survive_the_file(config: UNetConfig) -> None:
    read = read_unet_config(json.loads(json.dumps(write_unet_config(config, 8))), "file")
    levels = [config.has_attention(level) for level in range(len(config.channels))]
    assert [read.has_attention(level) for level in range(len(config.channels))] == levels
    assert [read.heads(width) for width in config.channels] == [config.heads(width) for width in config.channels]
    alike = {"attention_downsamples": (), "num_heads": 1, "head_width": None, "transformer_depth": config.depths}
    assert replace(read, **{**alike, "transformer_depth": read.depths}) == replace(config, **alike)


def test_head_count_hides_behind_the_name_head_dim() -> None:
    content = write_unet_config(UNetConfig(4, 4, (320, 640), num_heads=8, context_dim=16), 8)
    assert content["attention_head_dim"] == 8
    content = write_unet_config(UNetConfig(4, 4, (320, 640), head_width=64, context_dim=16), 8)
    assert content["attention_head_dim"] == [5, 10]


def test_unet_that_the_layout_cannot_express() -> None:
    with pytest.raises(UnknownFormat, match="cannot express context_dim=None"):
        write_unet_config(UNetConfig(4, 4, (32,), num_heads=1), 8)
    with pytest.raises(UnknownFormat, match="cannot express resblock_updown=True"):
        write_unet_config(UNetConfig(4, 4, (32,), num_heads=1, context_dim=4, resblock_updown=True), 8)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("unet/config.json", "act_fn", "gelu", "'act_fn' = 'gelu'; supported: 'silu'"),
        ("unet/config.json", "mid_block_type", None, "'mid_block_type' = None; supported: 'UNetMidBlock2DCrossAttn'"),
        ("unet/config.json", "down_block_types", ["DownBlock2D", "KDownBlock2D"], "'KDownBlock2D'; supported"),
        ("unet/config.json", "up_block_types", ["UpBlock2D"] * 2, "the mirror of down_block_types"),
        ("unet/config.json", "attention_head_dim", [3, 2], r"'attention_head_dim' = \[3, 2\]"),
        ("unet/config.json", "layers_per_block", [1, 2], "one number for all levels"),
        ("unet/config.json", "resnet_time_scale_shift", "spatial", "'spatial'; supported: 'default', 'scale_shift'"),
        ("unet/config.json", "addition_embed_type", "image", "'addition_embed_type' = 'image'"),
        ("unet/config.json", "brand_new_key", 3, "the key 'brand_new_key' = 3, which this version"),
        ("vae/config.json", "_class_name", "AsymmetricAutoencoderKL", "supported: 'AutoencoderKL', 'VQModel'"),
        ("vae/config.json", "latents_mean", [0.1], r"'latents_mean' = \[0.1\]"),
        ("text_encoder/config.json", "model_type", "t5", "'model_type' = 't5'"),
        ("text_encoder/config.json", "hidden_act", "relu", "'hidden_act' = 'relu'"),
        ("text_encoder/config.json", "layer_norm_eps", 1e-6, "'layer_norm_eps' = 1e-06"),
        ("scheduler/scheduler_config.json", "beta_schedule", "sigmoid", "'beta_schedule' = 'sigmoid'"),
        ("scheduler/scheduler_config.json", "prediction_type", "flow", "'prediction_type' = 'flow'"),
    ],
)
def test_values_that_cannot_be_followed_are_named(folder: Path, file: str, key: str, value: Any, message: str) -> None:
    edit(folder / file, lambda content: content.update({key: value}))
    with pytest.raises(UnknownFormat, match=message) as caught:
        load_bundle(folder)
    assert str(folder / file) in str(caught.value)


def test_new_switches_that_are_off_do_no_harm(folder: Path, bundle: Bundle) -> None:
    edit(folder / "unet/config.json", lambda content: content.update({"brand_new_switch": False, "other": None}))
    assert load_bundle(folder).base_hash == bundle.base_hash


def damage(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = {name: tensor.clone() for name, tensor in read_safetensors(folder / UNET_FILE).items()}
    change(tensors)
    write_safetensors(folder / UNET_FILE, tensors)


@pytest.mark.parametrize("held_in", ["fp32", "bf16", "stored"])
def test_missing_key_names_the_nearest(held_in: Holding, folder: Path) -> None:
    damage(folder, lambda t: t.update({"conv_inn.weight": t.pop("conv_in.weight")}))
    with pytest.raises(MissingKeys, match=r"lacks 1 of the \d+ tensors .* first 'conv_in\.weight'") as caught:
        load_bundle(folder, held_in=held_in)
    assert "Did you mean 'conv_inn.weight'?" in str(caught.value)


def test_unused_key_and_wrong_shape_are_named(folder: Path) -> None:
    damage(folder, lambda t: t.update({"extra.weight": torch.zeros(1)}))
    with pytest.raises(UnusedKeys, match=r"has 1 tensors that no part of the model takes, first 'extra\.weight'"):
        load_bundle(folder)
    damage(folder, lambda t: (t.pop("extra.weight"), t.update({"conv_in.bias": torch.zeros(5)})))
    with pytest.raises(ShapeMismatch, match=r"'conv_in\.bias' in .* has shape \(5,\), the model needs \(32,\)"):
        load_bundle(folder)


def test_pickle_weights_are_refused(folder: Path) -> None:
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / UNET_FILE).unlink()
    with pytest.raises(UnsafeFile, match=r"diffusion_pytorch_model\.bin' holds a pickle"):
        load_bundle(folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="unet' holds no weights"):
        load_bundle(folder)


def test_half_precision_variant_is_read(folder: Path, bundle: Bundle) -> None:
    (folder / UNET_FILE).rename(folder / UNET_FILE.replace(".safetensors", ".fp16.safetensors"))
    assert load_bundle(folder).base_hash == bundle.base_hash


def test_names_of_early_autoencoders_are_read(folder: Path, bundle: Bundle) -> None:
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in read_safetensors(file).items():
        for new, early in old.items():
            if f".{new}." in name:
                name = name.replace(f".{new}.", f".{early}.")
                tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        tensors[name] = tensor.clone()
    assert any("query" in name for name in tensors)
    write_safetensors(file, tensors)
    positions = folder / "text_encoder" / "model.safetensors"
    text = {name: tensor.clone() for name, tensor in read_safetensors(positions).items()}
    write_safetensors(positions, {**text, "text_model.embeddings.position_ids": torch.arange(32)[None]})
    assert load_bundle(folder).base_hash == bundle.base_hash


def test_incomplete_folders_are_named(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="unet/config.json' cannot be read as JSON"):
        load_bundle(folder)
    (folder / "unet" / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list, a JSON object is needed"):
        load_bundle(folder)
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="unet/config.json' is missing"):
        load_bundle(folder)
    (folder / "vae").rename(folder / "other")
    with pytest.raises(CheckpointError, match="has no folder 'vae'"):
        load_bundle(folder)


def test_truncated_weights_are_named(folder: Path) -> None:
    (folder / UNET_FILE).write_bytes((folder / UNET_FILE).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors' is truncated"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("runwayml/stable-diffusion-v1-5", CheckpointError, "neither built in (primer) nor a folder"),
        ("primr", CheckpointError, "Did you mean 'primer'?"),
        ("model.ckpt", UnsafeFile, "ends in '.ckpt'"),
        ("gone.safetensors", CheckpointError, "gone.safetensors' does not exist"),
    ],
)
def test_bases_that_do_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[SfumatoError], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=re.escape(message)):
        find_bundle(name)


def test_things_that_are_no_base(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownFormat, match="empty' is of no known layout; a base must be a folder"):
        find_bundle(tmp_path / "empty")
    write_safetensors(tmp_path / "sd.safetensors", {"model.diffusion_model.out.2.weight": torch.zeros(1)})
    with pytest.raises(UnknownFormat, match="single-file Stable Diffusion checkpoint") as caught:
        load_bundle(tmp_path / "sd.safetensors")
    assert "from_single_file(FILE).save_pretrained(FOLDER)" in (caught.value.hint or "")
    write_safetensors(tmp_path / "l.safetensors", {"lora_unet_x.lora_up.weight": torch.zeros(1)})
    with pytest.raises(UnknownFormat, match="LoRA file in kohya layout") as caught:
        load_bundle(tmp_path / "l.safetensors")
    assert "--concept" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 96},
            "as Stable Diffusion XL has",
        ),
        ({"in_channels": 9}, "5 more channels beside the latents, as models for inpainting have"),
        ({"num_class_embeds": 10}, "a class for each picture"),
        ({"cross_attention_dim": 48}, r"text features 48 wide, which its text encoder \(32\) does not give"),
    ],
)
def test_a_base_that_needs_more_than_a_text_is_refused_before_its_weights_are_read(
    folder: Path, changes: dict[str, object], message: str
) -> None:
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    (folder / UNET_FILE).unlink()
    with pytest.raises(UnknownFormat, match=f"cannot be used: its U-Net needs .*{message}"):
        load_bundle(folder)


def test_a_second_text_encoder_is_seen(folder: Path) -> None:
    (folder / "text_encoder_2").mkdir()
    with pytest.raises(UnknownFormat, match="as Stable Diffusion XL has"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("context", "prediction", "name"),
    [
        (768, "eps", "stable-diffusion-v1"),
        (1024, "eps", "stable-diffusion-v2-512"),
        (1024, "v", "stable-diffusion-v2-768-v"),
        (512, "eps", "latent-diffusion"),
    ],
)
def test_the_kind_of_model_has_the_name_that_catalogues_know(context: int, prediction: Prediction, name: str) -> None:
    bundle = tiny_bundle()
    assert bundle.architecture == "latent-diffusion"
    wide = replace(UNETS["sd1"](), context_dim=context)
    bundle.unet.config = wide
    assert replace(bundle, prediction=prediction).architecture == name


def test_a_folder_of_the_same_name_hides_the_embedded_base_only_if_it_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "primer").mkdir()
    assert find_bundle("primer").is_absolute()
    save_bundle(tiny_bundle(), tmp_path / "primer")
    assert find_bundle("primer") == Path("primer")
    (tmp_path / "primer" / "model_index.json").unlink()
    with pytest.raises(UnknownFormat, match="'primer' is of no known layout"):
        find_bundle("primer")


def test_the_folder_of_a_finished_run_is_a_base(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "tokenizer").mkdir(parents=True)
    with pytest.raises(UnknownFormat, match="run' is of no known layout"):
        find_bundle(run)
    save_bundle(tiny_bundle(), run / "bundle")
    assert find_bundle(run) == run / "bundle"
    assert load_bundle(run).base_hash == load_bundle(run / "bundle").base_hash


def test_embedded_base_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.formats.embedded.BASES", tmp_path)
    monkeypatch.chdir(tmp_path / "..")
    with pytest.raises(CheckpointError, match="The embedded base 'primer' is not part of this installation"):
        find_bundle("primer")


def test_text_encoders_converted_from_a_single_file_lack_a_name(tmp_path: Path) -> None:
    bundle = tiny_bundle()
    save_bundle(bundle, tmp_path / "base")
    file = tmp_path / "base" / "text_encoder" / "model.safetensors"
    tensors = {key.removeprefix("text_model."): tensor.clone() for key, tensor in read_safetensors(file).items()}
    write_safetensors(file, {**tensors, "embeddings.position_ids": torch.arange(8.0)[None]}, {})
    assert load_bundle(tmp_path / "base").base_hash == bundle.base_hash


def test_weights_that_half_precision_cannot_hold(tmp_path: Path) -> None:
    large = tiny_bundle()
    with torch.no_grad():
        large.unet.conv_in.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(CheckpointError, match=r"size 1e\+06 does not fit into torch\.float16"):
        save_bundle(large, tmp_path / "base")
    assert list(tmp_path.iterdir()) == []
    save_bundle(large, tmp_path / "base", torch.float32)


def test_learned_words_survive_and_damaged_ones_are_named(bundle: Bundle, tmp_path: Path) -> None:
    word = Word("<fox>", "zq fox", "fox")
    save_bundle(replace(bundle, words=(word,)), tmp_path / "base")
    assert load_bundle(tmp_path / "base").words == (word,)
    file = tmp_path / "base" / "sfumato_words.json"
    edit(file, lambda content: content["words"][0].pop("expansion"))
    with pytest.raises(CheckpointError, match=r"sfumato_words\.json' is no list of words: .*'expansion'"):
        load_bundle(tmp_path / "base")


def test_saving_over_a_file_fails_clearly(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "base").write_text("")
    with pytest.raises(StorageError, match="a file is in the way"):
        save_bundle(bundle, tmp_path / "base")


def resized(folder: Path, rows: int) -> None:
    """Give the text encoder a token table of so many rows, as `resize_token_embeddings` does."""
    file = folder / "text_encoder/model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in read_safetensors(file).items()}
    name = "text_model.embeddings.token_embedding.weight"
    old = tensors[name]
    tensors[name] = torch.cat([old, torch.ones(max(0, rows - len(old)), old.shape[1], dtype=old.dtype)])[:rows].clone()
    write_safetensors(file, tensors)
    edit(folder / "text_encoder/config.json", lambda content: content.update({"vocab_size": rows}))


def test_a_new_word_begins_behind_the_rows_of_the_table(folder: Path) -> None:
    count = load_bundle(folder).tokenizer.vocab_size
    resized(folder, count + 5)
    bundle = load_bundle(folder)
    (token,) = bundle.tokenizer.add_placeholder("<fox>", 1)
    assert token == count + 5
    row = torch.randn(1, bundle.text_encoder.config.width)
    tokens = bundle.tokenizer.encode(["a <fox>"])
    with_row = bundle.text_encoder(tokens, extra_rows=row).context
    assert not torch.equal(with_row, bundle.text_encoder(tokens, extra_rows=row + 1).context)
    assert "<fox>" in bundle.tokenizer.decode(tokens[0].tolist())


def test_a_table_that_lacks_rows_is_refused(folder: Path) -> None:
    count = load_bundle(folder).tokenizer.vocab_size
    (folder / "tokenizer/added_tokens.json").write_text(json.dumps({"<cat>": count}))
    with pytest.raises(CheckpointError, match=f"has {count + 1} tokens, its text encoder {count} rows"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "CosineDPMSolverMultistepScheduler"]
)
def test_schedulers_without_betas_are_refused(name: str) -> None:
    with pytest.raises(UnknownFormat, match=f"has '_class_name' = '{name}'; supported: 'DDIMScheduler'"):
        read_scheduler({"_class_name": name, "num_train_timesteps": 1000}, "scheduler_config.json")


def test_shards_of_a_variant_are_found(folder: Path) -> None:
    whole = load_bundle(folder).base_hash
    tensors = read_safetensors(folder / UNET_FILE)
    names = sorted(tensors)
    shards = {f"diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, part in shards.items():
        write_safetensors(folder / "unet" / file, {name: tensors[name].clone() for name in part})
    (folder / UNET_FILE).unlink()
    index = {"weight_map": {name: file for file, part in shards.items() for name in part}}
    (folder / "unet/diffusion_pytorch_model.safetensors.index.fp16.json").write_text(json.dumps(index))
    assert load_bundle(folder).base_hash == whole


def test_how_weights_are_used_is_told_apart_from_the_weights(folder: Path) -> None:
    before = load_bundle(folder)
    edit(folder / "scheduler/scheduler_config.json", lambda content: content.update({"prediction_type": "epsilon"}))
    after = load_bundle(folder)
    assert before.base_hash == after.base_hash and before.use_hash != after.use_hash
    assert after.use_hash == load_bundle(folder, held_in="stored").use_hash


def test_the_hash_is_taken_once_however_many_ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, asked, begun = load_bundle(folder), [], threading.Event()
    wanted = load_bundle(folder).base_hash

    def slow(states: Any) -> str:
        asked.append(states)
        begun.set()
        time.sleep(0.2)
        return hash_of_networks(states)

    monkeypatch.setattr("sfumato.formats.bundle.hash_of_networks", slow)

    def changes_next() -> str:
        begun.wait()
        found = base.base_hash
        base.unet.conv_in.weight.data.zero_()  # as an adapter that is merged in
        return found

    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(lambda: base.base_hash), pool.submit(changes_next)]
        assert [one.result() for one in found] == [wanted] * 2
    assert len(asked) == 1 and base.base_hash == wanted
