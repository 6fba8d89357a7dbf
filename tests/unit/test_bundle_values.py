"""Values in the configurations of a base: heads of every shape, and kinds that nobody expects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfumato.errors import ConfigError, UnknownFormat
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
        ("vae/config.json", "latent_channels", 8, "its U-Net needs 4 and gives 4 channels, where its latents have 8"),
        ("unet/config.json", "out_channels", 3, "concat|channels"),
    ],
)
def test_values_of_other_kinds_are_named(folder: Path, file: str, key: str, value: Any, message: str) -> None:
    edit(folder / file, lambda content: content.update({key: value}))
    with pytest.raises(UnknownFormat, match=message):
        load_bundle(folder)


def test_a_square_size_may_be_two_numbers(folder: Path) -> None:
    wanted = load_bundle(folder).native_size
    edit(folder / "unet/config.json", lambda content: content.update(sample_size=[content["sample_size"]] * 2))
    assert load_bundle(folder).native_size == read_bundle_outline(folder).native_size == wanted
