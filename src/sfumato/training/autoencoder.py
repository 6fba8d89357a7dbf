"""Train the first stage: reconstruction, regulariser and, from a chosen step on, a discriminator."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.events import Artifact, Event, Notice, Preview
from sfumato.models.autoencoder import Autoencoder, Reconstruction
from sfumato.models.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from sfumato.models.perceptual import PerceptualLoss
from sfumato.models.posterior import measure_scaling
from sfumato.models.quantizer import codebook_use
from sfumato.runtime.precision import computing_in
from sfumato.runtime.seeding import generator
from sfumato.tensors import Images, PerRow
from sfumato.training.ema import Ema, EmaConfig
from sfumato.training.in_use import said_of_tables
from sfumato.training.loop import train
from sfumato.training.parts import AVERAGE, load_autoencoder, load_weights, save_autoencoder, seeded, start_weights
from sfumato.training.pictures import PictureBatch, PictureBatches, check_pictures, fingerprint
from sfumato.training.recipe_file import AutoencoderRecipe, defaults_of, settings_of
from sfumato.training.sheets import psnr, save_sheet
from sfumato.training.state import checkpoints_of, has_checkpoints
from sfumato.training.stream import Prefetched
from sfumato.training.task import LossReport, Phase, Task

_ENCODE_BATCH = 32
_PREVIEW_PICTURES = 8


def train_autoencoder(
    recipe: AutoencoderRecipe, run_dir: Path, resume: bool = False, *, are_read: bool = False
) -> Iterator[Event]:
    """Train an autoencoder; at the end measure the scale of its latents and write it to `run_dir/autoencoder`.

    Args:
        recipe: Everything that decides the run.
        run_dir: Folder for checkpoints, previews, events and the result.
        resume: Go on from the newest checkpoint.
        are_read: The pictures have been checked.

    Yields:
        The events of `loop.train`, `Progress` while the pictures of a folder are checked, and an `Artifact` for the
        finished folder.

    Raises:
        SfumatoError: See `loop.train`; or the data cannot be opened.
    """
    if not has_checkpoints(run_dir):
        yield from _said_of_recipe(recipe)
    trainer = AutoencoderTrainer(recipe)
    if not (are_read or has_checkpoints(run_dir)):
        yield from check_pictures(recipe.data, are_captions_read=False)
    settings, defaults = settings_of(recipe, data=fingerprint(recipe.data)), defaults_of(recipe)
    task = trainer.task()
    task.ema = task.ema or kept_average(run_dir, {"autoencoder": trainer.autoencoder}, recipe.ema)
    yield from train(task, recipe.loop, run_dir, settings=settings, defaults=defaults, resume=resume)


def _said_of_recipe(recipe: AutoencoderRecipe) -> Iterator[Notice]:
    """Say what of a recipe changes nothing, as it is."""
    yield from said_of_tables(recipe)
    start, steps = recipe.objective.adversarial_start, recipe.loop.steps
    if recipe.objective.adversarial_weight and start >= steps:
        yield Notice(0, f"The adversarial term begins at step {start}; of the {steps} steps of this run none has it.")


def kept_average(run_dir: Path, modules: Mapping[str, nn.Module], config: EmaConfig | None) -> Ema | None:
    """Build the average of decay 0 that a run begun by an earlier version keeps in its checkpoints; nothing takes it.

    Why: a run goes on only with the parts that it was saved with.

    Args:
        run_dir: Folder of the run.
        modules: What would be averaged, by name.
        config: Decay and warm-up.

    Returns:
        The average, or `None` where the newest checkpoint has none.
    """
    newest = next((folder for _, folder in checkpoints_of(run_dir)), None)
    if config is None or newest is None or not (newest / AVERAGE).is_file():
        return None
    return Ema(modules, config)


def without_shift(autoencoder: Autoencoder) -> Autoencoder:
    """Return an autoencoder of the same latents and pictures whose shift is 0.

    Why: what diffusers draws with Stable Diffusion is decoded from `latents / scaling_factor`; `shift_factor` is never
    read there. The shift s goes into the 1×1 convolutions beside the latents: z' = z - s is a bias less s before them
    (and a codebook less s), and W z + b = W z' + (b + W s) a bias more W s behind them.

    Args:
        autoencoder: It stays as it is.

    Returns:
        A copy; the same object where there is no shift, or a convolution is missing.
    """
    config, shift = autoencoder.config, autoencoder.config.shift_factor
    if not (shift and config.quant_conv and config.post_quant_conv):
        return autoencoder
    made = copy.deepcopy(autoencoder)
    before, after = made.quant_conv, made.post_quant_conv
    assert before is not None and before.bias is not None and after is not None and after.bias is not None
    with torch.no_grad():
        before.bias[: config.denoiser_channels].sub_(shift)  # of a Gaussian the mean, and not the logarithm beside it
        after.bias.add_(after.weight.sum((1, 2, 3)), alpha=shift)
        if made.quantize is not None:
            made.quantize.embedding.weight.sub_(shift)
    made.set_scaling(config.scaling_factor)
    return made


@dataclass
class _Seen:
    """A batch with its reconstruction, kept for the discriminator's turn in the same step."""

    images: Images
    fake: Images
    ids: tuple[str, ...]


