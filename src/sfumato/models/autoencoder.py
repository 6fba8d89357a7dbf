"""First stage of latent diffusion: pictures to small latents and back ([rombach2022] 3.1, appendix G).

Two kinds keep the latents tame: `kl` draws them from a Gaussian near N(0, 1), `vq` snaps them to a learned codebook.
State-dict keys are those of the diffusers classes `AutoencoderKL` and `VQModel`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from sfumato.errors import ConfigError, ShapeError
from sfumato.models.posterior import Posterior
from sfumato.models.quantizer import Quantized, VectorQuantizer
from sfumato.nn.autoencoder_blocks import Decoder, Encoder
from sfumato.nn.stored import Conv2d
from sfumato.tensors import Images, Latents


@dataclass(frozen=True)
class AutoencoderConfig:
    """What an autoencoder is made of.

    Attributes:
        kind: `kl` (Gaussian latents) or `vq` (codebook).
        channels: Width of each level, full resolution first. n levels make latents 2^(n-1) times smaller.
        blocks_per_level: Residual blocks per level; the decoder has one more.
        latent_channels: Channels of the latents at the inner side of encoder and decoder.
        embed_dim: Length of the codebook vectors, the channels a denoiser sees. None means latent_channels, and `kl`
            allows nothing else.
        codebook_size: Number of codebook vectors, `vq` only.
        attention_levels: Levels with attention after each residual block, 0 = full resolution.
        mid_attention: Attention in the middle block.
        norm_groups: Groups of every GroupNorm; must divide every width.
        quant_conv: 1×1 convolution after the encoder.
        post_quant_conv: 1×1 convolution before the decoder.
        scaling_factor: Latents for the denoiser are (z - shift_factor) * scaling_factor, about unit variance.
        shift_factor: See scaling_factor.
    """

    kind: str = "kl"
    channels: tuple[int, ...] = (128, 256, 512, 512)
    blocks_per_level: int = 2
    latent_channels: int = 4
    embed_dim: int | None = None
    codebook_size: int | None = None
    attention_levels: tuple[int, ...] = ()
    mid_attention: bool = True
    norm_groups: int = 32
    quant_conv: bool = True
    post_quant_conv: bool = True
    scaling_factor: float = 1.0
    shift_factor: float = 0.0

    def __post_init__(self) -> None:
        """Check the values against one another."""
        if self.kind not in ("kl", "vq"):
            raise ConfigError(f"kind is {self.kind!r}; needed: 'kl' or 'vq'.", field="kind")
        for field in ("norm_groups", "blocks_per_level", "latent_channels", "embed_dim"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(f"{field} is {value}; needed: at least 1.", field=field)
        if not self.channels or any(width < 1 or width % self.norm_groups for width in self.channels):
            raise ConfigError(
                f"channels is {self.channels}; needed: at least one level, every width a multiple of "
                f"norm_groups = {self.norm_groups}.",
                field="channels",
            )
        if any(not 0 <= level < len(self.channels) for level in self.attention_levels):
            raise ConfigError(
                f"attention_levels is {self.attention_levels}; needed: numbers from 0 to {len(self.channels) - 1}.",
                field="attention_levels",
            )
        if not (math.isfinite(self.scaling_factor) and self.scaling_factor > 0 and math.isfinite(self.shift_factor)):
            raise ConfigError(
                f"scaling_factor is {self.scaling_factor}, shift_factor is {self.shift_factor}; needed: finite, "
                "scaling_factor above 0.",
                field="scaling_factor",
            )
        self._check_kind()

    def _check_kind(self) -> None:
        """Check what only one of the kinds has."""
        if self.kind == "vq" and self.codebook_size is None:
            raise ConfigError("kind is 'vq' but codebook_size is not given.", field="codebook_size")
        if self.kind == "vq" and not (self.quant_conv and self.post_quant_conv):
            raise ConfigError("kind 'vq' always has quant_conv and post_quant_conv.", field="quant_conv")
        if self.kind == "kl" and self.codebook_size is not None:
            raise ConfigError(
                f"codebook_size is {self.codebook_size} but kind is 'kl', which has no codebook.",
                field="codebook_size",
            )
        if self.kind == "kl" and self.embed_dim not in (None, self.latent_channels):
            raise ConfigError(
                f"embed_dim is {self.embed_dim}, latent_channels is {self.latent_channels}; needed: equal for 'kl'.",
                field="embed_dim",
            )

    @property
    def downsample_factor(self) -> int:
        """Picture pixels per latent pixel along one side: f of the paper."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def denoiser_channels(self) -> int:
        """Channels of the latents that a denoiser works on."""
        return self.latent_channels if self.embed_dim is None else self.embed_dim


