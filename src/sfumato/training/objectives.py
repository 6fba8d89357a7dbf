"""What is descended: the denoising loss, the terms of the autoencoder's loss, and the loss of a dual encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from sfumato.diffusion.parameterization import Prediction, target
from sfumato.diffusion.process import elementwise_loss, loss_weight, q_sample
from sfumato.diffusion.schedules import Schedule
from sfumato.tensors import Latents, LatentWeights, PerRow
from sfumato.training.section import Section

PerRowInt = Int[Tensor, "b"]
BUCKETS = 4


class DenoisingConfig(Section):
    """The denoising loss.

    Attributes:
        loss: `l1`, `l2`, `huber` or `pseudo_huber`, per number.
        delta: Where the Huber losses turn linear.
        weighting: `none`, `min_snr` or `debiased`.
        gamma: Ceiling of min-SNR.
        times: `uniform` in t, or `logit_normal`: `t = T · sigmoid(mean + std · n)`, more of the middle.
        logit_mean: Mean of the logit-normal times; positive means noisier.
        logit_std: Standard deviation of the logit-normal times.
        shift: Moves the drawn times, as shares u of T, to `shift·u / (1 + (shift - 1)·u)` ([esser2024] eq. 23). Above 1
            for more of the noisy ones, where a picture comes from its words alone: with 3, half lie in the noisiest
            quarter. Positive.
        offset_noise: Share of noise that is one number per channel, so that brightness is learned too.
        text_dropout: Probability with which a caption is replaced by the empty one, for guidance without a classifier.
    """

    loss: Literal["l1", "l2", "huber", "pseudo_huber"] = "l2"
    delta: float = Field(default=1.0, gt=0)
    weighting: Literal["none", "min_snr", "debiased"] = "none"
    gamma: float = Field(default=5.0, gt=0)
    times: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0)
    shift: float = Field(default=1.0, gt=0)
    offset_noise: float = Field(default=0.0, ge=0, le=1)
    text_dropout: float = Field(default=0.1, ge=0, le=1)


@dataclass(frozen=True)
class Noised:
    """A batch on its way into the network.

    Attributes:
        x_t: What the network sees.
        t: When.
        wanted: What it should answer.
    """

    x_t: Latents
    t: PerRowInt
    wanted: Latents


def draw_times(config: DenoisingConfig, count: int, num_train_steps: int, draw: torch.Generator) -> PerRowInt:
    """Draw training times.

    Args:
        config: Their distribution.
        count: How many.
        num_train_steps: T; times are in [0, T).
        draw: Source of randomness.
    """
    if config.times == "uniform" and config.shift == 1:
        return torch.randint(num_train_steps, (count,), generator=draw)
    if config.times == "uniform":
        position = torch.rand(count, generator=draw)
    else:
        position = torch.sigmoid(config.logit_mean + config.logit_std * torch.randn(count, generator=draw))
    position = config.shift * position / (1 + (config.shift - 1) * position)
    return (position * num_train_steps).long().clamp(max=num_train_steps - 1)


def draw_eps(config: DenoisingConfig, shape: torch.Size, draw: torch.Generator) -> Latents:
    """Draw the noise of a batch: standard normal, plus the offset that shifts whole channels."""
    eps = torch.randn(shape, generator=draw)
    if config.offset_noise:
        eps = eps + config.offset_noise * torch.randn(*shape[:2], 1, 1, generator=draw)
    return eps


def noised(schedule: Schedule, prediction: Prediction, x_0: Latents, t: PerRowInt, eps: Latents) -> Noised:
    """Noise a batch to its times and say what the network should answer there.

    Args:
        schedule: Levels of the times.
        prediction: What the network predicts.
        x_0: Clean latents.
        t: Training times.
        eps: The noise.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return Noised(q_sample(x_0, eps, alpha, sigma), t, target(prediction, x_0, eps, alpha, sigma))


def weighted_mean(values: Latents, weights: LatentWeights) -> PerRow:
    """Average over each row by weight: `Σ w·v / Σ w`; equal weights give the plain mean, bit for bit.

    Args:
        values: What is averaged.
        weights: One per place, the same for all channels, somewhere above 0 in every row.
    """
    return (values * weights).flatten(1).mean(1) / weights.flatten(1).mean(1)


