"""Train an image-text dual encoder: a frozen eye looks at scenes once, then two small encoders learn to agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sfumato.data.contrasts import FACT_KINDS, Contrast, Contrasts, contrasts_of
from sfumato.data.facts import Facts
from sfumato.errors import ConfigError
from sfumato.events import Artifact, Event, Progress
from sfumato.formats.dual_encoder import save_dual_encoder
from sfumato.models.dual_encoder import DualEncoder, DualEncoderConfig
from sfumato.models.eye import Eye, Sights
from sfumato.models.tokenizer import Tokenizer
from sfumato.runtime.precision import computing_in
from sfumato.runtime.seeding import derive_seed, generator
from sfumato.training.autoencoder import kept_average
from sfumato.training.ema import Ema
from sfumato.training.in_use import said_of_tables
from sfumato.training.loop import train
from sfumato.training.objectives import contrastive_loss
from sfumato.training.parts import load_weights, seeded, start_weights
from sfumato.training.pictures import fingerprint
from sfumato.training.recipe_file import DualEncoderRecipe, defaults_of, settings_of
from sfumato.training.sights import SceneSource, SightStore
from sfumato.training.state import has_checkpoints
from sfumato.training.task import LossReport, Phase, Task
from sfumato.training.text import learned_tokenizer, text_encoder_config, tokenizer_hash

RETRIEVED_AMONG = 256
_BATCH = 64
_TYPICAL = 2048


def train_dual_encoder(recipe: DualEncoderRecipe, run_dir: Path, resume: bool = False) -> Iterator[Event]:
    """Train a dual encoder; at the end write it to `run_dir/dual-encoder`.

    Args:
        recipe: Everything that decides the run.
        run_dir: Folder for checkpoints, events and the result.
        resume: Go on from the newest checkpoint.

    Yields:
        The events of `loop.train`, `Progress` while scenes are looked at, and an `Artifact` for the finished folder.

    Raises:
        SfumatoError: See `loop.train`; or the data cannot be opened.
    """
    if not has_checkpoints(run_dir):
        yield from said_of_tables(recipe)
    tokenizer = learned_tokenizer(recipe, run_dir)
    assert tokenizer is not None, "the recipe has a text encoder"
    trainer = DualEncoderTrainer(recipe, run_dir, tokenizer)
    yield from trainer.prepare()
    settings, defaults, task = trainer.settings, defaults_of(recipe), trainer.task()
    task.ema = task.ema or kept_average(run_dir, task.saved, recipe.ema)
    yield from train(task, recipe.loop, run_dir, settings=settings, defaults=defaults, resume=resume)


@dataclass(frozen=True)
class _Fixed:
    """Fixed scenes and the captions that they are measured with."""

    store: SightStore
    captions: tuple[str, ...]
    contrasts: tuple[tuple[int, Contrast], ...]


class DualEncoderTrainer:
    """Holds the networks of a dual-encoder run and computes the loss.

    Args:
        recipe: Everything that decides the run.
        run_dir: Folder of the run.
        tokenizer: Turns captions into tokens.
    """

    def __init__(self, recipe: DualEncoderRecipe, run_dir: Path, tokenizer: Tokenizer) -> None:
        if recipe.batch_size > recipe.sights.scenes:
            raise ConfigError(
                f"batch_size is {recipe.batch_size}, but there are only {recipe.sights.scenes} scenes; a batch "
                "shows no scene twice.",
                field="batch_size",
                hint="Make it smaller, or sights.scenes larger.",
            )
        self.recipe, self.run_dir, self.tokenizer = recipe, run_dir, tokenizer
        self.device = torch.device(recipe.device)
        self.eye = Eye(recipe.picture.eye)
        self.network = seeded(recipe.seed, "dual_encoder", lambda: DualEncoder(_config(recipe, tokenizer)))
        self.source = SceneSource(recipe.data, recipe.sights)
        self.store = self._store(self.source, recipe.sights.scenes)
        kept = recipe.data.model_copy(update={"split": "held_out_pair"})
        self._measured = {
            "validation": SceneSource(recipe.data, recipe.sights, "validation"),
            "new_pictures": SceneSource(kept, recipe.sights, "validation"),
        }
        self._facts: dict[int, Facts] = {}
        self.ema: Ema | None = None
        facts: dict[str, Any] = {"data": fingerprint(recipe.data), "tokenizer": tokenizer_hash(run_dir / "tokenizer")}
        self.settings = settings_of(recipe, **facts)

    def prepare(self) -> Iterator[Event]:
        """Look at all scenes, where that has not been done yet, and set the network up for them.

        Yields:
            `Progress` in scenes.
        """
        for fixed in self._fixed.values():
            yield from fixed.store.fill("validation scenes")
        yield from self.store.fill("scenes")
        typical = torch.arange(min(_TYPICAL, self.store.count))
        self.network.picture.standardise(self.store.rows(typical))
        if self.recipe.init_from is not None:
            load_weights(self.network, start_weights(self.recipe.init_from, "dual_encoder"), str(self.recipe.init_from))
        self.network.to(self.device)
        yield Progress("scenes", self.store.count, self.store.count)

    def task(self) -> Task:
        """Return what the loop needs; `prepare` comes first."""
        modules = {"dual_encoder": self.network}
        self.ema = Ema(modules, self.recipe.ema) if self.recipe.ema.decay else None
        return Task(
            [Phase("dual_encoder", modules, self.loss, self.recipe.optim)],
            modules,
            self.recipe.seed,
            self.ema,
            validate=self.validate,
            finish=self.finish,
        )

    def loss(self, draw: int) -> LossReport:
        """Compute the contrastive loss of a draw."""
        numbers = self._numbers(draw)
        right, wrong = self._captions(numbers, draw)
        with computing_in(self.recipe.precision, self.device):
            seen = self._pictures(self.store.rows(numbers))
            texts = self._texts([*right, *wrong])
        losses = contrastive_loss(seen, texts[: len(right)], texts[len(right) :], self.network.scale)
        names = tuple(f"scene {number} ({text})" for number, text in zip(numbers.tolist(), right, strict=True))
        metrics: dict[str, float | Tensor] = {
            "scale": self.network.scale.detach(),
            "wrong_captions": len(wrong) / len(right),
        }
        return LossReport(losses.mean(), metrics, names, losses.detach(), len(right))

    @torch.no_grad()
    def validate(self, step: int) -> Mapping[str, float]:
        """Measure retrieval among 256 scenes and the choice between captions that differ in one fact.

        `validation/…` are new scenes of known pictures; `new_pictures/…` show icons and people that were never learned.
        """
        self.network.eval()
        with self._shipped():
            measured = {name: self._measure(fixed) for name, fixed in self._fixed.items()}
        self.network.train()
        return {f"{name}/{key}": value for name, values in measured.items() for key, value in values.items()}

    def finish(self, step: int, run_dir: Path) -> Iterator[Event]:
        """Write the weights that are shipped, tokenizer and configuration as one folder."""
        values = self.validate(step)
        with self._shipped():
            folder = save_dual_encoder(self.network, self.tokenizer, run_dir / "dual-encoder")
        yield Artifact(folder, "dual-encoder", {"step": step, **values})

    def _shipped(self) -> AbstractContextManager[None]:
        """Use the weights that are shipped inside the block."""
        return nullcontext() if self.ema is None else self.ema.applied()

    def _measure(self, fixed: _Fixed) -> dict[str, float]:
        """Measure one set of fixed scenes."""
        rows = torch.arange(fixed.store.count)
        pictures = torch.cat([self._pictures(fixed.store.rows(part)) for part in rows.split(_BATCH)])
        among = min(RETRIEVED_AMONG, len(pictures))
        texts = self._in_batches(fixed.captions[:among])
        values = retrieval(pictures[:among], texts)
        right = self._in_batches([contrast.right for _, contrast in fixed.contrasts])
        wrong = self._in_batches([contrast.wrong for _, contrast in fixed.contrasts])
        shown = pictures[[row for row, _ in fixed.contrasts]]
        chosen = ((shown * right).sum(1) > (shown * wrong).sum(1)).tolist()
        by_kind: dict[str, list[bool]] = defaultdict(list)
        for (_, contrast), is_right in zip(fixed.contrasts, chosen, strict=True):
            by_kind[contrast.kind].append(is_right)
        kinds = {f"one_fact/{kind}": sum(by_kind[kind]) / len(by_kind[kind]) for kind in FACT_KINDS if by_kind[kind]}
        return {**values, **kinds, "one_fact": sum(chosen) / max(1, len(chosen))}

    def _pictures(self, sights: Sights) -> Float[Tensor, "n d"]:
        """Return the vectors of what was seen."""
        return self.network.pictures(Sights(sights.cells.to(self.device), sights.whole.to(self.device)))

    def _texts(self, texts: list[str]) -> Float[Tensor, "n d"]:
        """Return the vectors of texts; the few that are too long are cut."""
        return self.network.texts(self.tokenizer.encode(texts, truncate=True).to(self.device))

    def _in_batches(self, texts: list[str] | tuple[str, ...]) -> Float[Tensor, "n d"]:
        """Return the vectors of many texts."""
        parts = [self._texts(list(texts[first : first + _BATCH])) for first in range(0, len(texts), _BATCH)]
        return torch.cat(parts) if parts else torch.empty(0, self.recipe.dim)

    def _numbers(self, draw: int) -> Tensor:
        """Return the scenes of a draw: every scene once per round, each round in a new order."""
        size = self.recipe.batch_size
        turn, place = divmod(draw, self.store.count // size)
        order = torch.randperm(self.store.count, generator=generator(self.recipe.seed, "train/order", turn))
        return order[place * size : (place + 1) * size]

    def _captions(self, numbers: Tensor, draw: int) -> tuple[list[str], list[str]]:
        """Write a right caption for every scene, and for many of them one with a false fact."""
        right, wrong = [], []
        for number in numbers.tolist():
            rng = np.random.default_rng(derive_seed(self.recipe.seed, f"train/captions/{draw}", number))
            contrast = self._contrasts.draw(self._facts_of(number), rng)
            if contrast is None:
                right.append(self.source.plan(number).caption)
                continue
            right.append(contrast.right)
            if rng.random() < self.recipe.wrong_captions:
                wrong.append(contrast.wrong)
        return right, wrong

    def _facts_of(self, number: int) -> Facts:
        """Return what a training scene shows; planned once."""
        if number not in self._facts:
            self._facts[number] = self.source.plan(number).facts
        return self._facts[number]

    @cached_property
    def _contrasts(self) -> Contrasts:
        """The writer of captions."""
        return Contrasts(self.source.primer)

    @cached_property
    def _fixed(self) -> dict[str, _Fixed]:
        """The scenes that are measured."""
        return {name: self._fix(source) for name, source in self._measured.items()}

    def _fix(self, source: SceneSource) -> _Fixed:
        """Plan fixed scenes and write their captions; they do not depend on the seed of the run."""
        count = self.recipe.validation_scenes
        plans = [source.plan(index) for index in range(count)]
        pairs = []
        for row, plan in enumerate(plans):
            rng = np.random.default_rng(derive_seed(0, "validation/contrasts", row))
            pairs += [(row, contrast) for contrast in contrasts_of(self._contrasts, plan.facts, rng)]
        return _Fixed(self._store(source, count), tuple(plan.caption for plan in plans), tuple(pairs))

    def _store(self, source: SceneSource, count: int) -> SightStore:
        """Open the store of what is seen in some scenes."""
        folder = self.recipe.sights.folder or self.run_dir / "sights"
        return SightStore(source, self.eye, count, folder, self.recipe.precision)


def retrieval(pictures: Float[Tensor, "n d"], texts: Float[Tensor, "n d"]) -> dict[str, float]:
    """Return how often the partner is among the nearest 1 and 5, from pictures to texts and back.

    Args:
        pictures: Unit vectors.
        texts: Unit vectors of the text of each picture, in the same order.

    Returns:
        Shares from 0 to 1.
    """
    cosines = pictures @ texts.T
    values: dict[str, float] = {}
    for name, table in (("text_of_picture", cosines), ("picture_of_text", cosines.T)):
        rank = (table > table.diagonal()[:, None]).sum(dim=1)
        values |= {f"{name}/recall_at_{k}": float((rank < k).float().mean()) for k in (1, 5)}
    return values


def _config(recipe: DualEncoderRecipe, tokenizer: Tokenizer) -> DualEncoderConfig:
    """Return the shape of the networks of a recipe."""
    table = recipe.picture
    return DualEncoderConfig(
        table.eye,
        text_encoder_config(recipe.text_encoder, tokenizer),
        recipe.dim,
        table.width,
        table.layers,
        table.heads,
        table.mlp_width,
        table.dropout,
    )
