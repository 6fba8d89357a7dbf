"""Recipes: everything that decides a training run, in one TOML file whose every key is checked."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from datetime import date
from datetime import time as clock
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails

from sfumato.diffusion.parameterization import Prediction
from sfumato.diffusion.schedules import ScheduleConfig
from sfumato.errors import ConfigError
from sfumato.models.autoencoder import AutoencoderConfig
from sfumato.models.eye import EyeConfig
from sfumato.models.text_encoder import Activation
from sfumato.models.unet_config import UNetConfig
from sfumato.runtime.json_values import flattened
from sfumato.runtime.precision import Precision
from sfumato.runtime.suggestions import did_you_mean
from sfumato.runtime.toml_file import read_toml
from sfumato.training.alignment import AlignmentConfig
from sfumato.training.ema import EmaConfig
from sfumato.training.latents import LatentPoolConfig
from sfumato.training.loop import LoopConfig
from sfumato.training.objectives import AutoencoderObjective, DenoisingConfig
from sfumato.training.optim import OptimConfig
from sfumato.training.pictures import DataConfig
from sfumato.training.recipe_checks import check_discriminator, check_first_stage, usable_device
from sfumato.training.section import Section, checked_keys
from sfumato.training.sights import SightsConfig

_OF_TEXTS = ("string_type", "path_type")
"""Problems of values that are no texts."""

AutoencoderTable = Annotated[AutoencoderConfig, checked_keys(AutoencoderConfig)]
UNetTable = Annotated[UNetConfig, checked_keys(UNetConfig)]
ScheduleTable = Annotated[ScheduleConfig, checked_keys(ScheduleConfig)]


class Recipe(Section):
    """What every recipe has.

    Attributes:
        name: Name of what is made.
        seed: Seed of weights and of every random draw.
        device: `cpu`, `cuda` or another device of torch.
        precision: Numbers of convolutions and matrix products, `fp32` or `bf16`; weights and losses stay in float32.
        batch_size: Pictures per batch; a step sees `batch_size · loop.accumulate`.
        data: Which pictures.
        loop: How long, how often.
    """

    name: str = Field(default="mine", min_length=1)
    seed: int = 0
    device: Annotated[str, AfterValidator(usable_device)] = "cpu"
    precision: Precision = "fp32"
    batch_size: int = Field(default=16, ge=1)
    data: DataConfig = DataConfig()
    loop: LoopConfig = LoopConfig()


class AutoencoderRecipe(Recipe):
    """How an autoencoder is trained.

    Attributes:
        init_from: Run, checkpoint or autoencoder folder to take the first weights from.
        autoencoder: The network.
        learns: `all`, or `decoder`: encoder and scale stay as in `init_from`, so that a denoiser trained on its latents
            still fits.
        latent_noise: Noise on the latents before they are decoded, in units of their own standard deviation; each
            picture gets a share of it between 0 and 1. A decoder alone learns to forgive a denoiser's small mistakes;
            where the encoder learns too, it puts what matters into latents that survive noise ([yang2025]). Only for
            `kl`.
        objective: Its losses.
        optim: Its optimizer.
        discriminator_optim: The discriminator's optimizer.
        ema: Average of its weights; without it the trained weights are shipped.
        validation_pictures: Fixed pictures that reconstruction is measured on.
        scaling_pictures: Pictures that the scale of the latents is measured on at the end; a decoder that learns alone
            keeps the scale that it is given.
        shift: Measure and remove the latents' mean as well; it ends in the biases of the 1×1 convolutions.
    """

    kind: Literal["autoencoder"]
    init_from: Path | None = None
    autoencoder: AutoencoderTable
    learns: Literal["all", "decoder"] = "all"
    latent_noise: float = Field(default=0.0, ge=0, le=2)
    objective: AutoencoderObjective = AutoencoderObjective()
    optim: OptimConfig = OptimConfig()
    discriminator_optim: OptimConfig = OptimConfig()
    ema: EmaConfig | None = None
    validation_pictures: int = Field(default=64, ge=1)
    scaling_pictures: int = Field(default=512, ge=1)
    shift: bool = False

    @model_validator(mode="after")
    def _check(self) -> AutoencoderRecipe:
        """Refuse what would change nothing."""
        check_first_stage(self.autoencoder, self.learns, self.latent_noise, self.shift)
        if self.objective.adversarial_weight:
            check_discriminator(self.data.side, self.objective.discriminator_layers)
        return self


class TokenizerTable(Section):
    """The tokenizer, learned from the captions of the pictures unless a folder is given.

    Attributes:
        folder: A tokenizer in CLIP's file format.
        vocab_size: Most pieces to learn.
        context_length: Length of every text in tokens.
        captions: Number of captions to learn from.
    """

    folder: Path | None = None
    vocab_size: int = Field(default=8192, ge=514)
    context_length: int = Field(default=32, ge=3)
    captions: int = Field(default=20_000, ge=1)


class TextEncoderTable(Section):
    """The text encoder; vocabulary, length and special ids come from the tokenizer."""

    width: int = Field(default=256, ge=1)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    mlp_width: int = Field(default=1024, ge=1)
    activation: Activation = "quick_gelu"


class PreviewTable(Section):
    """Sheets of samples while the run goes on.

    Attributes:
        prompts: One row of the sheet each; none for no sheets.
        count: Pictures per prompt, seeds 0, 1, ….
        steps: DDIM steps.
        guidance_scale: Strength of guidance.
    """

    prompts: tuple[str, ...] = ()
    count: int = Field(default=4, ge=1)
    steps: int = Field(default=20, ge=1)
    guidance_scale: float = Field(default=4.0, ge=0)


class DenoiserRecipe(Recipe):
    """How a denoiser and its text encoder are trained.

    Attributes:
        init_from: Run, checkpoint or bundle folder to take the first weights from.
        autoencoder: Folder of a trained autoencoder, a bundle or an autoencoder run.
        autoencoder_recipe: Recipe that trains the autoencoder first, in the run's folder; instead of `autoencoder`.
        tokenizer: Tokenizer.
        text_encoder: Text encoder, trained jointly; without it the denoiser is unconditional.
        unet: Denoising network; `in_channels`, `out_channels` and `context_dim` must fit the other parts.
        schedule: Noise schedule.
        prediction: What the network predicts.
        objective: The loss.
        alignment: Alignment of the network's middle to image features, a help to learn faster.
        learns: `all`, or `text_encoder`: the U-Net stays as in `init_from`, and texts learn to say what it understands.
        latents: The pool of encoded pictures.
        optim: Optimizer.
        ema: Average of the weights: what is previewed, measured and shipped.
        validation_pictures: Fixed pictures that the loss is measured on; 0 for none.
        preview: Sheets of samples.
        bundle_every: Steps between bundles written to `bundle/`; 0 writes one at the end only.
        gradient_checkpointing: Save memory for time.
        compile: Compile the network with torch.compile.
    """

    kind: Literal["denoiser"]
    init_from: Path | None = None
    autoencoder: Path | None = None
    autoencoder_recipe: Path | None = None
    tokenizer: TokenizerTable = TokenizerTable()
    text_encoder: TextEncoderTable | None = None
    unet: UNetTable
    schedule: ScheduleTable = ScheduleConfig()
    prediction: Prediction = "eps"
    objective: DenoisingConfig = DenoisingConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    learns: Literal["all", "text_encoder"] = "all"
    latents: LatentPoolConfig = LatentPoolConfig()
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    validation_pictures: int = Field(default=256, ge=0)
    preview: PreviewTable = PreviewTable()
    bundle_every: int = Field(default=0, ge=0)
    gradient_checkpointing: bool = False
    compile: bool = False


class PictureEncoderTable(Section):
    """The picture side of a dual encoder: a transformer behind a frozen eye.

    Attributes:
        side: Side in pixels at which pictures are looked at.
        stages: Stages of EfficientNet-Lite0 whose maps are kept.
        grid: Cells along each side.
        width: Channels of a cell.
        layers: Transformer layers.
        heads: Attention heads.
        mlp_width: Channels inside the feed-forward.
        dropout: Rate while it learns.
    """

    side: int = EyeConfig.side
    stages: tuple[int, ...] = EyeConfig.stages
    grid: int = EyeConfig.grid
    width: int = Field(default=192, ge=1)
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    mlp_width: int = Field(default=768, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @property
    def eye(self) -> EyeConfig:
        """How pictures are looked at."""
        return EyeConfig(self.side, self.stages, self.grid)


class DualEncoderRecipe(Recipe):
    """How a dual encoder is trained: on scenes of the primer, with captions that are right and captions that are not.

    Attributes:
        init_from: Run or checkpoint to take the first weights from.
        dim: Length of the vectors.
        sights: Which scenes are looked at once, before the training.
        picture: Picture side.
        tokenizer: Tokenizer.
        text_encoder: Text side.
        wrong_captions: Share of the scenes of a batch that bring a caption with one false fact.
        optim: Optimizer.
        ema: Average of the weights: what is measured and shipped.
        validation_scenes: Scenes that retrieval and false captions are measured on, the first 256 for retrieval.
    """

    kind: Literal["dual-encoder"]
    init_from: Path | None = None
    dim: int = Field(default=256, ge=1)
    sights: SightsConfig = SightsConfig()
    picture: PictureEncoderTable = PictureEncoderTable()
    tokenizer: TokenizerTable = TokenizerTable()
    text_encoder: TextEncoderTable = TextEncoderTable()
    wrong_captions: float = Field(default=1.0, ge=0, le=1)
    optim: OptimConfig = OptimConfig()
    ema: EmaConfig = EmaConfig()
    validation_scenes: int = Field(default=512, ge=2)


RecipeT = TypeVar("RecipeT", bound=Recipe)
SectionT = TypeVar("SectionT", bound=Section)
RECIPES: Mapping[str, type[Recipe]] = {
    "autoencoder": AutoencoderRecipe,
    "denoiser": DenoiserRecipe,
    "dual-encoder": DualEncoderRecipe,
}


def load_recipe(path: Path, kind: type[RecipeT], overrides: Mapping[str, Any] | None = None) -> RecipeT:
    """Read a recipe and check every key and value.

    Paths inside the file are relative to where the command is run, like those on the command line, except
    `autoencoder_recipe`, which is relative to the file.

    Args:
        path: The TOML file.
        kind: `AutoencoderRecipe`, `DenoiserRecipe` or `DualEncoderRecipe`.
        overrides: Values that win over the file, by dotted key such as `loop.steps`; texts are read as TOML values.

    Raises:
        ConfigError: The file is not TOML, a key is unknown, or a value is missing or out of range.
    """
    content = read_toml(path)
    given, needed = content.get("kind"), get_args(kind.model_fields["kind"].annotation)[0]
    if given != needed:
        raise ConfigError(
            f"'{path}' has kind = {given!r}; needed: {needed!r}.", field="kind", hint=f"Is it a recipe for a {needed}?"
        )
    for key, value in (overrides or {}).items():
        set_value(content, key, value)
    recipe = parse_recipe(content, kind, str(path))
    nested = getattr(recipe, "autoencoder_recipe", None)
    if nested is not None and not nested.is_absolute():
        return recipe.model_copy(update={"autoencoder_recipe": path.parent / nested})
    return recipe


def parse_recipe(content: Mapping[str, Any], kind: type[SectionT], where: str) -> SectionT:
    """Check a recipe, or other settings, given as plain data.

    Args:
        content: Its tables.
        kind: Which recipe or settings.
        where: Name of its origin, for messages.

    Raises:
        ConfigError: A key is unknown, or a value is missing or out of range.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise _config_error(error, kind, where) from error
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}", field=error.field, hint=error.hint) from error