def denoising_loss(
    config: DenoisingConfig,
    schedule: Schedule,
    prediction: Prediction,
    output: Latents,
    batch: Noised,
    weights: LatentWeights | None = None,
) -> tuple[PerRow, PerRow]:
    """Compare the network's answers with what was wanted ([ho2020] eq. 14, with a weight per level).

    Args:
        config: Which loss and weight.
        schedule: Levels of the times.
        prediction: What the network predicts.
        output: Its answers.
        batch: What it saw and should have answered.
        weights: How much each place counts, as from a mask; None for all alike.

    Returns:
        Weighted loss and plain loss of each row.
    """
    errors = elementwise_loss(config.loss, output, batch.wanted, config.delta)
    plain = errors.flatten(1).mean(1) if weights is None else weighted_mean(errors, weights)
    return loss_weight(config.weighting, schedule.snr(batch.t), prediction, config.gamma) * plain, plain


def bucket_means(values: PerRow, t: PerRowInt, num_train_steps: int) -> dict[str, float]:
    """Return the mean loss in each quarter of the training times; an empty quarter is left out.

    A single mean hides where learning happens: the noisiest quarter decides composition, the cleanest detail.
    """
    quarter = t.cpu() * BUCKETS // num_train_steps
    plain = values.detach().cpu()
    return {f"loss_t{k}": float(plain[quarter == k].mean()) for k in range(BUCKETS) if bool((quarter == k).any())}


class AutoencoderObjective(Section):
    """The autoencoder's losses.

    Attributes:
        pixel_loss: `l1` or `l2` between pictures.
        perceptual_weight: Weight of the perceptual distance; 0 leaves it out.
        perceptual_stages: Inner maps of EfficientNet-Lite0 that are compared.
        kl_weight: Weight of the KL term, summed over a picture's latents and divided by its number of pixel values:
            with 1e-6 this is [rombach2022]'s loss up to one factor for all terms.
        codebook_weight: Weight of the quantiser's loss, `vq` only.
        adversarial_weight: Factor on the adaptive weight of the adversarial term; 0 leaves it out.
        adversarial_start: First step with the adversarial term; the discriminator learns from the same step on.
        gan_loss: `hinge` or `vanilla`.
        discriminator_channels: Channels of the discriminator's first layer.
        discriminator_layers: Its strided layers; more means larger patches.
        discriminator_norm: `batch` as in the paper, or `group`.
    """

    pixel_loss: Literal["l1", "l2"] = "l1"
    perceptual_weight: float = Field(default=1.0, ge=0)
    perceptual_stages: tuple[int, ...] = (0, 2, 3, 4)
    kl_weight: float = Field(default=1e-6, ge=0)
    codebook_weight: float = Field(default=1.0, ge=0)
    adversarial_weight: float = Field(default=0.0, ge=0)
    adversarial_start: int = Field(default=50_001, ge=0)
    gan_loss: Literal["hinge", "vanilla"] = "hinge"
    discriminator_channels: int = Field(default=64, ge=1)
    discriminator_layers: int = Field(default=3, ge=1)
    discriminator_norm: Literal["batch", "group"] = "batch"


def contrastive_loss(
    pictures: Float[Tensor, "b d"],
    right: Float[Tensor, "b d"],
    wrong: Float[Tensor, "w d"],
    scale: Tensor,
) -> PerRow:
    """Compare every picture with every text; each must find its own among all.

    The mean of two cross-entropies over `scale` times the cosines: of each picture among all texts, the wrong ones
    included, and of each right text among all pictures ([radford2021] figure 3; the wrong texts are those of
    [yuksekgonul2023] 4.1).

    Args:
        pictures: Unit vectors.
        right: Unit vectors of the text of each picture, in the same order.
        wrong: Unit vectors of texts that belong to no picture; may be none.
        scale: What cosines are multiplied by.

    Returns:
        The loss of each pair.
    """
    own = torch.arange(len(pictures), device=pictures.device)
    of_pictures = F.cross_entropy(scale * pictures @ torch.cat([right, wrong]).T, own, reduction="none")
    of_texts = F.cross_entropy(scale * right @ pictures.T, own, reduction="none")
    return (of_pictures + of_texts) / 2
