"""Learning with every kind of adapter: the loss falls, the file draws what the preview drew, bad settings are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato as package
from sfumato.errors import AdapterError, ConfigError, NoTargetMatched
from sfumato.events import Metric, Preview
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import load_concept
from sfumato.formats.safe_io import content_hash
from sfumato.operations.learn import learn as learn_request
from sfumato.pipeline import Pipeline, Settings
from sfumato.requests import LearnRequest, choices_of
from sfumato.training.ema import EmaConfig
from sfumato.training.factors import make_adapters
from sfumato.training.learn_config import LearnConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.methods import METHODS
from sfumato.training.optim import OptimConfig
from sfumato.training.personalise import learn
from sfumato.training.sheets import save_sheet
from sfumato.training.subject import read_subject
from tiny import tiny_bundle
from tiny_pictures import draw_discs

pytestmark = pytest.mark.usefixtures("base_stays")

Run = Callable[..., Any]
RUNS: dict[str, dict[str, Any]] = {
    "dora": {"adapter": "dora"},
    "loha": {"adapter": "loha"},
    "loha-kaiming": {"adapter": "loha", "init": "kaiming"},
    "lokr": {"adapter": "lokr"},
    "pissa": {"init": "pissa", "targets": ("attention",)},
    "rslora": {"rank_stabilised": True, "alpha": 4.0},
    "lora-plus": {"optim": OptimConfig(lr=3e-3, weight_decay=0.0), "lora_plus": 4.0},
    "custom-diffusion": {"method": "custom-diffusion", "targets": ("attention",)},
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures of one red disc."""
    return draw_discs(tmp_path_factory.mktemp("pictures"), 2)


def config(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    values: dict[str, Any] = {
        "folder": folder,
        "placeholder": "<fox>",
        "class_noun": "fox",
        "output": output,
        **({"rank": 4} if METHODS[changes.get("method", "lora")].has_rank else {}),
        "batch_size": 2,
        "targets": ("all",),
        **({"text_encoder": False} if METHODS[changes.get("method", "lora")].has_rank else {}),
        "loop": LoopConfig(steps=24, save_every=24, tensorboard=False),
        "optim": OptimConfig(lr=1e-2, weight_decay=0.0),
        **changes,
    }
    return LearnConfig(**values)


@pytest.mark.parametrize("changes", RUNS.values(), ids=list(RUNS))
def test_loss_falls_and_the_file_draws_the_last_preview(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    before = {part: content_hash(module.state_dict()) for part, module in bundle.modules.items()}
    loop = LoopConfig(steps=24, save_every=24, preview_every=24, tensorboard=False)
    chosen = config(pictures, tmp_path / "a.safetensors", **changes, loop=loop, preview_prompts=("a <fox>",))
    samples = read_subject(pictures, "<fox>", "fox", bundle)
    learner = Learner(chosen, bundle, samples)
    try:
        start = sum(float(learner.loss(draw).loss.detach()) for draw in range(1000, 1012))
    finally:
        learner.close()
    shown = [event.path for event in learn(chosen, bundle, tmp_path / "run") if isinstance(event, Preview)]
    assert {part: content_hash(module.state_dict()) for part, module in bundle.modules.items()} == before

    concept, pipeline = load_concept(chosen.output), Pipeline(bundle)
    with pipeline.using((concept, 1.0)):
        drawn = [pipeline.images(["a <fox>"], range(4), Settings(steps=16, batch_size=4))]
    again = save_sheet(drawn, tmp_path / "again.png")
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(shown[-1])))

    learner = Learner(chosen, bundle, samples)  # the same times and noise, with what the file holds
    try:
        adapters = concept.adapters(bundle)
        learner._detach()
        learner.adapters = adapters
        learner._attach()
        assert learner.words.rows is not None and concept.main.rows is not None
        learner.words.rows.rows.data = concept.main.rows
        end = sum(float(learner.loss(draw).loss.detach()) for draw in range(1000, 1012))
    finally:
        learner.close()
    assert end < 0.97 * start


