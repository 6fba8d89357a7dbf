"""Concepts in kohya's layout, read as the programs that know it do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.adapters.config import LoRAConfig
from sfumato.adapters.learned_path import LearnedPath
from sfumato.adapters.lora import LoRA
from sfumato.concept_requests import ExportRequest
from sfumato.errors import AdapterError, CheckpointError, ConfigError
from sfumato.events import Artifact, Notice
from sfumato.formats import kohya
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept, LearnedWord, load_concept, save_concept, taken_from
from sfumato.formats.kohya import left_out, save_kohya, trigger_phrase, word_names
from sfumato.formats.safe_io import read_header, read_safetensors
from sfumato.operations.export import export
from sfumato.training.whole import WholeWeights
from tiny import tiny_bundle

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"alpha": 6.0},
    "rslora": {"alpha": 6.0, "rank_stabilised": True},
    "pissa": {"init": "pissa", "alpha": 2.0},
    "loha": {"kind": "loha", "alpha": 6.0},
    "lokr": {"kind": "lokr", "alpha": 6.0},
    "lokr of two whole matrices": {"kind": "lokr", "factor": 16, "rank": 8, "alpha": 4.0},
    "full": {"kind": "full"},
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


def adapters(bundle: Bundle, **options: Any) -> dict[str, LoRA]:
    generator = torch.Generator().manual_seed(0)
    targets = {"unet": ("attention", "conv1", "proj_in"), "text_encoder": ("attention",)}
    made = {}
    for part, chosen in targets.items():
        config = LoRAConfig(**{"rank": 3, "targets": chosen, **options})
        made[part] = LoRA(bundle.modules[part], config, generator=generator)
        for parameter in made[part].parameters():
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return made


def concept(bundle: Bundle, made: dict[str, LoRA], *words: LearnedWord) -> Concept:
    known = words or (LearnedWord("<fox>", "fox", "zq fox"),)
    bare = Concept(known, {}, {}, bundle.name, bundle.base_hash, base_architecture="stable-diffusion-v1", base_size=512)
    return taken_from(bare, made)


def read_change(tensors: dict[str, Tensor], prefix: str, weight: Tensor) -> Tensor:
    """Return what is added to a weight, as LyCORIS and ComfyUI compute it."""
    own = {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items() if key.startswith(f"{prefix}.")}
    if "diff" in own:
        return own["diff"].reshape(weight.shape)
    alpha = float(own["alpha"])
    if "lora_up.weight" in own:
        up, down = own["lora_up.weight"].flatten(1), own["lora_down.weight"].flatten(1)
        return (up @ down * (alpha / len(own["lora_down.weight"]))).reshape(weight.shape)
    if "hada_w1_a" in own:
        one, other = own["hada_w1_a"] @ own["hada_w1_b"], own["hada_w2_a"] @ own["hada_w2_b"]
        return (one * other * (alpha / len(own["hada_w1_b"]))).reshape(weight.shape)
    w1, scale = own["lokr_w1"], 1.0
    if "lokr_w2" in own:
        w2 = own["lokr_w2"]
    else:
        w2, scale = own["lokr_w2_a"] @ own["lokr_w2_b"], alpha / len(own["lokr_w2_b"])
    if w2.ndim == 4:
        w1 = w1[:, :, None, None]
    return (torch.kron(w1, w2) * scale).reshape(weight.shape)


@pytest.mark.parametrize("options", KINDS.values(), ids=list(KINDS))
def test_every_kind_is_read_as_it_was_learned(bundle: Bundle, tmp_path: Path, options: dict[str, Any]) -> None:
    made = adapters(bundle, **options)
    file = tmp_path / "fox.safetensors"
    assert save_kohya(concept(bundle, made), file, torch.float32) == {file: "lora"}
    tensors, expected = read_safetensors(file), 0
    for part, prefix in (("unet", "lora_unet_"), ("text_encoder", "lora_te_")):
        for name, path in zip(made[part].names, made[part].paths, strict=True):
            module = bundle.modules[part].get_submodule(name)
            assert isinstance(path, LearnedPath) and isinstance(module.weight, Tensor)
            found = read_change(tensors, prefix + name.replace(".", "_"), module.weight)
            wanted = path.delta(module, 1.0).detach()
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
            assert float(wanted.abs().max()) > 1e-3
            expected += 1
    modules = {key.partition(".")[0] for key in tensors}
    assert len(modules) == expected and all(key.count(".") <= 2 for key in tensors)


def test_header_and_precision(bundle: Bundle, tmp_path: Path) -> None:
    save_kohya(concept(bundle, adapters(bundle, alpha=6.0)), tmp_path / "fox.safetensors")
    header = read_header(tmp_path / "fox.safetensors")
    told = header.metadata
    assert (told["ss_network_module"], told["ss_network_dim"], told["ss_v2"]) == ("networks.lora", "3", "False")
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == ("sd_v1", "stable-diffusion-v1/lora")
    assert told["modelspec.trigger_phrase"] == "zq fox" and told["modelspec.resolution"] == "512x512"
    assert json.loads(told["ss_network_args"]) == {"conv_dim": "3", "conv_alpha": "3"}, "kernels learn too"
    stored = {name: tensor.dtype for name, tensor in read_safetensors(tmp_path / "fox.safetensors").items()}
    alphas = {name for name in stored if name.endswith(".alpha")}
    assert {stored.pop(name) for name in alphas} == {torch.float32} and set(stored.values()) == {torch.float16}


def test_a_file_that_does_not_hold_what_was_exported_is_told(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(path: Path) -> dict[str, torch.Tensor]:
        found = {name: tensor.clone() for name, tensor in read_safetensors(path).items()}
        next(iter(found.values())).view(-1)[0] += 1
        return found

    monkeypatch.setattr(kohya, "read_safetensors", damaged)
    with pytest.raises(
        CheckpointError, match=r"fox\.safetensors' was written but does not hold what was to be exported"
    ):
        save_kohya(concept(bundle, adapters(bundle)), tmp_path / "fox.safetensors")


def test_words_are_files_of_their_own(bundle: Bundle, tmp_path: Path) -> None:
    rows = torch.randn(2, 32)
    fox, owl = LearnedWord("<Red fox>", "fox", "<Red fox> fox", rows), LearnedWord("<owl>", "owl", "zq owl")
    both = concept(bundle, adapters(bundle), fox, owl)
    file, word = tmp_path / "pair.safetensors", tmp_path / "pair-word.safetensors"
    assert save_kohya(both, file, torch.float32) == {word: "pair-word", file: "lora"}
    assert torch.equal(read_safetensors(word)["emb_params"], rows)
    assert [trigger_phrase(one, word_names(both, file)) for one in both.words] == ["pair-word fox", "zq owl"]
    assert read_header(file).metadata["modelspec.trigger_phrase"] == "pair-word fox, zq owl"
    alone = Concept((fox,), {}, {}, bundle.name, bundle.base_hash)
    word = tmp_path / "alone-word.safetensors"
    assert save_kohya(alone, tmp_path / "alone.safetensors") == {word: "alone-word"}
    assert not (tmp_path / "alone.safetensors").exists()


def saved(bundle: Bundle, path: Path, *said: str, seed: int = 0) -> Path:
    """A concept file whose words have vectors of their own."""
    generator = torch.Generator().manual_seed(seed)
    words = [LearnedWord(one, "fox", f"{one} fox", torch.randn(1, 32, generator=generator)) for one in said]
    save_concept(concept(bundle, adapters(bundle), *words), path)
    return path


def exported(path: Path, output: Path | None = None) -> tuple[list[str], list[str]]:
    """Export a file; return the names of what was written and what was said."""
    events = list(export(ExportRequest(concept=path, output=output)))
    names = [event.path.name for event in events if isinstance(event, Artifact)]
    return names, [event.message for event in events if isinstance(event, Notice)]


def vectors(path: Path) -> Tensor:
    return read_safetensors(path)["emb_params"].float()


def test_two_concepts_with_one_word_stay_apart(bundle: Bundle, tmp_path: Path) -> None:
    for number, stem in enumerate(("fox", "fox-1")):
        path = saved(bundle, tmp_path / f"{stem}.safetensors", "<fox>", seed=number)
        names, said = exported(path)
        assert names == [f"{stem}-word.safetensors", f"{stem}-kohya.safetensors"]
        assert said == [f"In a prompt there: '{stem}-word fox'. Files of words go into the folder of embeddings."]
    for stem in ("fox", "fox-1"):
        rows = load_concept(tmp_path / f"{stem}.safetensors").main.rows
        assert rows is not None
        torch.testing.assert_close(vectors(tmp_path / f"{stem}-word.safetensors"), rows, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("said", "names"),
    [
        (("<cat>", "<dog>"), ["both-cat-word", "both-dog-word"]),
        (("<cat>", "<cat!>"), ["both-cat-word", "both-cat-2-word"]),
        (("<猫>", "<!>"), ["both-猫-word", "both-new-word"]),
        (("<cat>", "<cat!>", "<cat-2>"), ["both-cat-word", "both-cat-2-word", "both-cat-2-2-word"]),
    ],
)
def test_every_word_has_a_file(bundle: Bundle, tmp_path: Path, said: Sequence[str], names: list[str]) -> None:
    path = saved(bundle, tmp_path / "both.safetensors", *said)
    written, (prompt,) = exported(path)
    assert written == [*(f"{name}.safetensors" for name in names), "both-kohya.safetensors"]
    assert all(f"'{name} fox'" in prompt for name in names)
    for name, word in zip(names, load_concept(path).words, strict=True):
        assert word.rows is not None
        torch.testing.assert_close(vectors(tmp_path / f"{name}.safetensors"), word.rows, atol=2e-3, rtol=1e-3)


def test_what_a_prompt_says_holds_nothing_that_prompts_read(bundle: Bundle, tmp_path: Path) -> None:
    path = saved(bundle, tmp_path / "fox.safetensors", "<fox>")
    names, _ = exported(path, tmp_path / "My (best) fox, v1.2.safetensors")
    assert names == ["my-best-fox-v1-2-word.safetensors", "My (best) fox, v1.2.safetensors"]
    assert exported(path, tmp_path / "!.safetensors")[0] == ["new-word.safetensors", "!.safetensors"]


def test_no_file_takes_the_place_of_the_concept_or_of_another(bundle: Bundle, tmp_path: Path) -> None:
    path = saved(bundle, tmp_path / "fox-word.safetensors", "<fox>")
    before = path.read_bytes()
    assert exported(path)[0] == ["fox-word-word.safetensors", "fox-word-kohya.safetensors"]
    for output, message in (
        ("fox.safetensors", "fox-word.safetensors', where the vectors of a word go, is the concept itself."),
        ("fox-word.safetensors", "fox-word.safetensors' is the concept itself."),
        ("folder.safetensors", "folder.safetensors' is a folder."),
        ("link.safetensors", "link-word.safetensors', where the vectors of a word go, is where 'link.safetensors' go"),
    ):
        (tmp_path / "folder.safetensors").mkdir(exist_ok=True)
        (tmp_path / "link-word.safetensors").unlink(missing_ok=True)
        (tmp_path / "link-word.safetensors").symlink_to("link.safetensors")
        with pytest.raises(ConfigError, match=message) as caught:
            exported(path, tmp_path / output)
        assert caught.value.field == "output" and caught.value.hint == "Choose another name."
    assert path.read_bytes() == before and not (tmp_path / "fox.safetensors").exists()
    assert exported(saved(bundle, tmp_path / "owl.safetensors", "<owl>"), path.with_name("owl-word.safetensors"))[
        0
    ] == [
        "owl-word-word.safetensors",
        "owl-word.safetensors",
    ]


def test_what_was_there_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    path = saved(bundle, tmp_path / "fox.safetensors", "<fox>")
    exported(path)
    word = (tmp_path / "fox-word.safetensors").read_bytes()
    assert len(exported(path)[1]) == 1, "the same bytes are there once"
    saved(bundle, path, "<fox>", seed=1)
    _, said = exported(path)
    assert said[0] == "'fox-word.safetensors' was there before; the old one is now 'fox-word-1.safetensors'."
    assert (tmp_path / "fox-word-1.safetensors").read_bytes() == word
    assert (tmp_path / "fox-word.safetensors").read_bytes() != word


def test_the_change_of_all_weights_goes_without_its_tables(bundle: Bundle, tmp_path: Path) -> None:
    whole = WholeWeights(bundle.modules, ("unet", "text_encoder"))
    generator = torch.Generator().manual_seed(0)
    changes = {}
    with torch.no_grad():
        for name, weight in bundle.text_encoder.named_parameters():
            changes[name] = torch.randn(weight.shape, generator=generator) * 0.02
            weight += changes[name]
    made, share = whole.extract(64)
    whole.restore()
    words = (LearnedWord("<fox>", "fox", "zq fox"),)
    bare = Concept(words, {}, {}, bundle.name, bundle.base_hash, lineage={"change_held": share})
    save_concept(taken_from(bare, made), tmp_path / "fox.safetensors")
    names, said = exported(tmp_path / "fox.safetensors")
    assert names == ["fox-kohya.safetensors"] and not any("embedding" in key for key in kept(tmp_path, names[0]))
    held = {name: float(change.square().sum()) for name, change in changes.items() if change.ndim > 1}
    tables = {name: size / sum(held.values()) for name, size in held.items() if name.endswith("_embedding.weight")}
    lost = left_out(load_concept(tmp_path / "fox.safetensors"))
    assert {f"{name}.weight": found for name, found in lost.items()} == pytest.approx(tables, rel=1e-3)
    shares = [f"{lost[f'text_model.embeddings.{name}']:.1%}" for name in ("position_embedding", "token_embedding")]
    assert said[0] == (
        f"Left out, since the layout has no name for them: position_embedding ({shares[0]}), token_embedding "
        f"({shares[1]}); the shares are of the squared change that the concept holds of the text encoder."
    )
    assert said[1:] == ["In a prompt there: 'zq fox'."]


def kept(folder: Path, name: str) -> set[str]:
    """Modules of a file, which all have kohya's names."""
    modules = {key.partition(".")[0] for key in read_safetensors(folder / name)}
    assert modules and all(module.startswith(("lora_unet_", "lora_te_")) for module in modules)
    return {module for module in modules if module.startswith("lora_te_")}


