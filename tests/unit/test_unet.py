"""The U-Net: published sizes, refused shapes, options that reach their destination."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from torch import nn

from sfumato.errors import ConfigError, ShapeError
from sfumato.models.presets import UNETS
from sfumato.models.unet import UNet, UNetConfig
from sfumato.nn.blocks import ResBlock

PARAMETERS = {
    "sd1": 859_520_964,
    "sd1_inpainting": 859_535_364,
    "sd2": 865_910_724,
    "sdxl": 2_567_463_684,
    "txt2img_1p4b": 872_300_484,
    "celeba": 274_056_163,
    "churches": 294_966_916,
    "cin": 394_984_196,
    "cin256_v2": 400_920_579,
    "bsr_sr": 113_622_563,
    "inpainting_big": 387_245_827,
    "layout2img": 246_277_379,
    "semantic": 215_229_315,
    "text2img256": 403_623_939,
    "rdm768": 1_335_480_400,
}
TINY = UNetConfig(4, 4, (8, 16), num_heads=2, context_dim=6, norm_groups=4, blocks_per_level=1)
PLAIN = dataclasses.replace(TINY, context_dim=None)


def test_every_preset_has_a_published_size() -> None:
    assert PARAMETERS.keys() == UNETS.keys()


@pytest.mark.parametrize("name", UNETS)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        unet = UNet(UNETS[name]())
    assert sum(parameter.numel() for parameter in unet.parameters()) == PARAMETERS[name]


def test_a_new_network_predicts_zero() -> None:
    output = UNet(TINY)(torch.randn(1, 4, 4, 4), 3, torch.randn(1, 2, 6))
    assert bool((output == 0).all())
    assert output.shape == (1, 4, 4, 4)


@pytest.mark.parametrize("height, width, fitting", [(6, 8, "8x8"), (8, 5, "8x8"), (9, 13, "12x16")])
def test_a_size_that_cannot_be_halved_is_refused(height: int, width: int, fitting: str) -> None:
    unet = UNet(dataclasses.replace(TINY, channels=(8, 8, 16)))
    message = f"x_t is {height}x{width}; both sides must be multiples of 4. The next size that fits is {fitting}."
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        unet(torch.zeros(1, 4, height, width), 0, torch.zeros(1, 2, 6))


def test_wrong_channels_are_refused() -> None:
    with pytest.raises(ShapeError, match="x_t has 3 channels, the network takes 4"):
        UNet(TINY)(torch.zeros(1, 3, 4, 4), 0, torch.zeros(1, 2, 6))


def test_a_context_that_does_not_fit_is_refused() -> None:
    unet, x_t = UNet(TINY), torch.zeros(2, 4, 4, 4)
    with pytest.raises(ShapeError, match="needs a context 6 wide, but none was given"):
        unet(x_t, 0)
    with pytest.raises(ShapeError, match="The context is 5 wide, the network needs 6"):
        unet(x_t, 0, torch.zeros(2, 2, 5))
    with pytest.raises(ShapeError, match="The context has 3 rows, x_t has 2"):
        unet(x_t, 0, torch.zeros(3, 2, 6))
    with pytest.raises(ShapeError, match="The context has 1 rows, x_t has 2"):
        unet(x_t, 0, unet.prepare_context(torch.zeros(1, 2, 6)))
    with pytest.raises(ShapeError, match=r"takes no context \(context_dim is None\)"):
        UNet(PLAIN)(x_t, 0, torch.zeros(2, 2, 6))


def test_a_cache_of_another_network_is_refused() -> None:
    cache = UNet(TINY).prepare_context(torch.zeros(1, 2, 6))
    with pytest.raises(ShapeError, match="holds 7 attentions, but not this one of width 8"):
        UNet(TINY)(torch.zeros(1, 4, 4, 4), 0, cache)


def test_times_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"t has shape \(3,\), x_t has 2 rows"):
        UNet(PLAIN)(torch.zeros(2, 4, 4, 4), torch.arange(3))


@pytest.mark.parametrize(
    "field, value, needed",
    [("num_classes", 5, "(2,)"), ("concat_channels", 3, "(2, 3, 4, 4)"), ("vector_width", 7, "(2, 7)")],
)
def test_missing_and_superfluous_conditions_are_refused(field: str, value: int, needed: str) -> None:
    x_t = torch.zeros(2, 4, 4, 4)
    name = {"num_classes": "class_labels", "concat_channels": "concat", "vector_width": "vector"}[field]
    given = {"class_labels": torch.zeros(1).long(), "concat": torch.zeros(2, 2, 4, 4), "vector": torch.zeros(2, 1)}
    taking = UNet(dataclasses.replace(PLAIN, **{field: value}))
    with pytest.raises(ShapeError, match=re.escape(f"needs {name} of shape {needed}, given was None.")):
        taking(x_t, 0)
    shape = tuple(given[name].shape)
    with pytest.raises(ShapeError, match=re.escape(f"needs {name} of shape {needed}, given was {shape}.")):
        taking(x_t, 0, **{name: given[name]})
    with pytest.raises(ShapeError, match=re.escape(f"takes no {name}, but one of shape {shape} was given.")):
        UNet(PLAIN)(x_t, 0, **{name: given[name]})


def test_contradicting_configurations_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_heads is None and head_width is None: exactly one"):
        UNetConfig(4, 4, (32,))
    with pytest.raises(ConfigError, match="num_heads is 2 and head_width is 8: exactly one"):
        UNetConfig(4, 4, (32,), num_heads=2, head_width=8)
    with pytest.raises(ConfigError, match="channels is empty"):
        UNetConfig(4, 4, (), num_heads=2)
    with pytest.raises(ConfigError, match=r"channels \(32, 40\): 40 is not a multiple of norm_groups 32"):
        UNetConfig(4, 4, (32, 40), num_heads=2)
    with pytest.raises(ConfigError, match=r"transformer_depth \(1, 2, 3\) has 3 entries for 2 levels"):
        UNetConfig(4, 4, (32, 64), num_heads=2, transformer_depth=(1, 2, 3))
    with pytest.raises(ConfigError, match="3 attention heads do not divide 32 channels"):
        UNet(UNetConfig(4, 4, (32,), num_heads=3))


def test_dropout_reaches_its_layers() -> None:
    unet = UNet(dataclasses.replace(TINY, dropout=0.25, transformer_dropout=0.125))
    in_blocks = [module.dropout.p for module in unet.modules() if isinstance(module, ResBlock)]
    everywhere = [module.p for module in unet.modules() if isinstance(module, nn.Dropout)]
    assert set(in_blocks) == {0.25}
    assert set(everywhere) == {0.25, 0.125}
    assert everywhere.count(0.125) == 3 * 7


def test_attention_stands_where_the_configuration_says() -> None:
    unet = UNet(dataclasses.replace(TINY, channels=(8, 16, 32), attention_downsamples=(2, 16)))
    assert [len(level.attentions) for level in unet.down_blocks] == [0, 1, 0]
    assert [len(level.attentions) for level in unet.up_blocks] == [0, 2, 0]
    assert len(unet.mid_block.attentions) == 1