@dataclass(frozen=True)
class Reconstruction:
    """A pass through the whole autoencoder, with what the losses need.

    Attributes:
        images: Decoded pictures, not clamped.
        posterior: The encoder's answer.
        quantized: Quantised latents and codebook losses; None for `kl`.
    """

    images: Images
    posterior: Posterior
    quantized: Quantized | None


class Autoencoder(nn.Module):
    """Encoder, regulariser and decoder.

    Args:
        config: What it is made of.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        z, e = config.latent_channels, config.denoiser_channels
        moments = 2 if config.kind == "kl" else 1
        self.encoder = Encoder(
            config.channels,
            moments * z,
            blocks_per_level=config.blocks_per_level,
            attention_levels=config.attention_levels,
            mid_attention=config.mid_attention,
            groups=config.norm_groups,
        )
        self.decoder = Decoder(
            config.channels,
            z,
            blocks_per_level=config.blocks_per_level,
            attention_levels=config.attention_levels,
            mid_attention=config.mid_attention,
            groups=config.norm_groups,
        )
        self.quant_conv = Conv2d(moments * z, moments * e, 1) if config.quant_conv else None
        self.post_quant_conv = Conv2d(e, z, 1) if config.post_quant_conv else None
        self.quantize = None if config.codebook_size is None else VectorQuantizer(config.codebook_size, e)

    @property
    def downsample_factor(self) -> int:
        """Picture pixels per latent pixel along one side."""
        return self.config.downsample_factor

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight at which the adversarial weight is measured ([esser2021])."""
        weight = self.decoder.conv_out.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def encode(self, images: Images) -> Posterior:
        """Encode pictures in [-1, 1]; the latents are not scaled yet.

        Raises:
            ShapeError: If height or width is not a multiple of the downsample factor.
        """
        self._check_size(images.shape[-2], images.shape[-1])
        h = self.encoder(images)
        if self.quant_conv is not None:
            h = self.quant_conv(h)
        return Posterior.from_moments(h) if self.config.kind == "kl" else Posterior(h, None)

    def decode(self, z: Latents, *, quantize: bool = True) -> Images:
        """Decode latents that are not scaled.

        Args:
            z: Latents; for `vq` those before quantisation.
            quantize: Snap to the codebook first, `vq` only.

        Returns:
            Pictures, about in [-1, 1], not clamped.

        Raises:
            ShapeError: If the number of channels is wrong.
        """
        if z.shape[1] != self.config.denoiser_channels:
            raise ShapeError(
                f"The latents have {z.shape[1]} channels, this autoencoder needs {self.config.denoiser_channels}."
            )
        if self.quantize is not None and quantize:
            z = self.quantize.lookup(self.quantize.nearest(z))
        images: Tensor = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return images

    def forward(self, images: Images, eps: Latents | None = None) -> Reconstruction:
        """Encode and decode with gradients, as training needs it.

        Args:
            images: Pictures in [-1, 1].
            eps: Noise of the latents, `(b, latent_channels, h, w)`; None takes the most likely latents.

        Returns:
            The decoded pictures and the terms of the regulariser.
        """
        posterior = self.encode(images)
        z = posterior.mode() if eps is None else posterior.sample(eps)
        quantized = None if self.quantize is None else self.quantize(z)
        return Reconstruction(
            images=self.decode(z if quantized is None else quantized.latents, quantize=False),
            posterior=posterior,
            quantized=quantized,
        )

    def to_latents(self, images: Images, eps: Latents | None = None) -> Latents:
        """Encode and scale: what a denoiser learns from. Without `eps` the most likely latents."""
        posterior = self.encode(images)
        z = posterior.mode() if eps is None else posterior.sample(eps)
        return (z - self.config.shift_factor) * self.config.scaling_factor

    def moments(self, images: Images) -> tuple[Latents, Latents | None]:
        """Encode and scale, keeping the spread: what is stored of a picture that is learned from again and again.

        Args:
            images: Pictures in [-1, 1].

        Returns:
            Mean and standard deviation of the scaled latents, in float32; no deviation for `vq`.
        """
        posterior, config = self.encode(images), self.config
        mean = (posterior.mean.float() - config.shift_factor) * config.scaling_factor
        if posterior.logvar is None:
            return mean, None
        return mean, (0.5 * posterior.logvar.float()).exp() * config.scaling_factor

    def to_images(self, latents: Latents) -> Images:
        """Undo the scaling and decode (with quantisation for `vq`); the pictures are not clamped."""
        return self.decode(latents / self.config.scaling_factor + self.config.shift_factor)

    def set_scaling(self, scaling_factor: float, shift_factor: float = 0.0) -> None:
        """Write measured values into the configuration, so that they are saved with the weights."""
        self.config = replace(self.config, scaling_factor=scaling_factor, shift_factor=shift_factor)

    def _check_size(self, height: int, width: int) -> None:
        """Pictures must cut into whole latent pixels."""
        f = self.downsample_factor
        if height % f == 0 and width % f == 0 and min(height, width) > 0:
            return
        legal = " × ".join(" or ".join(map(str, _nearest_multiples(side, f))) for side in (height, width))
        raise ShapeError(
            f"The pictures are {height}×{width} (height × width); both sides must be multiples of {f}.",
            hint=f"Nearest legal sizes: {legal}.",
        )


