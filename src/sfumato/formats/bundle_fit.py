"""Whether the parts of a base fit one another, before its weights are read."""

from __future__ import annotations

from pathlib import Path

from sfumato.errors import CheckpointError, UnknownFormat
from sfumato.models.autoencoder import AutoencoderConfig
from sfumato.models.text_encoder import TextEncoderConfig
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.unet_config import UNetConfig


def fit_words(folder: Path, tokenizer: Tokenizer, text: TextEncoderConfig) -> None:
    """Let new words begin behind the rows of the token table, which may have more than the tokenizer has tokens.

    Raises:
        CheckpointError: It has fewer.
    """
    if tokenizer.vocab_size > text.vocab_size:
        raise CheckpointError(
            f"The tokenizer of '{folder}' has {tokenizer.vocab_size} tokens, its text encoder {text.vocab_size} rows; "
            "needed: a row for each token.",
            hint="Its folders 'tokenizer' and 'text_encoder' do not belong together: copy both again.",
        )
    tokenizer.first_free_id = text.vocab_size


def check_parts(folder: Path, unet: UNetConfig, text: TextEncoderConfig, vae: AutoencoderConfig) -> None:
    """Refuse a U-Net that needs more than one text encoder gives it, or other latents, before any weights are read."""
    if unet.vector_width is not None or (folder / "text_encoder_2").exists():
        needed = "a second text encoder and a vector for each picture, as Stable Diffusion XL has"
    elif unet.concat_channels:
        needed = f"{unet.concat_channels} more channels beside the latents, as models for inpainting have"
    elif unet.num_classes is not None:
        needed = "a class for each picture"
    elif unet.context_dim != text.width:
        needed = f"text features {unet.context_dim} wide, which its text encoder ({text.width}) does not give"
    elif not unet.in_channels == unet.out_channels == vae.denoiser_channels:
        needed = (
            f"{unet.in_channels} and gives {unet.out_channels} channels, where its latents have {vae.denoiser_channels}"
        )
    else:
        return
    raise UnknownFormat(
        f"'{folder}' cannot be used: its U-Net needs {needed}.",
        field="base",
        hint="Use a base of the kind of Stable Diffusion 1 or 2.",
    )
