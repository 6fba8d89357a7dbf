"""What can be asked of sfumato: one schema for the command line, TOML files, JSON, forms and the record in a picture.

Nothing here imports torch, so that `sfumato --help` and every complaint about an option come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sfumato.flags import Flag as Flag
from sfumato.flags import Request as Request
from sfumato.flags import choices_of as choices_of
from sfumato.flags import expected as expected
from sfumato.flags import flag_of as flag_of
from sfumato.flags import is_list as is_list
from sfumato.flags import is_switch as is_switch
from sfumato.learn_settings import LearnSettings
from sfumato.request_values import Concept, Interval, NoiseInterval, Size
from sfumato.request_values import ConceptUse as ConceptUse
from sfumato.runtime.byte_sizes import parse_bytes

SamplerName = Literal[
    "ddpm", "ddim", "plms", "euler", "euler-ancestral", "heun", "dpm++2m", "dpm++2m-sde", "unipc", "lcm"
]


BaseName = Annotated[
    str,
    Field(description="Base model: 'primer' (ships here), a folder in diffusers layout, or a run of `train denoiser`."),
    Flag(metavar="NAME|PATH"),
]
MOST_SEED = 2**53 - 1
"""Largest seed: whole numbers up to here survive every reader of JSON."""
Seed = Annotated[int, Field(ge=0, le=MOST_SEED, description="Seed; one seed, one picture.")]


class GenerateRequest(Request):
    """Draw pictures from a text."""

    prompt: Annotated[str, Field(description="What to draw."), Flag(positional=True)]
    base: BaseName = "primer"
    concepts: Annotated[
        tuple[Concept, ...],
        Field(description="A learned concept, with its strength after a colon; may be given again."),
        Flag(("--concept",), "FILE[:STRENGTH]"),
    ] = ()
    count: Annotated[
        int, Field(ge=1, le=10_000, description="Number of pictures; picture i has seed + i."), Flag(("-n", "--count"))
    ] = 1
    seed: Seed = 0
    steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps.")] = 20
    sampler: Annotated[SamplerName, Field(description="Sampler.")] = "dpm++2m"
    guidance_scale: Annotated[
        float,
        Field(ge=0, le=100, description="How strictly to follow the text; 1 switches guidance off."),
        Flag(("--guidance",)),
    ] = 4.0
    guidance_rescale: Annotated[
        float, Field(ge=0, le=1, description="Share of the contrast that guidance adds to take back; 0.7 is usual.")
    ] = 0.0
    guidance_interval: Annotated[
        Interval, Field(description="Noise levels at which guidance acts."), Flag(metavar="LOW:HIGH")
    ] = NoiseInterval()
    spacing: Annotated[
        Literal["trailing", "leading", "linspace", "karras"],
        Field(description="Which times of the schedule the steps stand at."),
    ] = "trailing"
    eta: Annotated[
        float | None,
        Field(ge=0, le=1, description="Share of new noise in each step, for samplers that take it; default: theirs."),
    ] = None
    size: Annotated[
        Size | None,
        Field(description="Width and height in pixels; default: the base's own."),
        Flag(metavar="WIDTH[xHEIGHT]"),
    ] = None
    negative_prompt: Annotated[str, Field(description="What to keep away from."), Flag(("--negative",))] = ""
    init_image: Annotated[
        Path | None, Field(description="Picture to start from; its middle is cut to --size."), Flag(metavar="FILE")
    ] = None
    strength: Annotated[
        float, Field(gt=0, le=1, description="How much of --init-image may change: 1 keeps nothing of it.")
    ] = 0.75
    mask: Annotated[
        Path | None,
        Field(description="White where --init-image is drawn anew, black where it stays."),
        Flag(metavar="FILE"),
    ] = None
    batch_size: Annotated[
        int, Field(ge=1, le=256, description="Pictures drawn at once; changes the speed, never the pictures.")
    ] = 4
    output: Annotated[Path, Field(description="Folder for the pictures."), Flag(("-o", "--output"), "DIR")] = Path(
        "out"
    )


def _parse_size_in_bytes(value: object) -> object:
    """Turn `6GB` into bytes."""
    return parse_bytes(value) if isinstance(value, str) else value


class LearnRequest(LearnSettings):
    """Teach a base model a subject from a few pictures."""

    folder: Annotated[
        Path,
        Field(description="Pictures of the subject, with captions in text files, metadata.jsonl or folder names."),
        Flag((), "DIR", True),
    ]
    placeholder: Annotated[
        str,
        Field(min_length=1, description="Word that will stand for the subject, for example '<fox>'."),
        Flag(("--as",), "WORD"),
    ]
    class_noun: Annotated[
        str,
        Field(min_length=1, description="What the subject is, in the base's own words."),
        Flag(("--class",), "NOUN"),
    ]
    method: Annotated[
        Literal["lora", "pivotal", "textual-inversion", "custom-diffusion", "dreambooth"],
        Field(
            description="What learns: factors beside the weights and a new word (lora; pivotal, where the word cannot "
            "be left out), a new word alone (textual-inversion), keys and values of the attention to the text and a "
            "new word (custom-diffusion), or all weights (dreambooth)."
        ),
    ] = "lora"
    style: Annotated[bool, Field(description="The pictures share a style, not a subject.")] = False
    also: Annotated[
        tuple[str, ...],
        Field(description="One more subject for the same run; may be given again."),
        Flag(("--also",), "FOLDER:WORD:NOUN"),
    ] = ()
    identifier: Annotated[
        Literal["new", "rare"] | None,
        Field(
            description="Give the word vectors of its own, or use a word that the base hardly knows; default: new, "
            "dreambooth rare."
        ),
    ] = None
    base: BaseName = "primer"
    steps: Annotated[
        int | None,
        Field(
            ge=1,
            le=1_000_000,
            description="Optimizer steps; default: by method and width of the base's U-Net, 100 for lora on primer and "
            "500 on Stable Diffusion.",
        ),
    ] = None
    batch_size: Annotated[int, Field(ge=1, le=256, description="Pictures of the subject per step.")] = 4
    lr: Annotated[
        float | None,
        Field(
            gt=0,
            le=1,
            description="Peak learning rate; default: by method and width of the base's U-Net, 2e-3 for lora on primer "
            "and 1e-4 on Stable Diffusion.",
        ),
    ] = None
    num_vectors: Annotated[int, Field(ge=1, le=32, description="Vectors of a new word.")] = 1
    progressive_steps: Annotated[
        int, Field(ge=0, description="Steps after which one more vector of a new word joins; 0 for all at once.")
    ] = 0
    per_image_words: Annotated[
        bool, Field(description="Give every picture a word of its own for what it alone shows; not kept.")
    ] = False
    initializer: Annotated[
        str | None, Field(min_length=1, description="Word that a new word starts from; default: the class noun.")
    ] = None
    anchor_weight: Annotated[
        float, Field(ge=0, le=100, description="Keeps a new word near the one it starts from; 0 lets it go.")
    ] = 0.0
    templates: Annotated[
        Literal["none", "object", "style"],
        Field(description="Say of the pictures sentences for an object or for a style, in place of their captions."),
    ] = "none"
    rank: Annotated[
        int | None, Field(ge=1, le=1024, description="Rank of the low-rank factors; default: by method.")
    ] = None
    adapter: Annotated[
        Literal["lora", "dora", "loha", "lokr"], Field(description="Kind of factors beside the weights.")
    ] = "lora"
    init: Annotated[
        Literal["kaiming", "gaussian", "pissa"] | None,
        Field(
            description="Start of the factors; pissa: the weights' largest singular values; default: kaiming, loha "
            "gaussian."
        ),
    ] = None
    alpha: Annotated[
        float | None, Field(gt=0, le=65536, description="The factors are scaled by alpha / rank; default: by 1.")
    ] = None
    rank_stabilised: Annotated[bool, Field(description="Scale by alpha / sqrt(rank) instead of alpha / rank.")] = False
    dropout: Annotated[float, Field(ge=0, lt=1, description="Dropout before the factors while learning.")] = 0.0
    targets: Annotated[
        tuple[str, ...],
        Field(
            description="Layers of the U-Net that learn, such as attention, 'to_k' or '!mid_block.*', or of the text "
            "encoder, such as text_encoder.all; may be given again; default: blocks, in U-Nets as wide as Stable "
            "Diffusion's attention; attention in the text encoder."
        ),
        Flag(metavar="PATTERN"),
    ] = ()
    lora_plus: Annotated[
        float | None,
        Field(gt=0, le=1024, description="Learning rate of the outer factor over that of the inner."),
        Flag((), "RATIO"),
    ] = None
    text_encoder: Annotated[bool, Field(description="Learn in the text encoder too.")] = True
    strength: Annotated[
        float | None,
        Field(
            gt=0,
            le=2,
            description="How much of the change that factors have learned the file holds; default: by width of the "
            "base's U-Net, 0.8 on primer and 1 on Stable Diffusion.",
        ),
    ] = None
    prior_weight: Annotated[
        float, Field(ge=0, le=10, description="Weight of class pictures that keep the class as it was; 0 for none.")
    ] = 0.0
    num_class_images: Annotated[int, Field(ge=1, le=10_000, description="Number of class pictures.")] = 32
    class_prompts: Annotated[
        Literal["noun", "captions"],
        Field(
            description="What class pictures are asked by: the class noun alone, or the captions of the pictures with "
            "the noun in place of the word."
        ),
    ] = "noun"
    flip: Annotated[bool, Field(description="Add every picture mirrored.")] = False
    save_every: Annotated[
        int | None, Field(ge=1, description="Steps between saved states; default: a quarter, but 50 or more.")
    ] = None
    verdict: Annotated[bool, Field(description="Score every saved state and write the best one, not the last.")] = True
    verdict_prompts: Annotated[Path | None, Field(description="File of prompts to score, one a line.")] = None
    verdict_seeds: Annotated[int, Field(ge=2, le=64, description="Pictures of every prompt that are scored.")] = 2
    verdict_steps: Annotated[int, Field(ge=1, le=1000, description="Sampler steps of pictures that are scored.")] = 8
    judge_pictures: Annotated[
        str, Field(description="'embedded', 'dual', or a folder with CLIP, DINO or DINOv2."), Flag(metavar="NAME|DIR")
    ] = "embedded"
    judge_texts: Annotated[
        str, Field(description="'auto', 'none', 'dual', or a folder with CLIP."), Flag(metavar="NAME|DIR")
    ] = "auto"
    min_prompt: Annotated[float, Field(ge=0, le=1, description="Share of the base's prompt fidelity to keep.")] = 0.6
    max_drift: Annotated[float, Field(ge=0, le=1, description="How far to the subject the class may go.")] = 0.5
    early_stop: Annotated[bool, Field(description="End when no later step can win.")] = True
    seed: Seed = 0
    resume: Annotated[bool, Field(description="Go on where an interrupted run stopped.")] = False
    plan: Annotated[
        bool, Field(description="Take three real steps, tell what the lesson would need, and write nothing.")
    ] = False
    memory: Annotated[
        int | None,
        BeforeValidator(_parse_size_in_bytes),
        Field(description="With --plan: find the cheapest switches that fit into this, for example 6GB."),
        Flag(metavar="SIZE"),
    ] = None
    output: Annotated[
        Path | None,
        Field(
            description="The concept file; default: the word and .safetensors. With dreambooth also a folder, for the "
            "whole base as it has become."
        ),
        Flag(("-o", "--output"), "FILE"),
    ] = None


class TrainRequest(Request):
    """Train an autoencoder, a denoiser or a dual encoder from a recipe."""

    part: Annotated[
        Literal["autoencoder", "denoiser", "dual-encoder"], Field(description="What to train."), Flag(positional=True)
    ]
    recipe: Annotated[Path, Field(description="Recipe, a TOML file."), Flag((), "RECIPE.toml", True)]
    resume: Annotated[bool, Field(description="Go on where the run stopped.")] = False
    overrides: Annotated[
        tuple[str, ...],
        Field(description="Change one value of the recipe, for example loop.steps=500; may be given again."),
        Flag(("--set",), "KEY=VALUE", sets_keys=True),
    ] = ()
    output: Annotated[
        Path | None,
        Field(description="Folder of the run; default: runs/ and the name in the recipe."),
        Flag(("-o", "--output"), "DIR"),
    ] = None


class PrimerDataRequest(Request):
    """Build the training pictures of the embedded base (needs Node 20 or newer and npm)."""

    output: Annotated[Path, Field(description="Folder to write."), Flag((), "OUT", True)]
    seed: Annotated[int, Field(ge=0, description="Decides what is held out and which people are drawn.")] = 0
    characters: Annotated[bool, Field(description="Draw people too.")] = True
    packages: Annotated[
        Path | None,
        Field(description="A node_modules folder to use instead of installing the packages."),
        Flag(metavar="DIR"),
    ] = None


class DoctorRequest(Request):
    """Check a folder of pictures and captions before anything is learned from it."""

    folder: Annotated[Path, Field(description="The folder to check; nothing in it is changed."), Flag((), "DIR", True)]
    base: BaseName = "primer"
    size: Annotated[int | None, Field(ge=16, le=4096, description="Side of squares in pixels; default: base's.")] = None
    batch_size: Annotated[int, Field(ge=1, le=4096, description="Pictures per step, for the count of batches.")] = 4
    placeholder: Annotated[
        str | None, Field(min_length=1, description="The lesson's word, to measure captions."), Flag(("--as",), "WORD")
    ] = None
    class_noun: Annotated[str | None, Field(min_length=1, description="Its noun."), Flag(("--class",), "NOUN")] = None
    style: Annotated[bool, Field(description="The pictures share a style, as for learn.")] = False
    num_vectors: Annotated[int, Field(ge=1, le=32, description="Vectors of the word.")] = 1
    mask_folder: Annotated[Path | None, Field(description="Folder of masks, as for learn."), Flag(metavar="DIR")] = None
    fix: Annotated[Path | None, Field(description="New folder for a corrected copy."), Flag(metavar="OUT")] = None


class EvaluateRequest(Request):
    """Measure a base model on fixed prompts and seeds."""

    base: BaseName = "primer"
    recipe: Annotated[
        Path | None,
        Field(description="What is asked and how it is drawn; default: as recipes/evaluate-base.toml."),
        Flag(metavar="RECIPE.toml"),
    ] = None
    data: Annotated[Path, Field(description="Folder written by `sfumato data primer`."), Flag(metavar="DIR")] = Path(
        "runs/primer"
    )
    output: Annotated[Path, Field(description="Folder for the report."), Flag(("-o", "--output"), "DIR")] = Path(
        "out/evaluation"
    )


class DemoRequest(Request):
    """Learn a bundled subject that the base has never seen and draw it in new settings."""

    base: BaseName = "primer"
    steps: Annotated[int, Field(ge=1, le=100_000, description="Optimizer steps of the learning.")] = 200
    seed: Seed = 0
    output: Annotated[Path, Field(description="Folder for the results."), Flag(("-o", "--output"), "DIR")] = Path(
        "out/demo"
    )


class ReplayRequest(Request):
    """Draw a picture again from the recipe inside it and compare the bytes."""

    picture: Annotated[Path, Field(description="A PNG that sfumato wrote."), Flag((), "PNG", True)]
    search: Annotated[
        tuple[Path, ...],
        Field(
            description="Folder in which to look for base, concepts and pictures that have moved; may be given again."
        ),
        Flag(metavar="DIR"),
    ] = ()
    base: Annotated[
        str | None,
        Field(description="Base to draw with, 'primer' or a folder in diffusers layout; default: as in the recipe."),
        Flag(metavar="NAME|PATH"),
    ] = None
    output: Annotated[
        Path | None,
        Field(description="Folder for the new picture; default: only compare."),
        Flag(("-o", "--output"), "DIR"),
    ] = None
