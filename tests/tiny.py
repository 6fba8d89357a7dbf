"""A random base model so small that a test can do everything with it."""

from __future__ import annotations

import torch
from torch import nn

from sfumato.diffusion.parameterization import Prediction
from sfumato.diffusion.schedules import Schedule, ScheduleConfig
from sfumato.formats.bundle import Bundle
from sfumato.models.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.models.text_encoder import TextEncoder, TextEncoderConfig
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.unet import UNet, UNetConfig

CORPUS = ["a red fox in the snow", "a blue robot on a green background", "photo of a fox", "an owl, zq xj vk"] * 3


def tiny_tokenizer(context_length: int = 32) -> Tokenizer:
    """A tokenizer of about 600 pieces that knows a handful of words."""
    return Tokenizer.train(CORPUS, 600, context_length)


def tiny_bundle(seed: int = 0, prediction: Prediction = "v", *, zero_snr: bool = True) -> Bundle:
    """A base for 32×32 pictures on an 8×8 grid; every weight is random, none is zero."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id, "pad_id": tokenizer.pad_id}
    text = TextEncoderConfig(tokenizer.vocab_size, 32, 2, 2, 64, 32, "quick_gelu", **ends)
    unet = UNetConfig(4, 4, (32, 64), blocks_per_level=1, attention_downsamples=(1, 2), num_heads=2, context_dim=32)
    autoencoder = AutoencoderConfig(
        channels=(32, 32, 32), blocks_per_level=1, latent_channels=4, scaling_factor=0.5, mid_attention=True
    )
    bundle = Bundle(
        Autoencoder(autoencoder),
        UNet(unet),
        TextEncoder(text),
        tokenizer,
        Schedule(ScheduleConfig(zero_terminal_snr=zero_snr)),
        prediction,
        name="tiny",
        native_size=32,
    )
    for module in bundle.modules.values():
        for parameter in module.parameters():
            if parameter.ndim > 1 and not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    bundle.freeze()
    for module in bundle.modules.values():  # values that half precision holds, so that saving loses nothing
        for parameter in module.parameters():
            parameter.data = parameter.data.half().float()
    return bundle
