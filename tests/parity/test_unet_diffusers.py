"""The same weights give the same numbers and gradients as the U-Nets of diffusers; keys and shapes are equal."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import UNet2DConditionModel, UNet2DModel

from sfumato.models.presets import UNETS
from sfumato.models.unet import UNet, UNetConfig

SMALL = {"in_channels": 4, "out_channels": 4, "norm_groups": 8}

CONDITIONED = {
    "convolution": UNetConfig(**SMALL, channels=(16, 32), context_dim=12, num_heads=2, attention_downsamples=(1, 2)),
    "linear": UNetConfig(
        **SMALL, channels=(16, 32), context_dim=12, num_heads=4, attention_downsamples=(1, 2), linear_projection=True
    ),
    "some levels": UNetConfig(
        **SMALL, channels=(16, 16, 32), context_dim=12, head_width=8, attention_downsamples=(2, 64)
    ),
    "no level": UNetConfig(**SMALL, channels=(16, 32), context_dim=12, head_width=8, attention_downsamples=()),
    "depths": UNetConfig(
        **SMALL,
        channels=(16, 32),
        blocks_per_level=1,
        context_dim=12,
        head_width=8,
        attention_downsamples=(1, 2),
        transformer_depth=(1, 3),
    ),
    "classes, scale and shift": UNetConfig(
        **SMALL,
        channels=(16, 32),
        blocks_per_level=1,
        context_dim=12,
        num_heads=2,
        attention_downsamples=(2,),
        num_classes=5,
        scale_shift_norm=True,
        concat_channels=3,
    ),
}
PLAIN = {
    "convolutions": UNetConfig(**SMALL, channels=(16, 32), head_width=8, attention_downsamples=(2,)),
    "residual resampling": UNetConfig(
        **SMALL,
        channels=(16, 16, 32),
        blocks_per_level=1,
        head_width=16,
        attention_downsamples=(1, 2),
        resblock_updown=True,
    ),
}


def conditioned_peer(config: UNetConfig, **more: Any) -> nn.Module:
    """Build diffusers' network of the same shape."""
    kinds = ["CrossAttn" if config.has_attention(level) else "" for level in range(len(config.channels))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return UNet2DConditionModel(
            in_channels=config.in_channels + config.concat_channels,
            out_channels=config.out_channels,
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
            block_out_channels=config.channels,
            layers_per_block=config.blocks_per_level,
            cross_attention_dim=config.context_dim,
            attention_head_dim=tuple(config.heads(width) for width in config.channels),
            transformer_layers_per_block=config.depths,
            use_linear_projection=config.linear_projection,
            norm_num_groups=config.norm_groups,
            num_class_embeds=config.num_classes,
            resnet_time_scale_shift="scale_shift" if config.scale_shift_norm else "default",
            **more,
        )


def plain_peer(config: UNetConfig) -> nn.Module:
    """Build diffusers' unconditional network of the same shape."""
    resample = "resnet" if config.resblock_updown else "conv"
    simple = ("ResnetDownsample", "ResnetUpsample") if config.resblock_updown else ("Down", "Up")
    levels = [config.has_attention(level) for level in range(len(config.channels))]
    return UNet2DModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=["AttnDownBlock2D" if attends else f"{simple[0]}Block2D" for attends in levels],
        up_block_types=["AttnUpBlock2D" if attends else f"{simple[1]}Block2D" for attends in reversed(levels)],
        block_out_channels=config.channels,
        layers_per_block=config.blocks_per_level,
        attention_head_dim=config.head_width,
        norm_num_groups=config.norm_groups,
        norm_eps=1e-5,
        downsample_type=resample,
        upsample_type=resample,
    )


def randomised(unet: UNet) -> UNet:
    """Move every weight, those that start at zero too, so that no path is silent."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.05)
    return unet.eval()


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def compare(ours: UNet, theirs: nn.Module, our_output: Tensor, their_output: Tensor, like: Tensor) -> None:
    """Compare outputs, then the gradient of every weight."""
    torch.testing.assert_close(our_output, their_output, atol=1e-5, rtol=1e-5)
    for output in (our_output, their_output):
        (output * like).mean().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("name", CONDITIONED)
def test_conditioned_unet_equals_diffusers(name: str) -> None:
    config = CONDITIONED[name]
    ours, theirs = randomised(UNet(config)), conditioned_peer(config).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x_t, t, context = draw(2, 4, 8, 8, seed=1), torch.tensor([3, 981]), draw(2, 5, 12, seed=2)
    concat = draw(2, 3, 8, 8, seed=3) if config.concat_channels else None
    labels = torch.tensor([4, 0]) if config.num_classes else None
    x = x_t if concat is None else torch.cat((x_t, concat), 1)
    our_output = ours(x_t, t, context, class_labels=labels, concat=concat)
    compare(ours, theirs, our_output, theirs(x, t, context, class_labels=labels).sample, x_t)


@pytest.mark.parametrize("name", PLAIN)
def test_plain_unet_equals_diffusers(name: str) -> None:
    config = PLAIN[name]
    ours, theirs = randomised(UNet(config)), plain_peer(config).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x_t, t = draw(2, 4, 8, 8, seed=1), torch.tensor([0, 500])
    compare(ours, theirs, ours(x_t, t), theirs(x_t, t).sample, x_t)


def test_vector_condition_equals_diffusers_text_and_sizes() -> None:
    config = UNetConfig(
        **SMALL,
        channels=(16, 32),
        blocks_per_level=1,
        context_dim=12,
        head_width=8,
        attention_downsamples=(2,),
        linear_projection=True,
        vector_width=6 + 2 * 8,
    )
    peer = conditioned_peer(
        config,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=config.vector_width,
    ).eval()
    ours = randomised(UNet(config))
    peer.load_state_dict(ours.state_dict(), strict=True)
    pooled, sizes = draw(2, 6, seed=4), torch.tensor([[64.0, 48.0], [8.0, 0.0]])
    vector = torch.cat((pooled, peer.add_time_proj(sizes.flatten()).reshape(2, -1)), dim=1)
    x_t, context = draw(2, 4, 8, 8, seed=1), draw(2, 5, 12, seed=2)
    added = {"text_embeds": pooled, "time_ids": sizes}
    their_output = peer(x_t, 7, context, added_cond_kwargs=added).sample
    torch.testing.assert_close(ours(x_t, 7, context, vector=vector), their_output, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sd1", "sd2", "txt2img_1p4b", "layout2img", "cin256_v2", "rdm768"])
def test_published_networks_have_the_keys_and_shapes_of_diffusers(name: str) -> None:
    config = UNETS[name]()
    with torch.device("meta"):
        ours, theirs = UNet(config), conditioned_peer(config)
    expected = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == expected
