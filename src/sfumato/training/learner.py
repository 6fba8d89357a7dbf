"""What learns a subject: attached to the base while it learns, a file of its own at the end.

What learns is a row of `methods.METHODS`; what is drawn (the subject's pictures, optionally pictures of its class) and
which losses are taken (denoising, optionally prior preservation) go with each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfumato import __version__
from sfumato.errors import CheckpointError
from sfumato.events import Artifact, Event, Notice, Preview
from sfumato.formats.atomic import keeping_old, kept_text
from sfumato.formats.bundle import Bundle, load_bundle, save_bundle
from sfumato.formats.concept import Concept, LearnedWord, save_concept, taken_from
from sfumato.formats.lesson_record import LESSON_FILE, lesson_record
from sfumato.pipeline import Pipeline, Settings
from sfumato.runtime.in_use import in_use
from sfumato.runtime.precision import computing_in
from sfumato.runtime.seeding import generator
from sfumato.tensors import PerRow
from sfumato.training.cache import TensorCache
from sfumato.training.ema import Ema
from sfumato.training.factors import make_adapters, rates
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS
from sfumato.training.objectives import denoising_loss, draw_eps, draw_times, noised
from sfumato.training.sample_set import AnySamples, DrawnLatents, in_batches
from sfumato.training.sheets import save_sheet
from sfumato.training.task import LossReport, Phase, Task
from sfumato.training.whole import WholeWeights
from sfumato.training.words import Words

PHASE = "learn"
"""Name of the only phase of a lesson."""

USE = "base_use"
"""Name of the setting that says how the base's weights are used; runs of earlier versions lack it."""