class AutoencoderTrainer:
    """Holds the networks of an autoencoder run and computes its losses.

    Args:
        recipe: Everything that decides the run.
    """

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        self.recipe = recipe
        self.device = torch.device(recipe.device)
        self.autoencoder = seeded(recipe.seed, "autoencoder", lambda: Autoencoder(recipe.autoencoder))
        if recipe.learns == "decoder":
            self._take_over_encoder()
        elif recipe.init_from is not None:
            load_weights(self.autoencoder, start_weights(recipe.init_from, "autoencoder"), str(recipe.init_from))
        self.discriminator = self._discriminator()
        self.perceptual = self._perceptual()
        for module in (self.autoencoder, self.discriminator, self.perceptual):
            if module is not None:
                module.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        average = recipe.ema if recipe.ema is not None and recipe.ema.decay else None
        self.ema = None if average is None else Ema({"autoencoder": self.autoencoder}, average)
        self.pictures = Prefetched(PictureBatches(recipe.data, recipe.batch_size), recipe.data.workers)
        self._seen: dict[int, _Seen] = {}
        self._fixed: Images | None = None

    def task(self) -> Task:
        """Return what the loop needs."""
        recipe, start = self.recipe, self.recipe.objective.adversarial_start
        phases = [Phase("autoencoder", {"autoencoder": self.autoencoder}, self.loss, recipe.optim)]
        saved: dict[str, nn.Module] = {"autoencoder": self.autoencoder}
        if self.discriminator is not None:
            saved["discriminator"] = self.discriminator
            phases.append(
                Phase(
                    "discriminator",
                    {"discriminator": self.discriminator},
                    self.discriminator_loss,
                    recipe.discriminator_optim,
                    lambda step: step >= start,
                    start,
                )
            )
        return Task(
            phases,
            saved,
            recipe.seed,
            self.ema,
            validate=self.validate,
            preview=self.preview,
            finish=self.finish,
            close=self.pictures.close,
        )

    def loss(self, draw: int) -> LossReport:
        """Compute the autoencoder's loss of a draw."""
        batch = self.pictures.get(draw)
        images = self._images(batch)
        with self._computing():
            done = self._reconstruct(images, draw)
            terms = self._terms(images, done)
        wanted = terms["pixel"] + self.recipe.objective.perceptual_weight * terms["perceptual"]
        per_sample = wanted + terms["regulariser"]
        loss, metrics = per_sample.mean(), {name: term.detach().mean() for name, term in terms.items()}
        if self.discriminator is not None and self._step(draw) >= self.recipe.objective.adversarial_start:
            with self._computing():
                adversarial = generator_loss(self.discriminator(done.images).float())
            weight = adaptive_weight(wanted.mean(), adversarial, self.autoencoder.last_layer)
            loss = loss + self.recipe.objective.adversarial_weight * weight * adversarial
            metrics |= {"adversarial": adversarial.detach(), "adaptive_weight": weight}
        self._keep(draw, _Seen(images, done.images.detach(), batch.ids))
        return LossReport(loss, metrics, batch.ids, per_sample.detach(), len(images))

    def discriminator_loss(self, draw: int) -> LossReport:
        """Compute the discriminator's loss on the same pictures and their reconstructions."""
        assert self.discriminator is not None
        if draw not in self._seen:
            batch = self.pictures.get(draw)
            images = self._images(batch)
            with torch.no_grad(), self._computing():
                self._keep(draw, _Seen(images, self._reconstruct(images, draw).images, batch.ids))
        seen = self._seen[draw]
        with self._computing():
            real, fake = (self.discriminator(side).float() for side in (seen.images, seen.fake))
        loss = discriminator_loss(real, fake, self.recipe.objective.gan_loss)
        return LossReport(loss, {"real": real.detach().mean(), "fake": fake.detach().mean()}, seen.ids)

    def _keep(self, draw: int, seen: _Seen) -> None:
        """Keep a batch for the discriminator, where there is one, with the others of its step."""
        step = self._step(draw)
        self._seen = {other: kept for other, kept in self._seen.items() if self._step(other) == step}
        if self.discriminator is not None:
            self._seen[draw] = seen

    def validate(self, step: int) -> Mapping[str, float]:
        """Measure the reconstruction of fixed pictures, with the averaged weights where there are some."""
        images = self._validation_images()
        with self._shipped(), torch.no_grad():
            parts = [self.autoencoder(part) for part in images.split(_ENCODE_BATCH)]
            fake = torch.cat([part.images for part in parts])
            values = {"l1": (fake - images).abs().mean(), "psnr": psnr(fake, images).mean()}
            if self.perceptual is not None:
                pairs = zip(fake.split(_ENCODE_BATCH), images.split(_ENCODE_BATCH), strict=True)
                values["perceptual"] = torch.cat([self.perceptual(a, b) for a, b in pairs]).mean()
            if self.recipe.autoencoder.kind == "kl":
                values["kl_per_picture"] = torch.cat([part.posterior.kl() for part in parts]).mean()
        told = {name: float(value) for name, value in values.items()}
        chosen = [part.quantized.indices for part in parts if part.quantized is not None]
        if chosen and (size := self.recipe.autoencoder.codebook_size):
            use = codebook_use(torch.cat(chosen), size)
            told |= {"codebook_used": use.used, "codebook_perplexity": use.perplexity}
        return {f"validation/{name}": value for name, value in told.items()}

    def preview(self, step: int, folder: Path) -> Iterator[Event]:
        """Write a sheet: fixed pictures over their reconstructions."""
        images = self._validation_images()[:_PREVIEW_PICTURES]
        with self._shipped(), torch.no_grad():
            fake = self.autoencoder(images).images
        yield Preview(step, save_sheet([images, fake], folder / f"step-{step:08d}.png"))

    def finish(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Measure the scale of the latents and write the autoencoder."""
        with self._shipped(), torch.no_grad():
            made = self.autoencoder
            if self.recipe.learns == "all":  # else the very encoder that a denoiser knows is kept, shift and all
                self._measure_scale()
                made = without_shift(made)
            folder = save_autoencoder(made, run_dir / "autoencoder", self._validation_images().shape[-1])
        config = made.config
        info = {"scaling_factor": config.scaling_factor, "shift_factor": config.shift_factor, **self.validate(step)}
        yield Artifact(folder, "autoencoder", info)

    def _measure_scale(self) -> None:
        """Measure the scale of the latents and keep it."""
        count = -(-self.recipe.scaling_pictures // _ENCODE_BATCH)
        batches = PictureBatches(self.recipe.data, _ENCODE_BATCH, "scaling")
        statistics = measure_scaling(self._sampled_latents(batches(index), index) for index in range(count))
        self.autoencoder.set_scaling(statistics.scaling_factor, statistics.mean if self.recipe.shift else 0.0)

    def _take_over_encoder(self) -> None:
        """Take all weights and the scale from a finished autoencoder and freeze what decides the latents."""
        recipe = self.recipe
        if recipe.init_from is None:
            raise ConfigError(
                "learns is 'decoder' but init_from is not given; a decoder learns beside a finished encoder.",
                field="init_from",
                hint="Name the folder that `sfumato train autoencoder` wrote.",
            )
        found = load_autoencoder(recipe.init_from)
        load_weights(self.autoencoder, found.state_dict(), str(recipe.init_from))
        self.autoencoder.set_scaling(found.config.scaling_factor, found.config.shift_factor)
        for part in (self.autoencoder.encoder, self.autoencoder.quant_conv):
            if part is not None:
                part.requires_grad_(False)

    def _sampled_latents(self, batch: PictureBatch, index: int) -> Tensor:
        """Draw the unscaled latents of some pictures."""
        posterior = self.autoencoder.encode(self._images(batch))
        draw = generator(self.recipe.seed, "scaling", index)
        return posterior.sample(torch.randn(posterior.mean.shape, generator=draw).to(self.device))

    def _reconstruct(self, images: Images, draw: int) -> Reconstruction:
        """Encode, draw latents, decode."""
        config, f = self.recipe.autoencoder, self.autoencoder.downsample_factor
        if config.kind != "kl":
            return self.autoencoder(images)  # type: ignore[no-any-return]
        shape = (len(images), config.latent_channels, images.shape[2] // f, images.shape[3] // f)
        eps = torch.randn(shape, generator=generator(self.recipe.seed, "train/posterior", draw))
        if self.recipe.latent_noise == 0:
            return self.autoencoder(images, eps.to(self.device))  # type: ignore[no-any-return]
        posterior = self.autoencoder.encode(images)
        latents = posterior.sample(eps.to(self.device))
        source = generator(self.recipe.seed, "train/latent_noise", draw)
        share = torch.rand(len(images), 1, 1, 1, generator=source) * self.recipe.latent_noise
        noise = (share * torch.randn(shape, generator=source)).to(self.device)
        latents = latents + noise * latents.detach().float().std()
        return Reconstruction(self.autoencoder.decode(latents), posterior, None)

    def _terms(self, images: Images, done: Reconstruction) -> dict[str, PerRow]:
        """Compute the terms of the loss for each picture."""
        objective = self.recipe.objective
        gap = done.images.float() - images
        pixel = (gap.abs() if objective.pixel_loss == "l1" else gap.square()).flatten(1).mean(1)
        perceptual = (
            torch.zeros_like(pixel) if self.perceptual is None else self.perceptual(done.images, images).float()
        )
        if done.quantized is None:
            regulariser = objective.kl_weight * done.posterior.kl() / images[0].numel()
        else:
            regulariser = objective.codebook_weight * done.quantized.loss().expand(len(images))
        return {"pixel": pixel, "perceptual": perceptual, "regulariser": regulariser}

    def _computing(self) -> AbstractContextManager[object]:
        """Compute in the numbers of the recipe inside the block."""
        return computing_in(self.recipe.precision, self.device)

    def _images(self, batch: PictureBatch) -> Images:
        """Bring pictures to the device."""
        return batch.images().to(self.device)

    def _step(self, draw: int) -> int:
        """Return the step that a draw belongs to."""
        return draw // self.recipe.loop.accumulate

    def _validation_images(self) -> Images:
        """Return the fixed pictures."""
        if self._fixed is None:
            batches = PictureBatches(self.recipe.data, self.recipe.validation_pictures, "validation")
            self._fixed = self._images(batches(0))
        return self._fixed

    def _shipped(self) -> AbstractContextManager[None]:
        """Use the weights that are shipped inside the block."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def _discriminator(self) -> PatchDiscriminator | None:
        """Build the discriminator if it is wanted."""
        objective = self.recipe.objective
        if objective.adversarial_weight == 0:
            return None

        def build() -> PatchDiscriminator:
            layers, norm = objective.discriminator_layers, objective.discriminator_norm
            return PatchDiscriminator(objective.discriminator_channels, layers, norm=norm)

        return seeded(self.recipe.seed, "discriminator", build)

    def _perceptual(self) -> PerceptualLoss | None:
        """Build the perceptual loss if it is wanted."""
        objective = self.recipe.objective
        return None if objective.perceptual_weight == 0 else PerceptualLoss(stages=objective.perceptual_stages)
