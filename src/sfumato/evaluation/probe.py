"""Look at a concept while it is learned: the same prompts and seeds at every saved step, scored and kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from sfumato.data.captions import with_right_article
from sfumato.data.images import load_image, load_tensor, resize, to_pixels, to_tensor
from sfumato.data.listing import list_entries
from sfumato.data.masks import MaskSource, find_masks, read_mask
from sfumato.errors import CannotResume, CheckpointError, Diverged
from sfumato.evaluation import fidelity as formulas
from sfumato.evaluation.encoders import Encoders, check_readable, without_ground
from sfumato.evaluation.features import FeatureExtractor, Measuring
from sfumato.evaluation.memorisation import Nearest, different_pictures, kin_of, nearest_pictures
from sfumato.evaluation.scores import StepScores, Yardstick, columns
from sfumato.evaluation.verdict import Candidate, best, pareto_front, reason, settled
from sfumato.evaluation.verdict_plan import VerdictPlan, filled, without_words
from sfumato.events import Event, Metric, Notice, Progress, Verdict
from sfumato.formats.atomic import atomic_write_bytes
from sfumato.models.perceptual import PerceptualLoss
from sfumato.pipeline import Drawn, Pipeline, Settings
from sfumato.runtime.json_values import flattened
from sfumato.runtime.memory import hand_back_memory

Picture = UInt8[np.ndarray, "H W 3"]
OpensJudges = Callable[[], tuple[Encoders, FeatureExtractor]]
SCORES, PICTURES = "scores.json", "pictures.png"
_WORDS = {
    "plan.prompts": ("the prompts", "verdict_prompts"),
    "plan.plain": ("the plain sentence", "style"),
    "plan.plain_class": ("the plain sentence of the class", "style"),
    "plan.seeds": ("pictures of each prompt", "verdict_seeds"),
    "plan.drawing.steps": ("sampler steps", "verdict_steps"),
    "picture_encoder": ("the judge of pictures", "judge_pictures"),
    "text_encoder": ("the judge of texts", "judge_texts"),
    "class_noun": ("the class noun", "class_noun"),
    "placeholder": ("the word", "placeholder"),
    "masks": ("masks", "masks"),
}
"""What decides a score: its name in words, and the option that sets it."""
_SAME = 0.02
"""How far cosines of the same pictures may lie apart where machines round otherwise; other judges are further."""


class SubjectProbe:
    """Scores every saved step of a lesson and says which one to use.

    Args:
        plan: What is asked for, how it is drawn, and the rule.
        folder: The subject's pictures.
        placeholder: The word for it.
        class_noun: What it is.
        opens: Loads what judges, and the embedded features for diversity. Called at the beginning and for every look:
            what is loaded anew each time takes no memory while the subject is learned or pictures are drawn.
        masks: Where masks of the subject's pictures come from; what they leave out is not what pictures are compared
            with.
        mask_folder: Folder of mask files; None for files beside the pictures.
    """

    def __init__(
        self,
        plan: VerdictPlan,
        folder: Path,
        placeholder: str,
        class_noun: str,
        opens: OpensJudges,
        masks: MaskSource = "none",
        mask_folder: Path | None = None,
    ) -> None:
        self.plan, self.folder, self._opens = plan, folder, opens
        self._masks, self._mask_folder = masks, mask_folder
        self._foreign: tuple[Tensor, list[Picture]] | None = None
        self.placeholder, self.class_noun = placeholder, class_noun
        self.class_prompt = plan.plain_class or with_right_article(plan.plain.replace("{}", class_noun), class_noun)
        judges, _ = opens()  # what cannot be loaded is told before anything is learned
        check_readable(judges.texts, without_words(plan, class_noun))
        self._names = judges.pictures.name, None if judges.texts is None else judges.texts.name
        self.steps: dict[int, StepScores] = {}
        self.drawn: dict[int, list[Picture]] = {}
        self.subject: list[Picture] = []
        self.own = torch.arange(len(plan.prompts)).repeat_interleave(plan.seeds)

    def texts(self) -> list[str]:
        """Return everything that is asked for, by the class and by the word."""
        plan = self.plan
        plain = [self.class_prompt, plan.plain.replace("{}", self.placeholder)]
        return [*without_words(plan, self.class_noun), *filled(plan.prompts, self.placeholder), *plain]

    def begin(self, pipeline: Pipeline) -> Iterator[Event]:
        """Look at the subject's pictures and at what the base draws of its class: the yardstick of every step."""
        side = pipeline.bundle.native_size
        entries = list_entries(self.folder)
        self.subject = [to_pixels(load_tensor(entry.path, side)) for entry in entries]
        names = (entry.path.relative_to(self.folder).as_posix() for entry in entries)
        self._files = tuple(name.encode(errors="backslashreplace").decode() for name in names)
        self._bare = self.subject if self._masks == "none" else self._masked([entry.path for entry in entries], side)
        self.drawn[0] = yield from self._draw(pipeline, None, "the base, for the verdict")
        self.yardstick = self._measured(self.drawn[0])
        hand_back_memory()
        for text in self.yardstick.left_out:
            yield Notice(0, text)

    @property
    def learned(self) -> list[Picture]:
        """The pictures that `Nearest.index` counts: the subject's, and those of other subjects of the lesson."""
        return self.subject if self._foreign is None else [*self.subject, *self._foreign[1]]

    def know(self, others: Sequence[SubjectProbe]) -> None:
        """Look for copies of what other subjects of the same lesson are learned from, too; they must have begun."""
        self._foreign = (
            torch.cat([other._known for other in others]),
            [one for other in others for one in other.subject],
        )
        more = tuple(f"{name} of {other.placeholder}" for other in others for name in other._files)
        self.yardstick = replace(self.yardstick, names=(*self._files, *more))

    def look(self, step: int, drawing: AbstractContextManager[Pipeline], folder: Path) -> Iterator[Event]:
        """Score a saved step; pictures and scores are written into a folder."""
        hand_back_memory()
        with drawing as pipeline:
            pictures = yield from self.draw(pipeline, f"step {step}, for the verdict")
        values = self.score(step, pictures, folder)
        yield Metric(step, {f"verdict/{name}": value for name, value in values.items()})

    def draw(self, pipeline: Pipeline, phase: str) -> Measuring[list[Picture]]:
        """Draw what a look at a saved step scores.

        Args:
            pipeline: Draws with the concept as it is at that step.
            phase: What is told while it draws.
        """
        try:
            pictures = yield from self._draw(pipeline, self.placeholder, phase)
        except CheckpointError as error:  # the base drew pictures when the lesson began
            raise Diverged(error.message, hint="Lower the learning rate.") from error
        return pictures

    def score(self, step: int, pictures: list[Picture], folder: Path) -> dict[str, float]:
        """Score what was drawn at a step, write pictures and scores into a folder, and return the numbers by name."""
        scores = self._scores(step, pictures, *self._opens())
        hand_back_memory()
        Image.fromarray(np.concatenate(pictures, axis=1)).save(folder / PICTURES)
        content = {"asked": self.asked(), "scale": self._scale(), "scores": scores.to_dict()}
        atomic_write_bytes(folder / SCORES, json.dumps(content, indent=1).encode())
        self._keep(scores, pictures)
        return {name: value for name, (value, _) in columns(scores, self.yardstick).items()}

    def forget(self, step: int) -> None:
        """Forget a step whose look could not be finished."""
        self.steps.pop(step, None)
        self.drawn.pop(step, None)

    def recall(self, step: int, folder: Path) -> None:
        """Read the scores and pictures of a step from its folder.

        The rule may be another one: no score depends on it.

        Raises:
            CannotResume: They were made with another plan, other encoders or of another subject.
            CheckpointError: They cannot be read.
        """
        try:
            content = json.loads((folder / SCORES).read_text())
            before = {"masks": "none", **flattened(content["asked"])}
            scores, scale = StepScores.from_dict(content["scores"]), self._scale()
            was = [float(value) for value in content.get("scale", scale)]
            with PngImageFile(folder / PICTURES) as strip:  # of our own making: of any size
                pixels = np.asarray(strip.convert("RGB"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"The scores of step {step} in '{folder}' cannot be read: {error!r}.",
                hint="Remove the run folder and learn again, or resume with --no-verdict.",
            ) from error
        now = flattened(self.asked())
        differing = [key for key in now if now[key] != before.get(key) and not key.startswith("plan.rule.")]
        if differing:
            words = [_WORDS.get(key, (key, None))[0] for key in differing]
            told = [f"{word} {before.get(key)!r}, now {now[key]!r}" for word, key in zip(words, differing, strict=True)]
            raise CannotResume(
                f"Step {step} was scored otherwise than is asked for now: {'; '.join(told)}.",
                field=_WORDS.get(differing[0], (None, None))[1],
                hint="Change this back, or resume with --no-verdict.",
            )
        if len(was) != len(scale) or not np.allclose(was, scale, rtol=0, atol=_SAME):
            raise CannotResume(
                f"Step {step} was scored by another judge: the subject's pictures and the base's score otherwise now "
                "than they did then.",
                field="judge_pictures",
                hint="Give the judges that the lesson began with, or resume with --no-verdict.",
            )
        self._keep(scores, np.split(pixels, pixels.shape[1] // pixels.shape[0], axis=1))

    def leader(self) -> int:
        """Return the best step so far."""
        return best(self.candidates(), self.plan.rule).step

    def settled(self) -> str | None:
        """Say why no later step can win, or return None."""
        return settled(self.candidates(), self.plan.rule)

    def verdict(self) -> Verdict:
        """Return the step to use, why, its scores and its alarms."""
        candidates, chosen = self.candidates(), self.leader()
        why, front = reason(candidates, self.plan.rule), tuple(pareto_front(candidates))
        return Verdict(chosen, why, self.told(chosen), self.alarms(chosen), front)

    def told(self, step: int) -> dict[str, float]:
        """Return the scores of a step by name, with the ends of their intervals."""
        scores: dict[str, float] = {}
        for name, (value, interval) in columns(self.steps[step], self.yardstick).items():
            scores[name] = value
            if interval is not None:
                scores |= {f"{name}_low": round(interval[0], 6), f"{name}_high": round(interval[1], 6)}
        return scores

    def alarms(self, step: int) -> tuple[str, ...]:
        """Return the alarms of a step."""
        return self.yardstick.alarms(self.steps[step])

    def asked(self) -> dict[str, Any]:
        """Return everything that decides a score, as plain data."""
        return {
            "plan": self.plan.model_dump(mode="json"),
            "picture_encoder": self._names[0],
            "text_encoder": self._names[1],
            "class_noun": self.class_noun,
            "placeholder": self.placeholder,
            "masks": self._masks,
        }

    # ── private ──────────────────────────────────────────────────────────────────────────────────

    def _draw(self, pipeline: Pipeline, word: str | None, phase: str) -> Measuring[list[Picture]]:
        """Draw every prompt with every seed, then the plain class; and the same plain sentence with the word."""
        plan = self.plan
        seeds = [plan.seed + index for index in range(max(plan.seeds, plan.class_seeds))]
        prompts = without_words(plan, self.class_noun) if word is None else filled(plan.prompts, word)
        asked = [(prompt, seed) for prompt in prompts for seed in seeds[: plan.seeds]]
        plain = [self.class_prompt] if word is None else [self.class_prompt, plan.plain.replace("{}", word)]
        asked += [(prompt, seed) for prompt in plain for seed in seeds[: plan.class_seeds]]
        settings = Settings(**plan.drawing.model_dump())
        pictures: list[Picture] = []
        for event in pipeline.generate([prompt for prompt, _ in asked], [seed for _, seed in asked], settings):
            if isinstance(event, Drawn):
                pictures.append(to_pixels(event.image))
                yield Progress(phase, len(pictures), len(asked))
        return pictures

    def _masked(self, paths: Sequence[Path], side: int) -> list[Picture]:
        """Paint white what the masks of the subject's pictures leave out."""
        files = find_masks(self.folder, paths, self._mask_folder) if self._masks == "file" else {}
        found = []
        for path in paths:
            whole = load_image(path)
            share = read_mask(whole, files.get(path))[..., None] / 255
            found.append(resize((whole.rgb * share + 255 * (1 - share)).round().astype(np.uint8), side))
        return found

    def _scale(self) -> list[float]:
        """Return what the subject's pictures and those of the base score: other judges find other numbers."""
        base = self.yardstick.base
        return [*self.yardstick.own, *base.fidelity, *(base.prompt or ())]

    def _measured(self, pictures: list[Picture]) -> Yardstick:
        """Look at the subject's pictures and at those of the base."""
        shown, of_class, _ = self._parted(pictures)
        encoders, eye = self._opens()
        embed = encoders.pictures.embed_pictures
        self._known = embed(self.subject)
        self._known_alone = embed([without_ground(picture) for picture in self._bare])
        self._class_before = embed(of_class)
        self._standards = self._wanted(encoders, shown)
        own = tuple(formulas.own_fidelity(self._known_alone).tolist())
        kin = kin_of(self._known, self.subject, self._class_before, of_class)
        stick = Yardstick(self._scores(0, pictures, encoders, eye), own, kin, self.class_prompt, names=self._files)
        return replace(stick, left_out=tuple(self._gaps(stick)))

    def _parted(self, pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture], list[Picture]]:
        """Part the pictures of the prompts, of the plain class and of the plain sentence with the word."""
        first, second = len(self.own), len(self.own) + self.plan.class_seeds
        return list(pictures[:first]), list(pictures[first:second]), list(pictures[second:])

    def _wanted(self, encoders: Encoders, shown: list[Picture]) -> Tensor:
        """Return what prompts are measured by: their texts, or the base's pictures where no encoder knows texts."""
        if encoders.texts is not None:
            return encoders.texts.embed_texts(without_words(self.plan, self.class_noun))
        return encoders.pictures.embed_pictures(shown)

    def _gaps(self, stick: Yardstick) -> list[str]:
        """Say in one sentence each what cannot be measured here."""
        one, found = stick.candidate(stick.base), []
        if one.prompt is None:
            found.append(
                "Prompt fidelity is left out: the base's own pictures show their prompts by no more than chance."
            )
        elif self._names[1] is None:
            found.append("Prompt fidelity is measured against what the base draws for the same prompts, not by texts.")
        if not one.is_scaled:
            found.append(
                "Subject fidelity stays a cosine: what the base draws for the prompts is as near to the subject as its "
                "pictures are to each other."
            )
        if one.drift is None:
            found.append(
                "Drift is left out: what the base draws of the class is as near to the subject as its "
                "pictures are to each other."
            )
        if len(self.subject) == 1:
            found.append("There is one picture of the subject; its fidelity to itself is taken as 1.")
        return [*found, *self._gaps_of_copies(stick)]

    def _gaps_of_copies(self, stick: Yardstick) -> list[str]:
        """Say in one sentence each what the alarm of copied pictures cannot see here."""
        count, different, found = len(self.subject), len(different_pictures(self.subject)), []
        if 1 < different < count:
            found.append(
                f"Only {different} of the {count} pictures of the subject are different, the others are nearly the "
                "same as one of these; how near a copy lies is measured among the different ones."
            )
        elif different < count:
            found.append(
                f"All {count} pictures of the subject are nearly the same; how near a copy lies is measured against "
                "what the base draws of the class, as for a single picture."
            )
        if stick.kin.is_blind:
            others = "pictures of the subject" if stick.kin.source == "set" else "picture and the base's class"
            found.append(f"Copies cannot be told: the {others} lie at no distance from each other.")
        return found

    @torch.no_grad()
    def _scores(self, step: int, pictures: list[Picture], encoders: Encoders, eye: FeatureExtractor) -> StepScores:
        """Apply every formula to the pictures of a step."""
        embed, seeds, distance = encoders.pictures.embed_pictures, self.plan.seeds, PerceptualLoss(eye.network)
        shown, of_class, of_word = self._parted(pictures)
        seen = embed(shown)
        alone, class_alone, word_alone = (
            embed([without_ground(one) for one in group]) for group in (shown, of_class, of_word or of_class)
        )
        texts = encoders.texts
        if texts is None:
            prompt = formulas.reference_margin(seen, self._standards, self.own)
        else:
            prompt = formulas.prompt_margin(texts.embed_pictures(shown), self._standards, self.own)
        images = torch.stack([to_tensor(picture) for picture in shown])
        groups = images.split(seeds)
        return StepScores(
            step,
            tuple(formulas.subject_fidelity(alone, self._known_alone).tolist()),
            tuple(prompt.tolist()),
            tuple(formulas.subject_fidelity(word_alone, self._known_alone).tolist()),
            tuple(formulas.class_preservation(class_alone, self._known_alone).tolist()),
            tuple(formulas.class_shift(embed(of_class), self._class_before).tolist()),
            tuple(formulas.diversity(formulas.perceptual_distances(group, distance)) for group in groups),
            tuple(self._nearest(seen, shown)),
        )

    def _nearest(self, seen: Tensor, shown: Sequence[Picture]) -> list[Nearest]:
        """Find the training picture nearest to each picture; those of other subjects are counted on from the own."""
        own = nearest_pictures(seen, shown, self._known, self.subject)
        if self._foreign is None:
            return own
        other = nearest_pictures(seen, shown, *self._foreign)
        moved = [replace(one, index=one.index + len(self.subject)) for one in other]
        return [min(pair, key=lambda one: one.features) for pair in zip(own, moved, strict=True)]

    def _keep(self, scores: StepScores, pictures: list[Picture]) -> None:
        """Remember a step."""
        self.steps[scores.step] = scores
        self.drawn[scores.step] = pictures

    def candidates(self) -> list[Candidate]:
        """Return the steps on the scale from 0 to 1, in order."""
        return [self.yardstick.candidate(self.steps[step]) for step in sorted(self.steps)]
