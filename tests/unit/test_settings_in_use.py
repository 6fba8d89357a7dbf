"""Settings that would change nothing are refused, and previews come with the saves."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest

from sfumato.errors import ConfigError
from sfumato.operations.learn import lesson_config
from sfumato.requests import LearnRequest
from sfumato.training import in_use
from sfumato.training.learn_config import LearnConfig
from sfumato.training.methods import METHODS
from sfumato.training.recipe_file import DenoiserRecipe, parse_recipe

CAT = {"also": ("cats:<cat>:cat",)}


def config(**values: Any) -> LearnConfig:
    fox = {"folder": "photos", "placeholder": "<fox>", "class_noun": "fox"}
    return lesson_config(LearnRequest.model_validate({**fox, **values}))


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        (
            {"method": "textual-inversion", "prior_weight": 1},
            "prior_weight is 1.0 but the method 'textual-inversion' learns a word alone",
            "'pivotal'",
        ),
        ({"overrides": ("ema.warmup=false",)}, "ema.warmup is off but ema.decay is 0, so no", "to 0.97"),
        ({"overrides": ("optim.decay_all=true",)}, "optim.decay_all is on but optim.weight_decay is 0", "to 0.01"),
        ({"num_class_images": 8}, "num_class_images is 8 but prior_weight is 0, so no", "set prior_weight to 1"),
        ({"class_prompts": "captions"}, "class_prompts is 'captions' but prior_weight is 0, so", "set prior_weight to"),
        (
            {"method": "dreambooth", "num_vectors": 3},
            "num_vectors is 3 but the method 'dreambooth' learns no",
            "'lora'",
        ),
        ({"identifier": "rare", "num_vectors": 3}, "num_vectors is 3 but identifier is 'rare', which", "to 'new'"),
        ({"identifier": "rare", "anchor_weight": 0.1}, "anchor_weight is 0.1 but identifier is 'rare'", "to 'new'"),
        ({"identifier": "rare", "initializer": "wolf"}, "initializer is 'wolf' but identifier is 'rare'", "to 'new'"),
        ({"identifier": "rare", "per_image_words": True}, "per_image_words is on but identifier is 'rare'", "to 'new'"),
        ({"progressive_steps": 5}, "progressive_steps is 5 but num_vectors is 1", "set num_vectors to 2 or 3"),
        (
            {"method": "dreambooth", "output": "fox", "rank": 64},
            "rank is 64 but the output 'fox' is a folder for the whole base, which holds no factors",
            "give an output that ends in .safetensors",
        ),
        ({"word": "zq"}, "word is 'zq' but identifier is 'new', which makes its own", "set identifier to 'rare'"),
        (
            {"method": "pivotal", "word": "zq"},
            "word is 'zq' but the method 'pivotal' makes a word of its own",
            "'lora'",
        ),
        ({**CAT, "initializer": "wolf"}, "initializer is 'wolf' but there are 2 subjects, and it is for one", ""),
        ({**CAT, "identifier": "rare", "word": "zq"}, "word is 'zq' but there are 2 subjects, and it is for one", ""),
        ({"style": True, "say_class": False}, "say_class is off but a style says no class noun anyway", ""),
        ({"method": "textual-inversion", "say_class": False}, "say_class is off but the method 'textual-inv", ""),
        ({"method": "textual-inversion", "text_encoder": False}, "text_encoder is off but the method 'textual-", ""),
        ({"method": "custom-diffusion", "text_encoder": False}, "text_encoder is off but the method 'custom-di", ""),
        ({"factor": 8}, "factor is 8 but the adapter is 'lora', which has no small matrix", "set adapter to 'lokr'"),
        ({"gamma": 3}, "objective.gamma is 3.0 but objective.weighting is 'none', which has no", "to 'min_snr'"),
        ({"objective": {"delta": 0.5}}, "objective.delta is 0.5 but objective.loss is 'l2'", "to 'huber'"),
        ({"overrides": ("objective.logit_mean=1",)}, "logit_mean is 1.0 but objective.times is 'uni", "'logit_normal'"),
        (
            {"objective": {"logit_std": 2}},
            "objective.logit_std is 2.0 but objective.times is 'uniform'",
            "'logit_normal'",
        ),
        (
            {"unmasked_weight": 0.5},
            "unmasked_weight is 0.5 but pictures.masks is 'none', so all of a picture",
            "'alpha'",
        ),
        ({"optim": {"decay_steps": 5}}, "optim.decay_steps is 5 but optim.schedule is 'cosine'", "to 'trapezoid'"),
        ({"schedule": "trapezoid"}, "optim.schedule is 'trapezoid' but optim.decay_steps is 0, so", "to the steps of"),
        (
            {"schedule": "constant", "optim": {"final_lr": 0.3}},
            "optim.final_lr is 0.3 but optim.schedule is 'constant', so the learning rate does not fall",
            "set optim.schedule to 'cosine'",
        ),
        (
            {"optimizer": "schedule-free", "optim": {"final_lr": 0.3}},
            "optim.final_lr is 0.3 but optim.name is 'schedule-free', whose",
            "",
        ),
        ({"optim": {"muon_lr": 0.1}}, "optim.muon_lr is 0.1 but optim.name is 'adamw'", "set optim.name to 'muon'"),
        ({"optim": {"muon_momentum": 0.9}}, "optim.muon_momentum is 0.9 but optim.name is 'adamw'", "to 'muon'"),
        ({"optim": {"muon_precision": "bf16"}}, "optim.muon_precision is 'bf16' but optim.name is", "to 'muon'"),
        ({"optim": {"muon_exclude": ("up",)}}, r"optim.muon_exclude is \('up',\) but optim.name is", "to 'muon'"),
        (
            {"optimizer": "adafactor", "optim": {"betas": (0.5, 0.9)}},
            r"optim.betas is \(0.5, 0.9\) but optim.name is 'adafactor', which has no moments",
            "to 'adamw'",
        ),
        ({"optimizer": "adafactor", "optim": {"eps": 1e-6}}, "optim.eps is 1e-06 but optim.name is 'ada", "to 'adamw'"),
        ({"optimizer": "lion", "optim": {"eps": 1e-6}}, "optim.eps is 1e-06 but optim.name is 'lion'", "to 'adamw'"),
        ({"loop": {"preview_every": 5}}, "loop.preview_every is 5 but there is nothing to draw", "preview_prompts"),
        (
            {"preview_prompts": ("a",), "loop": {"preview_every": 0}},
            r"preview_prompts is \('a',\) but loop.preview_every is 0, so no preview is drawn",
            "set loop.preview_every",
        ),
        (
            {"method": "textual-inversion", "optimizer": "muon"},
            "optim.name is 'muon' but the method 'textual-inversion' learns vectors alone, and Muon moves matrices",
            "use the method 'pivotal'",
        ),
        ({"loop": {"validate_every": 5}}, "loop.validate_every is 5 but a lesson measures nothing on fixed data", ""),
    ],
)
def test_a_setting_without_what_it_needs_is_refused(values: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(**values)
    field = str(caught.value.field)
    assert caught.value.message.startswith(f"{field} is ") and caught.value.hint is not None
    assert caught.value.hint.startswith("Leave it out") and hint in caught.value.hint


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_taken_whether_given_or_not(method: str) -> None:
    said = {"num_class_images": 32, "num_vectors": 1, "gamma": 5.0, "unmasked_weight": 0.1, "text_encoder": True}
    assert config(method=method, **said) == config(method=method)


@pytest.mark.parametrize(
    "values",
    [
        {"prior_weight": 1.0, "num_class_images": 8, "class_prompts": "captions"},
        {
            "num_vectors": 3,
            "progressive_steps": 5,
            "initializer": "wolf",
            "anchor_weight": 0.1,
            "per_image_words": True,
        },
        {**CAT, "num_vectors": 2, "anchor_weight": 0.1},
        {"method": "dreambooth", "word": "zq", "text_encoder": False, "say_class": False},
        {"adapter": "lokr", "factor": 8, "text_encoder": False},
        {"weighting": "min_snr", "gamma": 3, "loss": "huber", "objective": {"delta": 0.5}},
        {"times": "logit_normal", "objective": {"logit_mean": 1.0}, "masks": "alpha", "unmasked_weight": 0.0},
        {"schedule": "trapezoid", "optim": {"decay_steps": 5, "final_lr": 0.3}},
        {"optimizer": "muon", "optim": {"muon_lr": 0.1, "muon_precision": "bf16", "eps": 1e-6, "betas": (0.5, 0.9)}},
        {"optimizer": "lion", "optim": {"betas": (0.5, 0.9)}},
        {"schedule": "constant", "optim": {"final_lr": 0.0}},
        {"method": "dreambooth", "output": "fox"},
        {"method": "dreambooth", "output": "fox", "rank": 16},
        {"method": "dreambooth", "output": "fox.safetensors", "rank": 64},
    ],
)
def test_a_setting_with_what_it_needs_is_taken(values: dict[str, Any]) -> None:
    assert config(**values)


@pytest.mark.parametrize(
    ("values", "joins_at", "steps", "most"),
    [
        ({"num_vectors": 3, "progressive_steps": 100}, 200, 100, 49),
        ({"num_vectors": 3, "progressive_steps": 100, "method": "textual-inversion"}, 200, 150, 74),
        ({"num_vectors": 2, "progressive_steps": 60, "steps": 60}, 60, 60, 59),
        ({"num_vectors": 3, "progressive_steps": 1, "steps": 2}, 2, 2, 0),
    ],
)
def test_vectors_that_would_join_after_the_last_step_are_refused(
    values: dict[str, Any], joins_at: int, steps: int, most: int
) -> None:
    with pytest.raises(ConfigError, match="^progressive_steps is") as caught:
        config(**values)
    told = f"vectors would join after {joins_at} steps, but the lesson has {steps}."
    first = f"Set it to {most} or less" if most else "Leave it out"
    assert caught.value.message.endswith(told) and caught.value.field == "progressive_steps"
    assert caught.value.hint == f"{first}, or give the lesson more than {joins_at} steps."
    if most:
        assert config(**{**values, "progressive_steps": most}).progressive_steps == most
        with pytest.raises(ConfigError):
            config(**{**values, "progressive_steps": most + 1})


def test_the_table_names_settings_of_a_lesson() -> None:
    for key in (key for need in (*in_use._OF_LESSONS, *in_use._OF_TABLES) for key in need.settings):
        name, *inner = key.split(".")
        reduce(getattr, inner, LearnConfig.model_fields[name].default)


@pytest.mark.parametrize(
    ("values", "every"),
    [
        ({}, 0),
        ({"preview_prompts": ("a <fox>",)}, 50),
        ({"preview_prompts": ("a <fox>",), "steps": 400}, 100),
        ({"preview_prompts": ("a <fox>",), "save_every": 20}, 20),
        ({"preview_prompts": ("a <fox>",), "overrides": ("loop.preview_every=7",)}, 7),
        ({"overrides": ('preview_prompts=["a <fox>"]', "loop.save_every=9")}, 9),
    ],
)
def test_previews_are_drawn_at_every_save_unless_told(values: dict[str, Any], every: int) -> None:
    assert config(**values).loop.preview_every == every


UNET = {"in_channels": 4, "out_channels": 4, "channels": [32], "num_heads": 1}


def said(**tables: Any) -> list[str]:
    """Return what a recipe of a denoiser without texts says to change nothing."""
    recipe = parse_recipe({"kind": "denoiser", "unet": UNET, **tables}, DenoiserRecipe, "recipe.toml")
    return [notice.message for notice in in_use.said_of_tables(recipe)]


@pytest.mark.parametrize(
    ("tables", "messages"),
    [
        (
            {"data": {"size": 256}},
            ["data.size is 256 but data.kind is 'primer', whose pictures have 128 pixels a side"],
        ),
        (
            {"data": {"kind": "folder", "folder": "a", "scenes": {"centered": 1}, "size": 64, "split": "all"}},
            ["data.scenes is given but data.kind is 'folder', and it is for 'primer'"],
        ),
        (
            {"data": {"kind": "shapes", "folder": "a", "scenes": {"centered": 1}, "split": "held_out", "size": 64}},
            [
                "data.scenes is given but data.kind is 'shapes', and it is for 'primer'",
                "data.folder is 'a' but data.kind is 'shapes', which are drawn in code",
                "data.split is 'held_out' but data.kind is 'shapes', which are drawn in code",
            ],
        ),
        ({"data": {"folder": "a", "scenes": {"centered": 1}, "split": "held_out_pair"}}, []),
        (
            {"schedule": {"kind": "cosine", "beta_start": 0.001, "beta_end": 0.02}},
            [
                "schedule.beta_start is 0.001 but schedule.kind is 'cosine', which has betas of its own",
                "schedule.beta_end is 0.02 but schedule.kind is 'cosine', which has betas of its own",
            ],
        ),
        (
            {"schedule": {"kind": "given", "betas": [0.1, 0.2], "num_train_steps": 2, "beta_end": 0.02}},
            ["schedule.beta_end is 0.02 but schedule.kind is 'given', which has betas of its own"],
        ),
        ({"schedule": {"kind": "linear", "beta_start": 0.001, "beta_end": 0.02}}, []),
        ({"schedule": {"kind": "cosine"}}, []),
    ],
)
def test_what_changes_nothing_in_a_recipe_is_said(tables: dict[str, Any], messages: list[str]) -> None:
    assert said(**tables) == [f"{message}. It changes nothing." for message in messages]