def _nearest_multiples(side: int, f: int) -> list[int]:
    """The multiples of f around a side, only itself if it is one."""
    low = side // f * f
    return [size for size in sorted({low, -(-side // f) * f}) if size > 0] or [f]


def _widths(base: int, multipliers: Sequence[int]) -> tuple[int, ...]:
    """Channels of the levels as the released configurations write them."""
    return tuple(base * multiplier for multiplier in multipliers)


def kl_f4() -> AutoencoderConfig:
    """Return LDM's kl-f4: 3 channels, 55.3 M parameters."""
    return AutoencoderConfig(channels=_widths(128, (1, 2, 4)), latent_channels=3)


def kl_f8() -> AutoencoderConfig:
    """Return LDM's kl-f8: 4 channels, 83.7 M parameters, with the scaling of Stable Diffusion 1 and 2."""
    return AutoencoderConfig(channels=_widths(128, (1, 2, 4, 4)), latent_channels=4, scaling_factor=0.18215)


def kl_f16() -> AutoencoderConfig:
    """Return LDM's kl-f16: 16 channels, 69.6 M parameters."""
    return AutoencoderConfig(channels=_widths(128, (1, 1, 2, 2, 4)), latent_channels=16, attention_levels=(4,))


def kl_f32() -> AutoencoderConfig:
    """Return LDM's kl-f32: 64 channels, 103.9 M parameters."""
    return AutoencoderConfig(channels=_widths(128, (1, 1, 2, 2, 4, 4)), latent_channels=64, attention_levels=(4, 5))


def vq_f4() -> AutoencoderConfig:
    """Return LDM's vq-f4: 8192 codes of 3 numbers, 55.3 M parameters."""
    return replace(kl_f4(), kind="vq", codebook_size=8192)


def vq_f4_noattn() -> AutoencoderConfig:
    """Return LDM's vq-f4-noattn, for pictures larger than those trained on: 53.2 M parameters."""
    return replace(vq_f4(), mid_attention=False)


def vq_f8(codebook_size: int = 16384) -> AutoencoderConfig:
    """Return LDM's vq-f8: codes of 4 numbers, 67.7 M parameters; vq-f8-n256 has `codebook_size=256`."""
    return AutoencoderConfig(
        kind="vq",
        channels=_widths(128, (1, 2, 2, 4)),
        latent_channels=4,
        codebook_size=codebook_size,
        attention_levels=(3,),
    )


def vq_f16() -> AutoencoderConfig:
    """Return LDM's vq-f16: 16384 codes of 8 numbers, 69.6 M parameters."""
    return replace(kl_f16(), kind="vq", latent_channels=8, codebook_size=16384)


AUTOENCODERS: dict[str, Callable[[], AutoencoderConfig]] = {
    "kl-f4": kl_f4,
    "kl-f8": kl_f8,
    "kl-f16": kl_f16,
    "kl-f32": kl_f32,
    "vq-f4": vq_f4,
    "vq-f4-noattn": vq_f4_noattn,
    "vq-f8": vq_f8,
    "vq-f16": vq_f16,
}
"""The released configurations of [rombach2022] by name."""