def test_custom_diffusion_changes_keys_and_values_of_cross_attention_alone(
    bundle: Bundle, pictures: Path, tmp_path: Path
) -> None:
    chosen = config(
        pictures,
        tmp_path / "a.safetensors",
        method="custom-diffusion",
        targets=("attention",),
        text_encoder=True,
        loop=LoopConfig(steps=2, tensorboard=False),
    )
    list(learn(chosen, bundle, tmp_path / "run"))
    concept = load_concept(chosen.output)
    assert set(concept.factors) == {"unet"}
    layers = {name.removesuffix(".diff") for name in concept.factors["unet"]}
    assert layers == {name for name, _ in bundle.unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))}
    assert all(tensor.abs().max() > 0 for tensor in concept.factors["unet"].values())
    assert concept.main.rows is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "custom-diffusion", "targets": ("attention",)},
        {
            "adapter": "dora",
            "init": "pissa",
            "rank_stabilised": True,
            "targets": ("attention",),
            "text_encoder": True,
            "ema": EmaConfig(decay=0.5),
            "optim": OptimConfig(
                lr=1e-3, weight_decay=0.0, lr_factors={"learned-text_encoder.*": 0.5, "learned-word.*": 5.0}
            ),
        },
        {"adapter": "loha"},
        {"adapter": "lokr", "alpha": 8.0, "optim": OptimConfig(lr=1e-3, lr_factors={"*.lokr_w1": 3.0})},
    ],
    ids=["custom-diffusion", "dora-pissa", "loha", "lokr"],
)
def test_resumed_run_ends_with_the_same_bytes(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    loop = LoopConfig(steps=5, save_every=2, log_every=1, tensorboard=False)
    whole, parted = (
        config(pictures, tmp_path / f"{name}.safetensors", **changes, loop=loop, dropout=0.1) for name in ("a", "b")
    )
    list(learn(whole, bundle, tmp_path / "a"))
    run = learn(parted, bundle, tmp_path / "b")
    for event in run:
        if isinstance(event, Metric) and event.step == 3:
            break
    run.close()  # type: ignore[attr-defined]
    assert not parted.output.exists()
    list(learn(parted, bundle, tmp_path / "b", resume=True))
    assert parted.output.read_bytes() == whole.output.read_bytes()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"method": "custom-diffusion", "adapter": "loha"},
            ConfigError,
            "adapter is 'loha' but the method 'custom-dif",
        ),
        ({"method": "textual-inversion", "alpha": 2.0}, ConfigError, "alpha is 2.0 but the method 'textual-inversion'"),
        (
            {"method": "textual-inversion", "rank": 2},
            ConfigError,
            "rank is 2 but the method 'textual-inversion' learns",
        ),
        ({"method": "custom-diffusion", "rank": 2}, ConfigError, "rank is 2 but the method 'custom-diffusion' learns"),
        (
            {"method": "dreambooth", "dropout": 0.1},
            ConfigError,
            "dropout is 0.1 but the method 'dreambooth' learns all",
        ),
        ({"adapter": "lokr", "init": "pissa"}, ConfigError, "init is 'pissa' but the adapter is 'lokr'"),
        ({"factor": 8}, ConfigError, "factor is 8 but the adapter is 'lora', which has no small matrix"),
        (
            {"method": "dreambooth", "factor": 8},
            ConfigError,
            "factor is 8 but the method 'dreambooth' learns all weigh",
        ),
        ({"init": "pissa", "rank": 64}, AdapterError, "init 'pissa' needs 64 singular values"),
        ({"adapter": "dora", "strength": 0.8}, ConfigError, "strength is 0.8 but the change of 'dora' does not"),
        ({"method": "dreambooth", "strength": 0.8}, ConfigError, "strength is 0.8 but the method 'dreambooth' learns"),
        ({"targets": ("attn2.to_kk",)}, NoTargetMatched, r"The pattern 'attn2\.to_kk' matches no"),
        (
            {"method": "custom-diffusion", "identifier": "rare"},
            ConfigError,
            "identifier is 'rare' but the method 'cust",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_named(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    values = {"targets": ("attention",), **changes}
    with pytest.raises(error, match=message):
        list(learn(config(pictures, tmp_path / "a.safetensors", **values), bundle, tmp_path / "run"))


def request(folder: Path, output: Path, **changes: Any) -> LearnRequest:
    common: dict[str, Any] = {"placeholder": "<fox>", "class_noun": "fox", "steps": 2, "verdict": False}
    if METHODS[changes.get("method", "lora")].has_rank:
        common["rank"] = 2
    return LearnRequest(folder=folder, output=output, **common, **changes)


ASKED: dict[str, Any] = {
    "adapter": "dora",
    "init": "gaussian",
    "alpha": 3.0,
    "rank_stabilised": True,
    "dropout": 0.25,
    "targets": ["attn1.to_q", "!mid_block.*"],
    "lora_plus": 16.0,
}


def spoken(way: str) -> tuple[str, ...]:
    """Write `ASKED` for the command line: as flags, as a file, or as --set."""
    if way == "file":
        Path("how.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in ASKED.items()))
        return "--config", "how.toml"
    if way == "set":
        return tuple(word for key, value in ASKED.items() for word in ("--set", f"{key}={json.dumps(value)}"))
    words = []
    for key, value in ASKED.items():
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{key.replace('_', '-')}", *([] if one is True else [str(one)])]
    return tuple(words)


@pytest.mark.parametrize("way", ["flags", "file", "set", "python"])
def test_every_setting_reaches_the_file_by_every_way(
    sfumato: Run, base: Path, photos: Path, bundle: Bundle, way: str
) -> None:
    if way == "python":
        values = {"steps": 2, "rank": 2, "verdict": False, **ASKED}
        package.learn(photos, placeholder="<fox>", class_noun="fox", base=base, **values)
    else:
        words = ("--as", "<fox>", "--class", "fox", "--steps", 2, "--rank", 2, "--no-verdict", "--base", base)
        answer = sfumato("learn", photos, *words, *spoken(way))
        assert answer.code == 0, answer.err
    concept = load_concept(Path("fox.safetensors"))
    assert {key: concept.request[key] for key in ASKED} == ASKED
    made = concept.configs["unet"]
    assert (made.kind, made.init, made.dropout) == ("dora", "gaussian", 0.25)
    assert (made.scale, made.alpha, made.rank_stabilised) == (1.0, None, False), "the factors hold 3 / √2"
    assert made.targets and all(name.endswith("attn1.to_q") for name in made.targets)
    assert not any(name.startswith("mid_block") for name in made.targets)


def test_the_small_matrix_of_lokr_can_be_chosen(
    sfumato: Run, base: Path, photos: Path, bundle: Bundle, pictures: Path
) -> None:
    made = make_adapters(config(pictures, Path("a.safetensors"), adapter="lokr", factor=2), bundle.modules)
    sizes = {tuple(t.shape) for name, t in made["unet"].state().items() if name.endswith("lokr_w1")}
    assert made["unet"].config.factor == 2 and sizes == {(2, 2)}
    words = ("learn", photos, "--as", "<fox>", "--class", "fox", "--steps", 1, "--no-verdict", "--base", base)
    lokr = ("--adapter", "lokr", "--rank", 2)
    for given in (("--factor", 4), ("--set", "factor=4")):
        answer = sfumato(*words, *lokr, *given)
        assert answer.code == 0, answer.err
        concept = load_concept(Path("fox.safetensors"))
        assert (concept.request["factor"], concept.configs["unet"].factor) == (4, 4)
        assert all(t.shape[0] == 4 for name, t in concept.factors["unet"].items() if name.endswith("lokr_w1"))


def test_request_and_trainer_offer_the_same() -> None:
    fields = LearnRequest.model_fields
    assert choices_of(fields["adapter"]) == choices_of(LearnConfig.model_fields["adapter"])
    assert fields["init"].annotation == LearnConfig.model_fields["init"].annotation


def test_the_start_that_suits_the_kind_is_the_default(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    for adapter, init in (("lora", "kaiming"), ("loha", "gaussian"), ("lokr", "kaiming")):
        made = make_adapters(config(pictures, tmp_path / "a.safetensors", adapter=adapter), bundle.modules)
        assert made["unet"].config.init == init


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter": "loha"}, "lora_plus is 16 but the adapter 'loha' has no inner and outer factor"),
        ({"optim": {"lr_factors": {"unet.*": 2.0}}}, "lora_plus is 16 and optim.lr_factors is {'unet.*': 2.0}"),
        ({"method": "custom-diffusion"}, "lora_plus is 16.0 but the method 'custom-diffusion' learns whole"),
        ({"method": "textual-inversion"}, "lora_plus is 16.0 but the method 'textual-inversion' learns the word"),
    ],
)
def test_lora_plus_needs_a_pair_of_factors(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        list(learn_request(request(pictures, tmp_path / "a.safetensors", lora_plus=16.0, **changes), bundle))
    assert caught.value.field == "lora_plus"


@pytest.mark.parametrize("changes", [{"init": "pissa", "rank_stabilised": True}, {"adapter": "loha", "alpha": 2.0}])
def test_a_file_of_less_strength_lies_between_the_base_and_what_was_learned(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    files = {strength: tmp_path / f"{strength}.safetensors" for strength in (1.0, 0.25)}
    for strength, file in files.items():
        list(learn(config(pictures, file, strength=strength, **changes), bundle, tmp_path / str(strength)))
    whole, part = (load_concept(file) for file in files.values())
    share = {"lora": 0.25, "loha": 1.0}[whole.configs["unet"].kind]  # of a pair, the outer factor is smaller
    for name, tensor in whole.factors["unet"].items():
        assert torch.allclose(tensor * (share if name.endswith(".up") else 1.0), part.factors["unet"][name], rtol=1e-6)
    pipeline, drawn = Pipeline(bundle), []
    for concept, strength in ((whole, 0.25), (part, 1.0), (whole, 1.0)):
        with pipeline.using((concept, strength)):
            drawn.append(pipeline.images(["a <fox>"], [0], Settings(steps=4))[0])
    assert torch.allclose(drawn[0], drawn[1], atol=1e-4) and not torch.allclose(drawn[0], drawn[2], atol=1e-2)


def test_a_moved_factor_moves_faster_with_lora_plus(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    moved = {}
    for ratio in (None, 8.0):
        output = tmp_path / f"{ratio}.safetensors"
        list(learn_request(request(pictures, output, lora_plus=ratio, text_encoder=False), bundle))
        factors = load_concept(output).factors["unet"]
        moved[ratio] = {name: tensor for name, tensor in factors.items() if name.endswith(".up")}
    first = max(float(tensor.abs().max()) for tensor in moved[None].values())
    faster = max(float(tensor.abs().max()) for tensor in moved[8.0].values())
    assert faster == pytest.approx(8 * first, rel=0.2)
    assert all(torch.isfinite(tensor).all() for tensor in moved[8.0].values())


TABLES = ("attention", "text_encoder.*token_embedding*", "text_encoder.position_embedding")


@pytest.mark.parametrize("adapter", ["lora", "dora", "loha", "lokr"])
def test_tables_of_embeddings_learn_and_merge_to_what_the_attached_factors_give(
    bundle: Bundle, pictures: Path, tmp_path: Path, adapter: str
) -> None:
    chosen = config(pictures, tmp_path / "a.safetensors", targets=TABLES, text_encoder=True, adapter=adapter)
    list(learn(chosen, bundle, tmp_path / "run"))
    concept, pipeline = load_concept(chosen.output), Pipeline(bundle)
    tables = [f"text_model.embeddings.{name}_embedding" for name in ("token", "position")]
    assert concept.configs["text_encoder"].targets == tuple(tables)
    assert concept.configs["unet"].targets == make_adapters(chosen, bundle.modules)["unet"].names
    plain = pipeline.context("a red fox")
    adapters = concept.adapters(bundle)
    with adapters["text_encoder"].attached():
        attached = bundle.text_encoder(bundle.tokenizer.encode(["a red fox"])).context
    with pipeline.using((concept, 1.0)):
        merged = pipeline.context("a red fox")
    assert torch.allclose(merged, attached, atol=1e-5) and not torch.allclose(merged, plain, atol=1e-3)
    with adapters["text_encoder"].merged():
        for name in tables:
            moved = bundle.text_encoder.get_submodule(name).weight
            assert isinstance(moved, torch.Tensor) and bool(moved.isfinite().all())


@pytest.mark.parametrize(
    ("targets", "in_unet", "in_text"),
    [
        (("attn1.to_q",), "attn1.to_q", ("q_proj", "k_proj", "v_proj", "out_proj")),
        (("attn1.to_q", "text_encoder.feed-forward"), "attn1.to_q", ("fc1", "fc2")),
        (("attn1.to_q", "!text_encoder.out_proj"), "attn1.to_q", ("q_proj", "k_proj", "v_proj")),
        (("!text_encoder.*layers.0*", "attn1.to_q", "text_encoder.fc1"), "attn1.to_q", ("layers.1.mlp.fc1",)),
    ],
)
def test_patterns_choose_layers_of_their_own_part(
    bundle: Bundle, pictures: Path, targets: tuple[str, ...], in_unet: str, in_text: tuple[str, ...]
) -> None:
    chosen = config(pictures, Path("a.safetensors"), targets=targets, text_encoder=True)
    made = make_adapters(chosen, bundle.modules)
    assert made["unet"].names and all(name.endswith(in_unet) for name in made["unet"].names)
    names = made["text_encoder"].names
    assert all(name.endswith(in_text) for name in names)
    assert all(any(name.endswith(one) for name in names) for one in in_text)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"targets": ("attention", "text_encoder.token_embeding"), "text_encoder": True},
            NoTargetMatched,
            r"The pattern 'text_encoder\.token_embeding' matches no .* Nearest names: text_encoder\.token_embedding, ",
        ),
        (
            {"targets": ("attention", "!text_encoder.to_q"), "text_encoder": True},
            NoTargetMatched,
            r"The pattern '!text_encoder\.to_q' matches no",
        ),
        ({"targets": ("attention", "!q_proj"), "text_encoder": True}, NoTargetMatched, "The pattern '!q_proj' matches"),
        (
            {"targets": ("attention", "text_encoder.all")},
            ConfigError,
            "targets holds 'text_encoder.all' but text_encoder is off",
        ),
    ],
)
def test_patterns_for_the_text_encoder_that_fit_nothing_are_named(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        list(learn(config(pictures, tmp_path / "a.safetensors", **changes), bundle, tmp_path / "run"))


def test_the_usual_layers_of_the_unet_learn_beside_those_of_the_text_encoder(
    sfumato: Run, base: Path, photos: Path
) -> None:
    words = ("learn", photos, "--as", "<fox>", "--class", "fox", "--steps", 2, "--no-verdict", "--base", base)
    assert sfumato(*words, "--targets", "text_encoder.token_embedding").code == 0
    concept = load_concept(Path("fox.safetensors"))
    assert concept.request["targets"] == ["blocks", "text_encoder.token_embedding"]
    assert concept.configs["text_encoder"].targets == ("text_model.embeddings.token_embedding",)
    drawn = ("generate", "a <fox>", "--base", base, "--concept", "fox.safetensors", "--steps", 2)
    assert sfumato(*drawn).code == 0
    answer = sfumato(*words, "-o", "b.safetensors", "--targets", "attention", "--targets", "!mid_blok.*")
    assert answer.code == 2 and "'!mid_blok.*' matches no" in answer.err and "mid_block.*" in answer.err
    answer = sfumato(*words, "-o", "b.safetensors", "--set", "targets=3")
    assert answer.code == 2 and "targets" in answer.err
