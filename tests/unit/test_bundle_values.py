"""Values in the configurations of a base: heads of every shape, and kinds that nobody expects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import CheckpointError, ConfigError, UnknownFormat
from sfumato.formats.bundle import load_bundle, save_bundle
from sfumato.formats.bundle_outline import read_bundle_outline
from sfumato.formats.diffusers_unet import read_unet_config, write_unet_config
from sfumato.models.unet_config import UNetConfig
from tiny import tiny_bundle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_bundle(tiny_bundle(), tmp_path / "base")
    return tmp_path / "base"


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("channels", "factors", "head_width"),
    [((96, 192), (2,), 64), ((96, 192, 384), (2, 4), 64), ((32, 64, 128), (4,), 64), ((32, 64, 128), (), 64)],
)
def test_heads_count_where_there_is_attention(
    channels: tuple[int, ...], factors: tuple[int, ...], head_width: int
) -> None:
    config = UNetConfig(4, 4, channels, attention_downsamples=factors, head_width=head_width, context_dim=16)
    found = read_unet_config(write_unet_config(config, 8), "unet/config.json")
    levels = [level for level in range(len(channels)) if config.has_attention(level)]
    widths = [channels[level] for level in (*levels, len(channels) - 1)]
    assert [found.heads(width) for width in widths] == [config.heads(width) for width in widths]


@pytest.mark.parametrize(("channels", "factors"), [((96, 192), (1, 2)), ((64, 96), ())])
def test_heads_of_a_width_that_does_not_divide(channels: tuple[int, ...], factors: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="head_width is 64 but a level with attention has 96 channels"):
        UNetConfig(4, 4, channels, attention_downsamples=factors, head_width=64, context_dim=16)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("unet/config.json", "sample_size", [8, 4], r"'sample_size' = \[8, 4\]; supported: 'one number'"),
        ("unet/config.json", "sample_size", "8", "'sample_size' = '8'; supported"),
        ("unet/config.json", "block_out_channels", None, "'block_out_channels' = None; supported: 'a value'"),
        ("text_encoder/config.json", "hidden_size", None, "'hidden_size' = None; supported: 'a value'"),
        ("vae/config.json", "scaling_factor", None, "'scaling_factor' = None; supported"),
        ("scheduler/scheduler_config.json", "num_train_timesteps", None, "'num_train_timesteps' = None"),
        ("scheduler/scheduler_config.json", "beta_start", None, "'beta_start' = None; supported: 'a number'"),
        ("scheduler/scheduler_config.json", "beta_end", "0.02", "'beta_end' = '0.02'; supported: 'a number'"),
        (
            "scheduler/scheduler_config.json",
            "trained_betas",
            0.5,
            "'trained_betas' = 0.5; supported: 'a list of numbers'",
        ),
        ("unet/config.json", "norm_num_groups", "32", "'norm_num_groups' = '32'; supported: 'a whole number'"),
        ("unet/config.json", "block_out_channels", 320, "'block_out_channels' = 320; supported: 'a list, each a whole"),
        ("unet/config.json", "block_out_channels", ["32", "64"], "supported: 'a list, each a whole number'"),
        ("unet/config.json", "layers_per_block", "2", "'layers_per_block' = '2'; supported: 'a whole number'"),
        (
            "unet/config.json",
            "attention_head_dim",
            [2, None],
            r"'attention_head_dim' = \[2, None\]; supported: 'a whole",
        ),
        (
            "unet/config.json",
            "use_linear_projection",
            "false",
            "'use_linear_projection' = 'false'; supported: 'true or",
        ),
        ("vae/config.json", "down_block_types", "DownEncoderBlock2D", "supported: 'a list, each a text'"),
        ("vae/config.json", "scaling_factor", "0.18215", "'scaling_factor' = '0.18215'; supported: 'a number'"),
        ("text_encoder/config.json", "hidden_size", "32", "'hidden_size' = '32'; supported: 'a whole number'"),
        ("vae/config.json", "latent_channels", 8, "its U-Net needs 4 and gives 4 channels, where its latents have 8"),
        ("unet/config.json", "out_channels", 3, "concat|channels"),
    ],
)
def test_values_of_other_kinds_are_named(folder: Path, file: str, key: str, value: Any, message: str) -> None:
    edit(folder / file, lambda content: content.update({key: value}))
    with pytest.raises(UnknownFormat, match=message):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("unet/config.json", "in_channels", [4]),
        ("unet/config.json", "dropout", None),
        ("unet/config.json", "num_attention_heads", 2.5),
        ("vae/config.json", "shift_factor", [0.1]),
        ("vae/config.json", "shift_factor", "none"),
        ("scheduler/scheduler_config.json", "trained_betas", [0.1, None]),
    ],
)
def test_whatever_else_is_wrong_with_a_value_is_one_message(folder: Path, file: str, key: str, value: Any) -> None:
    edit(folder / file, lambda content: content.update({key: value}))
    with pytest.raises(CheckpointError, match=f"'{folder}' holds a value that nothing can be made of: ") as caught:
        load_bundle(folder)
    assert caught.value.hint == "Download or copy it again."


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("vae", "shift_factor", [0.1]), ("unet", "dropout", None), ("unet", "sample_size", [[8], [8]])],
)
def test_a_damaged_value_is_named_where_no_weights_are_read(folder: Path, part: str, key: str, value: Any) -> None:
    file = folder / part / "config.json"
    edit(file, lambda content: content.update({key: value}))
    with pytest.raises(CheckpointError, match=f"'{file}' holds a value that nothing can be made of: TypeError"):
        read_bundle_outline(folder)


@pytest.mark.parametrize("files", [["a.safetensors"], {"conv_in.weight": ["a.safetensors"]}, None])
def test_a_list_of_shards_that_is_none(folder: Path, files: Any) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    index = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    with pytest.raises(CheckpointError, match=f"'{index}' holds a value that nothing can be made of: "):
        load_bundle(folder)


def test_a_square_size_may_be_two_numbers(folder: Path) -> None:
    wanted = load_bundle(folder).native_size
    edit(folder / "unet/config.json", lambda content: content.update(sample_size=[content["sample_size"]] * 2))
    assert load_bundle(folder).native_size == read_bundle_outline(folder).native_size == wanted