def test_what_would_be_read_as_something_else_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="is a DoRA, whose lengths are those of the changed weights"):
        save_kohya(concept(bundle, adapters(bundle, kind="dora")), tmp_path / "a.safetensors")
    table = {"text_encoder": LoRA(bundle.text_encoder, LoRAConfig(2, targets=("token_embedding",)))}
    with pytest.raises(AdapterError, match="the table 'text_model.embeddings.token_embedding'"):
        save_kohya(concept(bundle, table), tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="'a.pt' was given; needed: one that ends in .safetensors"):
        save_kohya(concept(bundle, adapters(bundle)), tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_numbers_that_half_precision_cannot_hold(bundle: Bundle, tmp_path: Path) -> None:
    made = adapters(bundle, kind="loha", alpha=65536.0)
    save_kohya(concept(bundle, made), tmp_path / "loha.safetensors")
    alphas = {float(t) for name, t in read_safetensors(tmp_path / "loha.safetensors").items() if "alpha" in name}
    assert alphas == {65536.0}
    made = adapters(bundle)
    next(made["unet"].parameters()).data[:] = 7e4
    with pytest.raises(CheckpointError, match="70000 does not fit"):
        save_kohya(concept(bundle, made), tmp_path / "fox.safetensors")
    assert not (tmp_path / "fox.safetensors").exists()
    rows = LearnedWord("<fox>", "fox", "<fox>", torch.full((1, 8), 7e4))
    with pytest.raises(CheckpointError, match="70000 does not fit"):
        save_kohya(concept(bundle, {}, rows), tmp_path / "fox.safetensors")
