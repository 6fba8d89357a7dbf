"""A lesson that cannot end well is refused before anything is drawn, and no result takes the place of other things."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfumato.errors import AdapterError, CannotResume, ConfigError, DataError, SfumatoError
from sfumato.events import Event, Verdict
from sfumato.formats.bundle import Bundle, load_bundle, save_bundle
from sfumato.pipeline import Pipeline
from sfumato.training.ema import EmaConfig
from sfumato.training.learn_config import LearnConfig, SubjectConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.optim import OptimConfig
from sfumato.training.personalise import learn
from sfumato.training.picture_config import PictureConfig
from sfumato.training.refusals import check_output
from sfumato.training.subject import read_subject
from sfumato.training.words import Words
from tiny import tiny_bundle
from tiny_pictures import draw_discs

pytestmark = pytest.mark.usefixtures("base_stays")

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures of one red disc."""
    folder = tmp_path / "photos"
    folder.mkdir()
    return draw_discs(folder, 2)


def config(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    loop = LoopConfig(steps=2, save_every=1, log_every=1, tensorboard=False)
    values = {"folder": folder, "placeholder": "<fox>", "class_noun": "fox", "output": output, "batch_size": 1}
    return LearnConfig(**{**values, "loop": loop, **changes})


def whole(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    return config(folder, output, **{"method": "dreambooth", "optim": OptimConfig(lr=1e-3), **changes})


# ── where the result goes ────────────────────────────────────────────────────────────────────────


def refused(chosen: LearnConfig, base: Path | None = None) -> str:
    """Return why a place is refused; it must be as it was."""
    with pytest.raises(ConfigError) as caught:
        check_output(chosen, base)
    assert caught.value.field == "output" and caught.value.hint
    return caught.value.message


def test_pictures_are_not_replaced_by_a_base(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in pictures.iterdir()}
    with pytest.raises(ConfigError, match="would replace '.*photos', the pictures to learn from"):
        list(learn(whole(pictures, pictures), bundle, tmp_path / "run"))
    assert {path.name: path.read_bytes() for path in pictures.iterdir()} == before
    assert not (tmp_path / "run").exists()


def test_what_holds_pictures_masks_or_the_base_itself_stays(pictures: Path, tmp_path: Path) -> None:
    (pictures / "model_index.json").write_text("{}")  # even where a base seems to lie
    assert refused(whole(pictures, pictures)).endswith(f"would replace '{pictures}', the pictures to learn from.")
    above = refused(whole(pictures, tmp_path))
    assert above == f"The output '{tmp_path}' would replace '{pictures}', the pictures to learn from."
    (tmp_path / "link").symlink_to(pictures)
    assert f"would replace '{tmp_path / 'link'}'" in refused(whole(tmp_path / "link", pictures))
    other = SubjectConfig(folder=pictures, placeholder="<cat>", class_noun="cat")
    assert f"would replace '{pictures}'" in refused(whole(tmp_path / "elsewhere", pictures, further=(other,)))
    masks = whole(tmp_path / "elsewhere", pictures, pictures=PictureConfig(masks="file", mask_folder=pictures))
    assert refused(masks).endswith("their masks.")
    base = tmp_path / "base"
    assert refused(whole(pictures, base), base).endswith(f"'{base}', the base that the lesson starts from.")
    assert refused(whole(pictures, base), base / "below").endswith("the base that the lesson starts from.")
    check_output(whole(pictures, pictures / "new"), base)


def test_only_an_empty_folder_or_a_base_is_replaced(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "fox-base"
    check_output(whole(pictures, place), None)
    place.mkdir()
    check_output(whole(pictures, place), None)
    for name in ("letter.txt", "notes.txt"):
        (place / name).touch()
    said = refused(whole(pictures, place))
    assert said == (
        f"The output '{place}' is a folder with 2 entries and no model_index.json; the whole base would replace them."
    )
    (place / "model_index.json").touch()
    check_output(whole(pictures, place), None)


@pytest.mark.parametrize("name", [".git", ".hg", ".svn"])
def test_a_clone_of_a_repository_is_not_replaced(name: str, pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "clone"
    (place / name).mkdir(parents=True)
    for _ in range(2):
        assert refused(whole(pictures, place)) == (
            f"The output '{place}' holds '{name}', the history of a repository; the whole base would replace it."
        )
        (place / "model_index.json").touch()  # no base is worth a history


def test_hidden_entries_count_but_those_that_nobody_made(pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "fox-base"
    place.mkdir()
    for name in (".DS_Store", "Thumbs.db", ".fox.01234567.partial"):
        (place / name).touch()
    check_output(whole(pictures, place), None)
    (place / ".env").touch()
    assert "is a folder with 1 entries and no model_index.json" in refused(whole(pictures, place))


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_base_needs_a_name_of_its_own(name: str, pictures: Path) -> None:
    assert refused(whole(pictures, Path(name))).startswith(f"The output '{name}' is no new name")


def test_files_and_folders_do_not_take_each_others_place(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "fox").touch()
    assert refused(whole(pictures, tmp_path / "fox")).endswith("fox' is a file; the whole base is written as a folder.")
    (tmp_path / "fox.safetensors").mkdir()
    for make in (config, whole):
        said = refused(make(pictures, tmp_path / "fox.safetensors"))
        assert said.endswith("fox.safetensors' is a folder; a concept is one file.")


def test_an_earlier_result_is_replaced(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    for number in range(2):
        list(learn(whole(pictures, tmp_path / "fox", seed=number), bundle, tmp_path / f"run{number}"))
        assert load_bundle(tmp_path / "fox").words[0].placeholder == "<fox>"


def test_a_plan_refuses_what_the_lesson_refuses(sfumato: Run, base: Path, photos: Path) -> None:
    words = ("learn", photos, "--as", "<fox>", "--class", "fox", "--method", "dreambooth", "--base", base)
    for more in ((), ("--plan",)):
        answer = sfumato(*words, "-o", photos, *more)
        assert answer.code == 2 and "would replace" in answer.err and answer.err.count("\n") == 1
        answer = sfumato(*words, "-o", base, *more)
        assert answer.code == 2 and "the base that the lesson starts from" in answer.err
    assert len(list(photos.glob("*.png"))) == 3 and load_bundle(base)


# ── before anything is drawn ─────────────────────────────────────────────────────────────────────


class NeverAsked:
    """A judge that must not be asked to look at anything."""

    def __init__(self, *texts: str) -> None:
        self.asked = texts

    def texts(self) -> tuple[str, ...]:
        return self.asked

    def begin(self, pipeline: Pipeline) -> Iterator[Event]:
        raise AssertionError

    def look(self, step: int, drawing: AbstractContextManager[Pipeline], folder: Path) -> Iterator[Event]:
        raise AssertionError

    def recall(self, step: int, folder: Path) -> None:
        raise AssertionError

    def forget(self, step: int) -> None:
        raise AssertionError

    def leader(self) -> int:
        raise AssertionError

    def settled(self) -> str | None:
        raise AssertionError

    def verdict(self) -> Verdict:
        raise AssertionError


def refuse(chosen: LearnConfig, bundle: Bundle, run: Path, error: type[SfumatoError], message: str, **more: Any) -> Any:
    """Expect a refusal without a picture drawn or looked at, though class pictures and a verdict are wanted."""
    asked = chosen.model_copy(update={"prior_weight": 1.0, "num_class_images": 2})

    def draw(*_: Any, **__: Any) -> None:
        raise AssertionError("something was drawn")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(error, match=message) as caught:
        patch.setattr(Pipeline, "generate", draw)
        list(learn(asked, bundle, run, **{"probe": NeverAsked(), **more}))
    assert not list(run.glob("cache/class/*"))
    return caught.value


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"placeholder": "fox", "class_noun": "cat"}, ConfigError, "'fox' is one token that the model knows"),
        ({"placeholder": "fox", "method": "dreambooth"}, ConfigError, "'fox' stands in the class noun 'fox'"),
        ({"placeholder": "two words"}, ConfigError, "'two words' is not one word"),
        ({"progressive_steps": 5}, ConfigError, "progressive_steps is 5 but num_vectors is 1"),
        ({"init": "pissa", "rank": 64}, AdapterError, "init 'pissa' needs 64 singular values"),
        ({"optim": OptimConfig(lr_factors={"unet.*": 2.0})}, ConfigError, r"The pattern 'unet\.\*' of lr_factors fits"),
        (
            {"optim": OptimConfig(name="schedule-free"), "ema": EmaConfig(decay=0.9)},
            ConfigError,
            r"ema\.decay is 0\.9, but the optimizer of 'learn' averages the weights itself",
        ),
        ({"class_noun": "fox " * 40, "class_prompts": "noun"}, DataError, "has 4[0-9]* tokens with start and end"),
    ],
    ids=["known", "noun", "words", "progressive", "pissa", "rates", "averages", "class"],
)
def test_settings_are_refused_first(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any], error: type[SfumatoError], message: str
) -> None:
    refuse(config(pictures, tmp_path / "a.safetensors", **changes), bundle, tmp_path / "run", error, message)


def test_an_optimizer_that_is_not_there_is_missed_first(
    bundle: Bundle, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.import_module

    def missing(name: str, package: str | None = None) -> Any:
        if name.startswith("prodigy"):
            raise ImportError("No module named 'prodigyopt'")
        return found(name, package)

    monkeypatch.setattr(importlib, "import_module", missing)
    chosen = config(pictures, tmp_path / "a.safetensors", optim=OptimConfig(name="prodigy", lr=1.0))
    refuse(chosen, bundle, tmp_path / "run", ConfigError, "needs the package 'prodigyopt'")


def test_a_run_of_other_settings_is_refused_first(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"prior_weight": 1.0, "num_class_images": 2}
    first = config(pictures, tmp_path / "a.safetensors", **changes)
    list(learn(first, bundle, tmp_path / "run"))
    for file in (tmp_path / "run" / "cache" / "class").iterdir():
        file.unlink()
    run = tmp_path / "run"
    other = config(pictures, tmp_path / "a.safetensors", rank=2, seed=4)
    refuse(other, bundle, run, CannotResume, "rank: 8 → 2; seed: 0 → 4", resume=True)
    refuse(first, bundle, run, CannotResume, "run' already holds a run")
    last = run / "checkpoints" / "step-00000002"
    (last / "state.json").write_text("cut sh")  # the settings then stand in the one before
    refuse(other, bundle, run, CannotResume, "rank: 8 → 2", resume=True)
    longer = first.model_copy(update={"loop": first.loop.model_copy(update={"steps": 3})})
    assert list(learn(longer, bundle, run, resume=True))


LONG = "in the snow " * 12


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({}, r"The caption of '1\.png', 'a <fox> in the snow .*', has \d+ tokens with start and end, the limit is 32; "
         r"this would be cut: '.*snow'\.", "in its text file, in metadata.jsonl or in the name of its folder."),
        ({"num_vectors": 3}, r"The caption of '1\.png'", "Its word alone takes 3 tokens (num_vectors)."),
        ({"flip": True}, r"The caption of '1\.png', ", "Shorten it: "),
        ({"per_image_words": True}, r"The caption of '1\.png', ", "Shorten it: "),
    ],
    ids=["plain", "vectors", "flip", "own words"],
)  # fmt: skip
def test_a_caption_that_is_too_long_is_named_first(
    bundle: Bundle, pictures: Path, tmp_path: Path, changes: dict[str, Any], message: str, hint: str
) -> None:
    (pictures / "1.txt").write_text(f"a <fox> {LONG}")
    chosen = config(pictures, tmp_path / "a.safetensors", **changes)
    error = refuse(chosen, bundle, tmp_path / "run", DataError, message)
    assert hint in error.hint


