"""Recipes: every key is checked, every message names what was given and what was needed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sfumato.errors import ConfigError
from sfumato.models.autoencoder import AUTOENCODERS
from sfumato.models.presets import unet_churches, unet_text2img256
from sfumato.models.unet_config import UNetConfig
from sfumato.training.recipe_file import RECIPES as RECIPES_BY_KIND
from sfumato.training.recipe_file import (
    AutoencoderRecipe,
    DenoiserRecipe,
    defaults_of,
    load_recipe,
    parse_recipe,
    settings_of,
)

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = """
kind = "denoiser"
autoencoder = "runs/ae"
[unet]
in_channels = 4
out_channels = 4
channels = [32, 64]
num_heads = 2
context_dim = 256
[loop]
steps = 10
"""


def written(folder: Path, text: str) -> Path:
    """Write a recipe."""
    path = folder / "mine.toml"
    path.write_text(text)
    return path


TRAINING = [path for path in sorted(RECIPES.rglob("*.toml")) if re.search(r"^kind = ", path.read_text(), re.MULTILINE)]


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_training_recipe_of_the_repository_is_valid(path: Path) -> None:
    (kind,) = re.findall(r'^kind = "(.*)"', path.read_text(), re.MULTILINE)[:1]
    recipe = load_recipe(path, RECIPES_BY_KIND[kind])
    nested = getattr(recipe, "autoencoder_recipe", None)
    assert nested is None or load_recipe(nested, AutoencoderRecipe).kind == "autoencoder"


@pytest.mark.parametrize(("name", "unet"), [("ldm-8-churches", unet_churches()), ("text2img256", unet_text2img256())])
def test_the_paper_recipes_hold_the_published_networks(name: str, unet: UNetConfig) -> None:
    assert load_recipe(RECIPES / "paper" / f"{name}.toml", DenoiserRecipe).unet == unet


@pytest.mark.parametrize("name", ["kl-f8", "vq-f4"])
def test_the_paper_recipes_hold_the_published_first_stages(name: str) -> None:
    given = load_recipe(RECIPES / "paper" / f"{name}.toml", AutoencoderRecipe).autoencoder
    assert replace(given, scaling_factor=1.0) == replace(AUTOENCODERS[name](), scaling_factor=1.0)


def test_tables_become_configurations(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, SMALL), DenoiserRecipe)
    assert recipe.unet == UNetConfig(4, 4, (32, 64), num_heads=2, context_dim=256)
    assert recipe.loop.steps == 10 and recipe.autoencoder == Path("runs/ae")


def test_overrides_win_and_are_read_as_toml(tmp_path: Path) -> None:
    changes = {"loop.steps": "20", "unet.channels": "[64]", "name": "fox", "optim.lr": 0.5, "data.kind": "shapes"}
    recipe = load_recipe(written(tmp_path, SMALL), DenoiserRecipe, changes)
    assert (recipe.loop.steps, recipe.unet.channels, recipe.name) == (20, (64,), "fox")
    assert (recipe.optim.lr, recipe.data.kind) == (0.5, "shapes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loop.stpes": "5"}, r"mine\.toml: unknown key 'loop\.stpes'\. Did you mean 'steps'\?"),
        ({"lopp.steps": "5"}, r"mine\.toml: unknown key 'lopp'\. Did you mean 'loop'\?"),
        ({"text_encoder.widht": "5"}, r"unknown key 'text_encoder\.widht'\. Did you mean 'width'\?"),
        ({"loop.guard.max_bda": "5"}, r"unknown key 'loop\.guard\.max_bda'\. Did you mean 'max_bad'\?"),
        ({"unet.chanels": "[32]"}, r"mine\.toml: unknown key 'chanels'\. Did you mean 'channels'\?"),
        ({"data.scenes.icon_wight": "1"}, r"unknown key 'icon_wight'\. Did you mean 'icon_weight'\?"),
        ({"loop.steps": "0"}, r"mine\.toml: loop\.steps is 0: input should be greater than or equal to 1\."),
        ({"optim.name": "sgd"}, r"optim\.name is 'sgd': input should be 'adamw', 'muon', .* or 'schedule-free'\."),
        ({"optim.lr": "fast"}, r"optim\.lr is 'fast': input should be a valid number"),
        ({"unet.channels": "[33]"}, r"channels \(33,\): 33 is not a multiple of norm_groups 32"),
        ({"loop.steps.more": "1"}, r"'loop\.steps\.more' cannot be set: 'steps' is a value, not a table"),
    ],
)
def test_a_bad_key_or_value_is_named(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(written(tmp_path, SMALL), DenoiserRecipe, change)
    assert re.search(message, str(caught.value)), str(caught.value)


def test_folders_that_are_named_by_dates_and_figures(tmp_path: Path) -> None:
    path = written(tmp_path, SMALL)
    for name in ("2024-05-01", "2024-05-01T10:00:00", "07:32:00"):
        assert load_recipe(path, DenoiserRecipe, {"autoencoder": name}).autoencoder == Path(name)
    with pytest.raises(ConfigError, match="needs quotes of its own"):
        load_recipe(path, DenoiserRecipe, {"autoencoder": "2024"})
    assert load_recipe(path, DenoiserRecipe, {"autoencoder": '"2024"'}).autoencoder == Path("2024")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.toml: unet is missing\."):
        load_recipe(written(tmp_path, 'kind = "denoiser"'), DenoiserRecipe)


def test_the_wrong_kind_of_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has kind = 'denoiser'; needed: 'autoencoder'\."):
        load_recipe(written(tmp_path, SMALL), AutoencoderRecipe)


def test_a_recipe_can_be_plain_data() -> None:
    content = {"kind": "autoencoder", "autoencoder": {"channels": [32, 32], "latent_channels": 2}}
    recipe = parse_recipe(content, AutoencoderRecipe, "test")
    assert recipe.autoencoder.downsample_factor == 2


def test_defaults_are_the_keys_that_the_recipe_does_not_change(tmp_path: Path) -> None:
    defaults = defaults_of(load_recipe(written(tmp_path, SMALL), DenoiserRecipe, {"optim.lr": "1e-4"}))
    assert {"optim.lr", "optim.name", "data.flip", "loop.guard.max_bad"} <= defaults
    assert not {"loop.steps", "unet.channels", "autoencoder"} & defaults


def test_settings_hold_every_value_and_the_facts(tmp_path: Path) -> None:
    settings = settings_of(load_recipe(written(tmp_path, SMALL), DenoiserRecipe), data="abc")
    assert settings["unet"]["channels"] == [32, 64]
    assert settings["objective"]["text_dropout"] == 0.1 and settings["facts"] == {"data": "abc"}
