"""Train the second stage: the denoising U-Net and its text encoder, on latents of a frozen autoencoder."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.data.images import READING
from sfumato.diffusion.schedules import Schedule
from sfumato.errors import ConfigError, DataError, StorageError
from sfumato.events import Artifact, Done, Event, Metric, Notice, Preview, Progress
from sfumato.formats.bundle import Bundle, save_bundle
from sfumato.models.autoencoder import Autoencoder, AutoencoderConfig
from sfumato.models.denoiser import Denoiser
from sfumato.models.text_encoder import TextEncoder
from sfumato.models.tokenizer import Tokenizer
from sfumato.models.unet import UNet
from sfumato.runtime.precision import computing_in
from sfumato.runtime.seeding import generator
from sfumato.tensors import Context, Images, Latents, PerRow, Times
from sfumato.training.alignment import Aligner, build_projector
from sfumato.training.autoencoder import train_autoencoder, without_shift
from sfumato.training.denoiser_checks import check_fit, check_recipe
from sfumato.training.denoiser_start import beginning, check_latents
from sfumato.training.ema import Ema
from sfumato.training.latents import LatentPool, Shard, fitted
from sfumato.training.loop import MAY_CHANGE, train
from sfumato.training.objectives import bucket_means, denoising_loss, draw_eps, draw_times, noised
from sfumato.training.parts import encoder_hash, load_autoencoder, load_weights, seeded, start_weights
from sfumato.training.pictures import DataConfig, PictureBatch, PictureBatches, fingerprint, number_to_learn
from sfumato.training.recipe_file import AutoencoderRecipe, DenoiserRecipe, defaults_of, load_recipe, settings_of
from sfumato.training.samples import sample_images
from sfumato.training.sheets import save_sheet
from sfumato.training.state import check_settings, has_checkpoints, latest, read_state
from sfumato.training.stream import Prefetched
from sfumato.training.task import LossReport, Phase, Task
from sfumato.training.text import learned_tokenizer, text_encoder_config, tokenizer_hash

_VALIDATION_BATCH = 64


def train_denoiser(recipe: DenoiserRecipe, run_dir: Path, resume: bool = False) -> Iterator[Event]:
    """Train a denoiser and its text encoder; at the end write a bundle to `run_dir/bundle`.

    Args:
        recipe: Everything that decides the run.
        run_dir: Folder for checkpoints, previews, events and the result.
        resume: Go on from the newest checkpoint.

    Yields:
        The events of `loop.train`, `Progress` while parts are prepared, and an `Artifact` for the bundle.

    Raises:
        SfumatoError: See `check_recipe`, `check_start` and `loop.train`; or a part cannot be read or does not fit the
            others.
    """
    check_recipe(recipe)
    nested = recipe.autoencoder_recipe
    first = None if nested is None else load_recipe(nested, AutoencoderRecipe)
    place = recipe.autoencoder if first is None else run_dir / "autoencoder"
    if place is None:
        raise ConfigError(
            "Neither autoencoder nor autoencoder_recipe is given; a denoiser works on an autoencoder's latents.",
            field="autoencoder",
            hint="Name the folder that `sfumato train autoencoder` wrote.",
        )
    if first is None:
        autoencoder = load_autoencoder(place)
        check_fit(recipe, autoencoder.config)
        yield from beginning(recipe, run_dir)
    else:
        check_fit(recipe, first.autoencoder)
        yield from beginning(recipe, run_dir)
        is_stopped = yield from _first_stage(first, place, recipe.data)
        if is_stopped or not (place / "autoencoder").is_dir():
            return
        autoencoder = load_autoencoder(place)
        check_fit(recipe, autoencoder.config)
    check_latents(recipe, autoencoder)
    yield Progress("tokenizer", 0, 1)
    tokenizer = learned_tokenizer(recipe, run_dir)
    yield Progress("tokenizer", 1, 1)
    trainer = DenoiserTrainer(recipe, run_dir, autoencoder, tokenizer)
    settings, defaults = trainer.settings, defaults_of(recipe)
    yield from train(trainer.task(), recipe.loop, run_dir, settings=settings, defaults=defaults, resume=resume)


def _first_stage(recipe: AutoencoderRecipe, run_dir: Path, read: DataConfig) -> Generator[Event, None, bool]:
    """Train the autoencoder that the denoiser's recipe names, unless that is done; `Done` only if it was stopped.

    Args:
        recipe: Everything that decides its run.
        run_dir: Folder of its run.
        read: Pictures that have been checked.

    Returns:
        Whether the whole run was asked to stop.

    Raises:
        CannotResume: It was trained by another recipe.
    """
    found = latest(run_dir).path
    if (run_dir / "autoencoder").is_dir():
        if found is not None:
            now = {**settings_of(recipe), "facts": {}}
            check_settings({**read_state(found).settings, "facts": {}}, now, MAY_CHANGE, defaults_of(recipe))
        return False
    are_read = (recipe.data.kind, recipe.data.folder) == (read.kind, read.folder)
    for event in train_autoencoder(recipe, run_dir, has_checkpoints(run_dir), are_read=are_read):
        if isinstance(event, Metric):
            yield Progress("autoencoder", event.step, recipe.loop.steps)
        elif isinstance(event, Notice | Progress):
            yield event
        elif isinstance(event, Done):
            reason = event.info.get("asked_to_stop")
            if reason is not None:
                yield Notice(0, f"Stopped after the autoencoder: {reason}. Resume goes on.")
            if reason is not None or not (run_dir / "autoencoder").is_dir():
                yield replace(event, info={**event.info, "stopped": reason or event.info.get("stopped")})
                return True
    return False


class DenoiserTrainer:
    """Holds the networks of a denoiser run and computes the loss.

    Args:
        recipe: Everything that decides the run.
        run_dir: Folder of the run.
        autoencoder: The frozen first stage.
        tokenizer: Turns captions into tokens; `None` for an unconditional denoiser.
    """

    def __init__(
        self, recipe: DenoiserRecipe, run_dir: Path, autoencoder: Autoencoder, tokenizer: Tokenizer | None
    ) -> None:
        self.recipe, self.run_dir, self.tokenizer = recipe, run_dir, tokenizer
        self.device = torch.device(recipe.device)
        self.schedule = Schedule(recipe.schedule)
        self.autoencoder = autoencoder.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.unet = seeded(recipe.seed, "unet", lambda: UNet(recipe.unet))
        self.unet.gradient_checkpointing = recipe.gradient_checkpointing
        self.text_encoder = self._text_encoder()
        self.aligner = self._aligner()
        networks: dict[str, nn.Module | None] = {"unet": self.unet, "text_encoder": self.text_encoder}
        self.modules = {name: module for name, module in networks.items() if module is not None}
        for name, module in self.modules.items():
            if recipe.init_from is not None:
                load_weights(module, start_weights(recipe.init_from, name), str(recipe.init_from))
            module.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.unet.requires_grad_(recipe.learns == "all")
        self.ema = Ema(self.modules, recipe.ema) if recipe.ema.decay else None
        if self.aligner is not None:
            self.modules["projector"] = self.aligner.projector.to(self.device)
        facts: dict[str, Any] = {"data": fingerprint(recipe.data), "autoencoder": encoder_hash(autoencoder)}
        identity = {**facts, "precision": recipe.precision}
        if recipe.data.kind == "folder":
            identity["reading"] = READING
        if self.aligner is not None:
            identity["features"] = recipe.alignment.stage
        batches = PictureBatches(recipe.data, recipe.latents.encode_batch)
        self._pictures = Prefetched(batches, recipe.data.workers)
        folder = recipe.latents.folder or run_dir / "latents"
        config = fitted(recipe.latents, number_to_learn(recipe.data))
        self.pool = LatentPool(config, folder, identity, self._pictures, self._encode, recipe.seed)
        self.settings = settings_of(recipe, **facts, tokenizer=tokenizer and tokenizer_hash(run_dir / "tokenizer"))
        self._told_readers = False
        if recipe.compile:
            self.unet.compile()

    def task(self) -> Task:
        """Return what the loop needs."""
        return Task(
            [Phase("denoiser", self.modules, self.loss, self.recipe.optim)],
            self.modules,
            self.recipe.seed,
            self.ema,
            can_save_memory=not self.recipe.gradient_checkpointing,
            before_step=self.pool.move_to,
            validate=self.validate,
            preview=self.preview,
            after_save=self.after_save,
            finish=self.write_bundle,
            close=self._pictures.close,
        )

    def loss(self, draw: int) -> LossReport:
        """Compute the denoising loss of a draw."""
        recipe, seed = self.recipe, self.recipe.seed
        batch = self.pool.batch(draw, recipe.batch_size)
        captions = self._with_dropout(batch.captions, draw)
        with self._computing():
            context, cut = self._context(captions)
        t = draw_times(
            recipe.objective, len(captions), self.schedule.num_train_steps, generator(seed, "train/times", draw)
        )
        eps = draw_eps(recipe.objective, batch.x_0.shape, generator(seed, "train/noise", draw))
        weighted, plain = self._losses(batch.x_0, t, eps, context)
        metrics: dict[str, float | Tensor] = {**bucket_means(plain, t, self.schedule.num_train_steps)}
        if self.aligner is not None and batch.features is not None:
            with self._computing():
                distance = self.aligner.distance(batch.features.to(self.device))
            weighted = weighted + recipe.alignment.weight * distance
            metrics["alignment"] = distance.detach().mean()
        if recipe.text_encoder is not None:
            metrics["captions_cut"] = cut
        return LossReport(weighted.mean(), metrics, batch.ids, weighted.detach(), len(captions))

    @torch.no_grad()
    def validate(self, step: int) -> Mapping[str, float]:
        """Measure the loss on fixed latents, times and noise, with averaged and with trained weights."""
        if self.recipe.validation_pictures == 0:
            return {}
        with self._at_rest():
            raw, _ = self._validation_losses()
            with self._shipped():
                averaged, t = self._validation_losses()
        buckets = bucket_means(averaged, t, self.schedule.num_train_steps)
        values = {"loss": float(averaged.mean()), "loss_raw": float(raw.mean()), **buckets}
        return {f"validation/{name}": value for name, value in values.items()}

    def preview(self, step: int, folder: Path) -> Iterator[Event]:
        """Write a sheet of samples: one row per prompt, one column per seed."""
        preview = self.recipe.preview
        prompts = preview.prompts if self.text_encoder is not None else ("",)
        if not prompts:
            return
        with torch.no_grad(), self._shipped(), self._at_rest():
            rows = [self._samples(prompt) for prompt in prompts]
        yield Preview(step, save_sheet(rows, folder / f"step-{step:08d}.png"))

    def after_save(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Write a bundle when it is time to; where it cannot be written the run goes on."""
        every = self.recipe.bundle_every
        if every and step % every == 0 and step < self.recipe.loop.steps:
            try:
                yield from self.write_bundle(step, run_dir)
            except StorageError as error:
                yield Notice(step, f"{error} The run goes on and writes it again after {every} steps.")

    def write_bundle(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Write everything as one model folder, with the averaged weights."""
        if self.text_encoder is None or self.tokenizer is None:
            yield Notice(step, "A denoiser without text has no bundle; its weights are in the checkpoint.")
            return
        autoencoder = without_shift(self.autoencoder)
        bundle = Bundle(
            autoencoder,
            self.unet,
            self.text_encoder,
            self.tokenizer,
            self.schedule,
            self.recipe.prediction,
            name=self.recipe.name,
            native_size=self._validation.mean.shape[-1] * self.autoencoder.downsample_factor,
        )
        with self._shipped():
            save_bundle(bundle, run_dir / "bundle")
        reason = _unread(autoencoder.config)
        if reason is not None and not self._told_readers:
            self._told_readers = True
            yield Notice(step, f"'{run_dir / 'bundle'}' is for sfumato alone: {reason}.")
        yield Artifact(run_dir / "bundle", "bundle", {"step": step})

    def _samples(self, prompt: str) -> Images:
        """Draw pictures of one prompt."""
        preview = self.recipe.preview
        return sample_images(
            Denoiser(self.unet, self.schedule, self.recipe.prediction),
            self.autoencoder,
            self._validation.mean.shape[1:],
            self._context([prompt])[0],
            self._context([""])[0],
            count=preview.count,
            steps=preview.steps,
            guidance_scale=preview.guidance_scale,
        )

    def _losses(self, x_0: Latents, t: Times, eps: Latents, context: Context | None) -> tuple[PerRow, PerRow]:
        """Compute weighted and plain loss of each row."""
        x_0, t, eps = (value.to(self.device) for value in (x_0, t, eps))
        batch = noised(self.schedule, self.recipe.prediction, x_0, t, eps)
        with self._computing():
            output = self.unet(batch.x_t, batch.t, context).float()
        return denoising_loss(self.recipe.objective, self.schedule, self.recipe.prediction, output, batch)

    def _context(self, captions: Sequence[str]) -> tuple[Context | None, float]:
        """Encode captions; also return whether one had to be cut."""
        if self.text_encoder is None or self.tokenizer is None:
            return None, 0.0
        cut = 0.0
        try:
            tokens = self.tokenizer.encode(captions)
        except DataError:
            tokens, cut = self.tokenizer.encode(captions, truncate=True), 1.0
        return self.text_encoder(tokens.to(self.device)).context, cut

    def _with_dropout(self, captions: Sequence[str], draw: int) -> list[str]:
        """Replace some captions by the empty one."""
        chance = torch.rand(len(captions), generator=generator(self.recipe.seed, "train/text_dropout", draw))
        dropped = (chance < self.recipe.objective.text_dropout).tolist()
        return ["" if drop else caption for caption, drop in zip(captions, dropped, strict=True)]

    @torch.no_grad()
    def _encode(self, batch: PictureBatch) -> dict[str, Tensor]:
        """Return mean and standard deviation of the scaled latents of some pictures, and their features."""
        images = batch.images().to(self.device)
        with self._computing():
            mean, std = self.autoencoder.moments(images)
            features = {} if self.aligner is None else {"features": self.aligner.features(images)}
        return {"mean": mean, **({} if std is None else {"std": std}), **features}

    @cached_property
    def _validation(self) -> Shard:
        """The fixed latents, the same for every run on the same pictures with the same autoencoder."""
        count = max(1, self.recipe.validation_pictures)
        batches = PictureBatches(self.recipe.data, min(count, _VALIDATION_BATCH), "validation")
        made = [batches(index) for index in range(-(-count // batches.batch_size))]
        mean = torch.cat([self._encode(batch)["mean"] for batch in made])[:count]
        captions = tuple(caption for batch in made for caption in batch.captions)[:count]
        return Shard(mean.cpu(), None, None, captions, 0)

    def _validation_losses(self) -> tuple[PerRow, Times]:
        """Compute the plain loss at fixed times and noise, evenly spread over the times."""
        fixed, total = self._validation, self.schedule.num_train_steps
        count = len(fixed.captions)
        times = ((torch.arange(count) + 0.5) * total / count).long()
        t = times[torch.randperm(count, generator=generator(0, "validation/times"))]
        eps = torch.randn(fixed.mean.shape, generator=generator(0, "validation/noise"))
        losses = []
        for rows in torch.arange(count).split(_VALIDATION_BATCH):
            context, _ = self._context([fixed.captions[row] for row in rows.tolist()])
            losses.append(self._losses(fixed.mean[rows], t[rows], eps[rows], context)[1])
        return torch.cat(losses).cpu(), t

    def _computing(self) -> AbstractContextManager[object]:
        """Compute in the numbers of the recipe inside the block."""
        return computing_in(self.recipe.precision, self.device)

    def _shipped(self) -> AbstractContextManager[None]:
        """Use the weights that are shipped inside the block."""
        return nullcontext() if self.ema is None else self.ema.applied()

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """Compute without dropout inside the block, as whoever draws with the result does."""
        modes = {module: module.training for module in self.modules.values()}
        for module in modes:
            module.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.train(mode)

    def _aligner(self) -> Aligner | None:
        """Build the alignment to image features if it is wanted."""
        recipe = self.recipe
        if recipe.alignment.weight == 0:
            return None
        images = PictureBatches(recipe.data, _VALIDATION_BATCH, "alignment")(0).images().to(self.device)
        projector = seeded(recipe.seed, "projector", lambda: build_projector(recipe.alignment, recipe.unet))
        return Aligner(recipe.alignment, self.unet, projector, images)

    def _text_encoder(self) -> TextEncoder | None:
        """Build the text encoder if it is wanted."""
        table, tokenizer = self.recipe.text_encoder, self.tokenizer
        if table is None or tokenizer is None:
            return None
        return seeded(self.recipe.seed, "text_encoder", lambda: TextEncoder(text_encoder_config(table, tokenizer)))


def _unread(autoencoder: AutoencoderConfig) -> str | None:
    """Say why diffusers cannot draw with a bundle that has this autoencoder; `None` where it can."""
    if autoencoder.kind == "vq":
        return "the pipeline of diffusers for Stable Diffusion cannot decode with its VQModel"
    if autoencoder.shift_factor:
        shift = f"shift_factor of {autoencoder.shift_factor:g}"
        return f"the pipeline of diffusers for Stable Diffusion never adds its {shift}"
    return None