def test_sentences_and_class_prompts_that_are_too_long_are_named(bundle: Bundle, pictures: Path) -> None:
    samples = read_subject(pictures, "<fox>", "fox", bundle)
    many = config(pictures, Path("a.safetensors"), templates="object", num_vectors=27)
    with pytest.raises(DataError, match=r"^A sentence said of '0\.png', '.*<fox>.*', has \d+ tokens") as caught:
        Words(many, bundle, samples)
    assert caught.value.hint is not None and "leave templates out. Its word alone takes 27 tokens" in caught.value.hint
    with pytest.raises(DataError, match=r"^What class pictures are asked by, 'a fox in the snow .*', has") as caught:
        Words(config(pictures, Path("a.safetensors")), bundle, samples, [f"a fox {LONG}".strip()])
    assert caught.value.hint == "Shorten the class noun, or the caption that it stands in."


def test_texts_to_draw_that_are_too_long_are_named(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    """What fits with the noun may not fit with the word and the noun."""
    text = "a {} " + " ".join(["on blue"] * 9)
    while bundle.tokenizer.excess(text.format("fox two")) is None:
        text += " a"
    assert bundle.tokenizer.excess(text.format("fox")) is None
    said, output = text.format("<fox>"), tmp_path / "a.safetensors"
    loop = LoopConfig(steps=2, save_every=1, preview_every=1, tensorboard=False)
    chosen = config(pictures, output, preview_prompts=(said,), loop=loop, identifier="rare", word="two")
    message = rf"^The preview prompt '{said}' has 33 tokens .*, the limit is 32; this would be cut: 'a'\."
    error = refuse(chosen, bundle, tmp_path / "run", DataError, message)
    assert error.field == "preview_prompts" and "or leave it out" in error.hint
    judged = config(pictures, output, identifier="rare", word="two")
    probe = NeverAsked("a fox", said)
    message = "^The verdict's prompt 'a <fox> on .*' has 33"
    error = refuse(judged, bundle, tmp_path / "run", DataError, message, probe=probe)
    assert error.field == "verdict_prompts" and "--no-verdict" in error.hint


def test_class_pictures_see_nothing_of_what_learns(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    """PiSSA's factors change the base by rounding alone; class pictures must not see even that."""
    drawn = []
    for init in ("kaiming", "pissa"):
        changes = {"init": init, "rank": 4, "targets": ("all",), "prior_weight": 1.0, "num_class_images": 2}
        list(learn(config(pictures, tmp_path / f"{init}.safetensors", **changes), bundle, tmp_path / init))
        drawn.append({file.name: file.read_bytes() for file in (tmp_path / init / "cache" / "class").iterdir()})
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2
    learner = Learner(config(pictures, Path("a.safetensors")), bundle, read_subject(pictures, "<fox>", "fox", bundle))
    before = bundle.tokenizer.placeholders
    try:
        with learner.set_aside():
            assert bundle.tokenizer.placeholders == {}
            assert not any(lora.is_attached for lora in learner.adapters.values())
        assert bundle.tokenizer.placeholders == before != {}
        assert all(lora.is_attached for lora in learner.adapters.values())
    finally:
        learner.close()


# ── a base that has learned before ───────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def fox_base(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A base that has learned a fox."""
    folder = tmp_path_factory.mktemp("fox")
    (folder / "photos").mkdir()
    draw_discs(folder / "photos", 1)
    list(learn(whole(folder / "photos", folder / "base"), bundle, folder / "run"))
    return load_bundle(folder / "base")


def test_a_second_subject_gets_a_rare_word_of_its_own(fox_base: Bundle, pictures: Path, tmp_path: Path) -> None:
    fox = fox_base.words[0].expansion
    cat = {"placeholder": "<cat>", "class_noun": "cat"}
    list(learn(whole(pictures, tmp_path / "both", **cat), fox_base, tmp_path / "run"))
    both = load_bundle(tmp_path / "both")
    assert [word.placeholder for word in both.words] == ["<fox>", "<cat>"]
    assert both.words[0].expansion == fox and both.words[1].expansion.endswith(" cat")
    assert both.words[1].expansion.split()[0] != fox.split()[0]
    samples = read_subject(pictures, "<cat>", "cat", fox_base)
    for seed in range(20):
        words = Words(whole(pictures, tmp_path / "x", **cat, seed=seed), fox_base, samples).words
        assert words[0].expansion.split()[0] != fox.split()[0]


def test_a_word_of_the_base_is_not_learned_again(fox_base: Bundle, pictures: Path, tmp_path: Path) -> None:
    for name in ("<fox>", "<FOX>"):
        chosen = config(pictures, tmp_path / "a.safetensors", placeholder=name)
        message = f"has learned the word '<fox>' already, as '{fox_base.words[0].expansion}'"
        error = refuse(chosen, fox_base, tmp_path / "run", ConfigError, message)
        assert error.field == "placeholder"
    other = SubjectConfig(folder=pictures, placeholder="<fox>", class_noun="fox")
    chosen = config(pictures, tmp_path / "a.safetensors", placeholder="<cat>", class_noun="cat", further=(other,))
    refuse(chosen, fox_base, tmp_path / "run", ConfigError, "has learned the word '<fox>' already")
    rare = fox_base.words[0].expansion.split()[0]
    chosen = whole(pictures, tmp_path / "cat", placeholder="<cat>", class_noun="cat", word=rare)
    error = refuse(chosen, fox_base, tmp_path / "run", ConfigError, f"The word '{rare}' stands for '<fox>' in base")
    assert error.field == "word"


def test_captions_may_say_words_of_the_base(fox_base: Bundle, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a <cat> beside a <fox>")
    samples = read_subject(tmp_path, "<cat>", "cat", fox_base)
    chosen = config(tmp_path, tmp_path / "a.safetensors", placeholder="<cat>", class_noun="cat", identifier="rare")
    words = Words(chosen, fox_base, samples)
    expected = fox_base.tokenizer.encode([f"a {words.words[0].expansion} beside a {fox_base.words[0].expansion}"])
    assert words._encode(samples.captions[0], 1).tolist() == expected.tolist()


def test_a_base_that_was_saved_again_may_be_learned_on(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    """Another folder with the same weights is no obstacle: only the folder that was loaded stays."""
    save_bundle(bundle, tmp_path / "copy")
    list(learn(whole(pictures, tmp_path / "copy"), bundle, tmp_path / "run"))
    assert load_bundle(tmp_path / "copy").words