def set_value(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a value by dotted key; text is read as TOML where that is possible.

    Raises:
        ConfigError: A part of the key before the last names a value.
    """
    *tables, last = key.split(".")
    for table in tables:
        content = content.setdefault(table, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{key!r} cannot be set: {table!r} is a value, not a table.", field=key)
    content[last] = _toml_value(value) if isinstance(value, str) else value


def _toml_value(text: str) -> Any:
    """Read a text as a TOML value; what is none is taken as the text itself."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if isinstance(value, date | clock) else value  # no key takes a date, but folders are named so


def _config_error(error: ValidationError, kind: type[BaseModel], where: str) -> ConfigError:
    """Turn pydantic's list of problems into one message in plain words."""
    problems = list(error.errors())
    messages = [_problem(item, kind) for item in problems]
    key = ".".join(str(part) for part in problems[0]["loc"])
    return ConfigError(f"{where}: {'; '.join(messages)}", field=key)


def _problem(item: ErrorDetails, kind: type[BaseModel]) -> str:
    """Say what was given and what was needed for one key."""
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {key!r}. {did_you_mean(str(item['loc'][-1]), _known(kind, item['loc'][:-1]))}"
    if item["type"] == "missing":
        return f"{key} is missing."
    quoted = " A text of figures needs quotes of its own." if item["type"] in _OF_TEXTS else ""
    return f"{key} is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}.{quoted}"


def _known(kind: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a table of a recipe may have."""
    table: Any = kind
    for part in place:
        table = next(iter(_tables(table.model_fields[str(part)].annotation)), table)
    return list(table.model_fields)


def _tables(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the table classes within a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _tables(inner)


def defaults_of(recipe: Recipe) -> set[str]:
    """Return the dotted keys of a recipe that stand at their default."""
    full, explicit = (
        flattened(TypeAdapter(type(recipe)).dump_python(recipe, mode="json", exclude_defaults=sparse))
        for sparse in (False, True)
    )
    return full.keys() - explicit.keys()


def settings_of(recipe: Recipe, **facts: Any) -> dict[str, Any]:
    """Return a recipe as plain data, with facts (hashes of data and parts) that must not change on resume either."""
    return {**TypeAdapter(type(recipe)).dump_python(recipe, mode="json"), "facts": facts}