class Learner:
    """Holds what learns, attached to the base, and computes the loss.

    Until `close` nobody else draws with the base's networks, also while what is learned is set aside.

    Args:
        config: What and how.
        bundle: The base, frozen.
        samples: The subject.
        class_texts: What class pictures are asked by; none without prior preservation.
        cache: Where features of texts are kept while nothing on their side learns.

    Attributes:
        prior: The class pictures, which are learned beside the subject's; None without prior preservation.
        claim: The claim on the U-Net, for pipelines that draw for the lesson.

    Raises:
        ConfigError: Two settings do not go together, the tokenizer cannot take a word, or the base is in use: concepts
            are switched on, pictures are not finished, or another lesson learns.
        DataError: A text is too long for the base.
        AdapterError: A layer cannot be changed.
    """

    def __init__(
        self,
        config: LearnConfig,
        bundle: Bundle,
        samples: AnySamples,
        class_texts: Sequence[str] = (),
        cache: TensorCache | None = None,
    ) -> None:
        self.config, self.bundle, self.samples = config, bundle, samples
        self.prior: AnySamples | None = None
        self.method = METHODS[config.method]
        self.lineage: dict[str, Any] = {}
        self.claim = in_use(bundle.unet).claim("a lesson learns on its base")
        bundle.keep_packed(False)
        with ExitStack() as undone:
            undone.callback(in_use(bundle.unet).release, self.claim)
            self.base_hash = bundle.base_hash
            self.adapters = make_adapters(config, bundle.modules)
            self.words = Words(config, bundle, samples, class_texts, cache)
            undone.callback(self.words.detach)
            parts = ("unet", "text_encoder") if config.text_encoder else ("unet",)
            self.whole = WholeWeights(bundle.modules, parts if self.method.weights else ())
            for lora in self.adapters.values():
                lora.attach()
                undone.callback(lora.detach)
                lora.train()
            undone.pop_all()
        self._is_open = True
        bundle.unet.gradient_checkpointing = config.gradient_checkpointing
        rows = self.words.rows
        learning = {**self.adapters, **self.whole.modules, **({} if rows is None else {"word": rows})}
        self.learning: dict[str, nn.Module] = {f"learned-{name}": module for name, module in learning.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides the run, as plain data."""
        values = {**self._request(), "identifier": self.config.chosen_identifier}
        expansions = [word.expansion for word in self.words.words]
        if self.bundle.computes_in != "fp32":
            values["held_in"] = self.bundle.held_in  # a run does not go on with pictures drawn in other numbers
        base = {"base": self.base_hash, USE: self.bundle.use_hash}
        return {**values, "data": self.samples.data_hash, **base, "expansions": expansions}

    def task(self) -> Task:
        """Return what the loop needs."""
        return Task(
            [Phase(PHASE, self.learning, self.loss, rates(self.config))],
            self.learning,
            self.config.seed,
            Ema(self.learning, self.config.ema) if self.config.ema.decay else None,
            can_save_memory=not self.config.gradient_checkpointing,
            ships_average=True,
            watched={"unet": self.bundle.unet, "text_encoder": self.bundle.text_encoder},
            preview=self.preview,
            finish=self.finish,
        )

    def loss(self, draw: int) -> LossReport:
        """Compute the loss of a draw: subject and class, each with its own times and noise."""
        config, size = self.config, self.config.batch_size
        names, per_row, plain = self._losses(draw)
        loss = per_row[:size].mean()
        metrics = {"plain": plain.mean().detach()} if self.prior is None else {"subject": loss.detach()}
        if self.prior is not None:
            prior = per_row[size:].mean()
            metrics["prior"] = prior.detach()
            loss = loss + config.prior_weight * prior
        anchor = self.words.anchor()
        if anchor is not None:
            metrics["anchor"] = anchor.detach()
            loss = loss + config.anchor_weight * anchor
        return LossReport(loss, metrics, names, per_row.detach(), len(names))

    def preview(self, step: int, folder: Path) -> Iterator[Event]:
        """Draw the preview prompts exactly as the finished concept would draw them."""
        prompts = self.config.preview_prompts
        if not prompts:
            return
        with self.drawing(step) as pipeline:
            settings = Settings(steps=16, batch_size=min(4, self.config.batch_size))
            rows = [pipeline.images([prompt], range(4), settings) for prompt in prompts]
        yield Preview(step, save_sheet(rows, folder / f"step-{step:08d}.png"))

    @contextmanager
    def drawing(self, step: int) -> Iterator[Pipeline]:
        """Give a pipeline that draws as the finished result would draw, for the length of a `with` block.

        Where all weights learn and the result is a concept file, that is the base with the factors of the file: they do
        not hold everything that was learned.
        """
        if self.config.writes_base:
            yield Pipeline(self.tuned(), self.claim)
            return
        concept = self.concept(step)
        with self.set_aside():
            pipeline = Pipeline(self.bundle, self.claim)
            with pipeline.using((concept, 1.0), any_base=True):
                yield pipeline

    @contextmanager
    def set_aside(self) -> Iterator[None]:
        """Give the base back as it was for the length of a `with` block; what is learned comes back bit for bit."""
        self._detach()
        try:
            with self.whole.set_aside():
                yield
        finally:
            self._attach()

    def concept(self, step: int) -> Concept:
        """Return what has been learned so far."""
        bare = self._words_alone(step)
        if not self.method.weights:
            return taken_from(bare, self.adapters, self.config.strength)
        adapters, share = self.whole.extract(self.config.rank)
        return taken_from(replace(bare, lineage={**bare.lineage, "change_held": share}), adapters)

    def _words_alone(self, step: int) -> Concept:
        """Return the words, and how they were learned, without what changes the weights."""
        config, pairs = self.config, zip(self.words.words, self.words.learned(step), strict=True)
        return Concept(
            tuple(LearnedWord(word.placeholder, word.class_noun, word.expansion, rows) for word, rows in pairs),
            factors={},
            configs={},
            base_name=self.bundle.name,
            base_hash=self.base_hash,
            base_architecture=self.bundle.architecture,
            base_size=self.bundle.native_size,
            request=self._request(),
            lineage={
                "data_hash": self.samples.data_hash,
                "pictures": list(self.samples.names),
                "seed": config.seed,
                "steps": step,
                "sfumato": __version__,
                **self.lineage,
            },
        )

    def tuned(self) -> Bundle:
        """Return the base as it has become, with the words for the subjects; it shares the live weights."""
        words = (*self.bundle.words, *self.words.words)
        return replace(self.bundle, name=self.config.output.stem, words=words, source=None)

    def finish(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Write the concept file, or the whole base, and prove that it holds what was learned.

        What lay in its place before is kept under another name.
        """
        output, word = self.config.output, self.words.words[0]
        info = {"placeholder": word.placeholder, "expansion": word.expansion, "base": self.bundle.name}
        concept = None if self.config.writes_base else self.concept(step)
        if concept is not None and self.method.weights:
            share = concept.lineage["change_held"]
            yield Notice(step, f"Rank {self.config.rank} holds {share:.0%} of what the weights have changed.")
        with keeping_old(output) as old:
            if concept is None:
                self._write_base(output, step)
            else:
                live = None if self.method.weights else self.adapters
                save_concept(concept, output, live=live, strength=self.config.strength)
        kept = old()
        if kept is not None:
            info["kept"] = kept.name
            yield Notice(step, kept_text(output, kept))
        if concept is None:
            yield Artifact(output, "bundle", info)
        else:
            yield Artifact(output, "concept", {**info, "bytes": output.stat().st_size})

    def close(self) -> None:
        """Give the base back as it was, to be drawn with by anybody."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            self._detach()
            self.whole.restore()
            self.bundle.unet.gradient_checkpointing = False
        finally:
            in_use(self.bundle.unet).release(self.claim)

    # ── private ──────────────────────────────────────────────────────────────────────────────────

    def _write_base(self, output: Path, step: int) -> None:
        """Write the base as it has become with the record of the lesson, and open it again."""
        tuned = self.tuned()
        save_bundle(tuned, output, files={LESSON_FILE: lesson_record(self._words_alone(step))})
        if load_bundle(output).base_hash != tuned.base_hash:
            raise CheckpointError(
                f"'{output}' was written but does not hold what was learned.",
                hint="Save it again; if this repeats, the disk or the memory is failing.",
            )

    def _losses(self, draw: int) -> tuple[list[str], PerRow, PerRow]:
        """Return names, weighted and plain loss of every row of a draw."""
        config, bundle = self.config, self.bundle
        names, captions, drawn = self._drawn(draw)
        times, count = bundle.schedule.num_train_steps, len(names)
        t = draw_times(config.objective, count, times, generator(config.seed, "train/times", draw))
        noise = generator(config.seed, "train/noise", draw)
        dropped = torch.rand(count, generator=generator(config.seed, "train/dropout", draw))
        chance = config.objective.text_dropout
        captions = ["" if float(d) < chance else text for text, d in zip(captions, dropped, strict=True)]
        learns, device = "learned-text_encoder" in self.learning, t.device
        with computing_in(config.precision, device):
            context = self.words.context(captions, draw // config.loop.accumulate, text_learns=learns)
        losses: list[tuple[PerRow, PerRow]] = []
        first = 0
        for x_0, weights in in_batches(drawn):
            part = slice(first, first := first + len(x_0))
            eps = draw_eps(config.objective, x_0.shape, noise)
            batch = noised(bundle.schedule, bundle.prediction, x_0, t[part], eps)
            with computing_in(config.precision, device):
                output = bundle.unet(batch.x_t, batch.t, context[part]).float()
            losses.append(denoising_loss(config.objective, bundle.schedule, bundle.prediction, output, batch, weights))
        weighted, plain = (torch.cat(column) for column in zip(*losses, strict=True))
        return names, weighted, plain

    def _drawn(self, draw: int) -> tuple[list[str], list[str], list[DrawnLatents]]:
        """Return names and captions of every row of a draw, and its latents, first the subject's, then the class's."""
        config = self.config
        names: list[str] = []
        captions: list[str] = []
        drawn: list[DrawnLatents] = []
        for samples, purpose in ((self.samples, "subject"), (self.prior, "class")):
            if samples is None:
                continue
            rows = samples.rows(config.batch_size, config.seed, f"train/{purpose}", draw)
            names += [samples.names[row] for row in rows]
            captions += self.words.captions(samples, rows, draw)
            drawn.append(samples.drawn(rows, generator(config.seed, f"train/posterior/{purpose}", draw)))
        return names, captions, drawn

    def _request(self) -> dict[str, Any]:
        """Return what was asked for as plain data, without the places of files."""
        left_out: Any = {
            "folder": True,
            "output": True,
            "further": {"__all__": {"folder"}},
            "pictures": {"mask_folder"},
        }
        return self.config.model_dump(mode="json", exclude=left_out)

    def _attach(self) -> None:
        """Make the base compute with what is learned, and the tokenizer understand the new word."""
        for lora in self.adapters.values():
            lora.attach()
        self.words.attach()

    def _detach(self) -> None:
        """Take everything away from the base again."""
        for lora in self.adapters.values():
            lora.detach()
        self.words.detach()
