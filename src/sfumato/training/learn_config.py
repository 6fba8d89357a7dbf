"""The settings of a run that teaches a base a subject."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from sfumato.adapters.config import InitName
from sfumato.data.templates import TemplateSet
from sfumato.runtime.precision import Holding, Precision
from sfumato.training.ema import EmaConfig
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS, Identifier, Method, MethodName
from sfumato.training.objectives import DenoisingConfig
from sfumato.training.optim import OptimConfig
from sfumato.training.picture_config import PictureConfig
from sfumato.training.section import Section


class SubjectConfig(Section):
    """One subject of a run.

    Attributes:
        folder: Its pictures, with captions beside them if there are any.
        placeholder: The user's word for it, such as `<fox>`.
        class_noun: What it is, in the base's words.
    """

    folder: Path
    placeholder: str = Field(min_length=1)
    class_noun: str = Field(min_length=1)


class LearnConfig(Section):
    """How a subject is learned.

    Attributes:
        method: What learns, a row of `METHODS`.
        kind: A `subject`, or a `style`: then captions end in the word, and the class noun is only where it starts.
        folder: Its pictures, with captions beside them if there are any.
        placeholder: The user's word for it, such as `<fox>`.
        class_noun: What it is, in the base's words.
        further: More subjects that are learned in the same run, each with a word of its own.
        output: The concept file; for a method whose weights all learn also a folder, the whole base as it has become.
        identifier: `new` gives the word vectors of its own, started from the class noun; `rare` uses a word that the
            base hardly knows; None takes what suits the method.
        word: The rare word to use; None picks one by the paper's rule.
        say_class: The class noun follows the word in every text, where the method does that; off shows what the noun is
            good for ([ruiz2023] table 4).
        num_vectors: Vectors of a new word.
        progressive_steps: Steps after which one more of them joins, beginning with one; 0 for all from the start.
        per_image_words: Give every picture a word of its own beside the subject's, said in a quarter of its captions:
            it takes up what that picture alone shows, and is thrown away at the end. A mirrored copy has that of its
            file.
        initializer: Word that a new word starts from; None for the class noun. For one subject alone, as `word` is.
        anchor_weight: Weight of the squared distance of the new word's vectors from where they started, in units of the
            token table's variance; keeps a word editable ([gal2022] regularisation). Words of single pictures go free.
        templates: Sentences that take the place of the pictures' captions, another one each time a picture is seen.
        rank: Rank of the factors; where all weights learn, that of the file taken from their difference.
        adapter: Their kind, a row of `adapters.kinds.KINDS`.
        init: How they start, see `LoRAConfig`; None takes what suits the kind.
        alpha: Their scale is alpha / rank; None for a scale of 1.
        rank_stabilised: Their scale is alpha / sqrt(rank) instead.
        factor: Side of the small matrix of `lokr`, see `LoRAConfig`; None for the divisor next to the square root.
        dropout: Rate on their input.
        targets: Layers of the U-Net that learn, and with `text_encoder.` in front those of the text encoder; without
            any of these it is that encoder's attention.
        lora_plus: Learning rate of `up` over that of `down` ([hayou2024] LoRA+); None for the same.
        text_encoder: Learn in the text encoder too.
        strength: How much of what factors have learned the file holds, see `Usual`.
        prior_weight: Weight of the class pictures that keep the class as it was; 0 for none.
        num_class_images: How many of them.
        class_prompts: What they are asked by: the plain noun ([ruiz2023] 3.2), or the captions of the subject's
            pictures with the noun in place of the word.
        batch_size: Pictures of the subject per step, and as many of the class.
        flip: Add every picture mirrored; not for subjects whose sides differ.
        seed: Seed of everything drawn.
        pictures: How they are cut, masked and varied.
        gradient_checkpointing: Save memory for time in the U-Net.
        precision: Numbers in which U-Net and text encoder compute; what learns and losses stay in float32.
        ema: Average of what learns, which is previewed and becomes the result; a decay of 0 for none.
        objective: The loss.
        optim: The optimizer.
        loop: How long, how often.
        preview_prompts: Texts that are drawn at every preview.
    """

    method: MethodName = "lora"
    kind: Literal["subject", "style"] = "subject"
    folder: Path
    placeholder: str = Field(min_length=1)
    class_noun: str = Field(min_length=1)
    further: tuple[SubjectConfig, ...] = ()
    output: Path
    identifier: Identifier | None = None
    word: str | None = None
    say_class: bool = True
    num_vectors: int = Field(default=1, ge=1)
    progressive_steps: int = Field(default=0, ge=0)
    per_image_words: bool = False
    initializer: str | None = None
    anchor_weight: float = Field(default=0.0, ge=0)
    templates: TemplateSet = "none"
    rank: int = Field(default=Method.rank, ge=1)
    adapter: Literal["lora", "dora", "loha", "lokr"] = "lora"
    init: InitName | None = None
    alpha: float | None = Field(default=None, gt=0)
    rank_stabilised: bool = False
    factor: int | None = Field(default=None, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("attention",)
    lora_plus: float | None = Field(default=None, gt=0)
    text_encoder: bool = True
    strength: float = Field(default=1.0, gt=0, le=2)
    prior_weight: float = Field(default=0.0, ge=0)
    num_class_images: int = Field(default=32, ge=1)
    class_prompts: Literal["noun", "captions"] = "noun"
    batch_size: int = Field(default=4, ge=1)
    flip: bool = False
    seed: int = 0
    pictures: PictureConfig = PictureConfig()
    gradient_checkpointing: bool = False
    precision: Precision = "fp32"
    ema: EmaConfig = EmaConfig(decay=0.0)
    objective: DenoisingConfig = DenoisingConfig(text_dropout=0.0)
    optim: OptimConfig = OptimConfig(lr=1e-3, weight_decay=0.0, warmup_steps=5, schedule="cosine", final_lr=0.1)
    loop: LoopConfig = LoopConfig(steps=150, log_every=10, save_every=50, tensorboard=False)
    preview_prompts: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[SubjectConfig, ...]:
        """All subjects, the main one first."""
        main = SubjectConfig(folder=self.folder, placeholder=self.placeholder, class_noun=self.class_noun)
        return (main, *self.further)

    @property
    def chosen_identifier(self) -> Identifier:
        """The identifier, given or by the method."""
        return self.identifier or METHODS[self.method].identifier

    @property
    def held_in(self) -> Holding:
        """Numbers to hold a base in that is loaded for this lesson: float32 where its own weights learn."""
        if METHODS[self.method].weights:
            return "fp32"
        return "bf16" if self.precision == "bf16" else "stored"

    @property
    def writes_base(self) -> bool:
        """Whether the result is a folder with the whole base, not a file."""
        return METHODS[self.method].weights and not self.output.suffix

    @property
    def joins_at(self) -> int:
        """The step at which the last vector of the word joins; 0 where all are there from the beginning."""
        return (self.num_vectors - 1) * self.progressive_steps
