"""Words that learn: vectors that join later, words for single pictures, styles, several subjects in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sfumato.errors import ConfigError, EmptyDataset
from sfumato.events import Progress
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import load_concept
from sfumato.operations.learn import parse_subject
from sfumato.pipeline import Pipeline
from sfumato.training.in_use import check_in_use
from sfumato.training.learn_config import LearnConfig, SubjectConfig
from sfumato.training.learner import Learner
from sfumato.training.loop import LoopConfig
from sfumato.training.optim import OptimConfig
from sfumato.training.personalise import learn
from sfumato.training.sample_set import AnySamples
from sfumato.training.subject import (
    Samples,
    class_caption,
    class_prompts,
    joined,
    read_subject,
    style_caption,
)
from sfumato.training.words import Words, check_words
from tiny import tiny_bundle

pytestmark = pytest.mark.usefixtures("base_stays")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return tiny_bundle()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two pictures of a red thing, three of a blue one."""
    made = []
    for name, colour, count in (("fox", (200, 40, 30), 2), ("cat", (30, 40, 200), 3)):
        folder = tmp_path_factory.mktemp(name)
        for index in range(count):
            Image.new("RGB", (32, 32), tuple(min(255, c + 20 * index) for c in colour)).save(folder / f"{index}.png")
        made.append(folder)
    return made[0], made[1]


def config(folder: Path, output: Path, **changes: Any) -> LearnConfig:
    loop = LoopConfig(**{"steps": 6, "log_every": 1, "tensorboard": False, **changes.pop("loop", {})})
    values = {"folder": folder, "placeholder": "<fox>", "class_noun": "fox", "output": output, "batch_size": 2}
    return LearnConfig(**{**values, "method": "textual-inversion", "loop": loop, **changes})


def subject(bundle: Bundle, folder: Path) -> Samples:
    return read_subject(folder, "<fox>", "fox", bundle)


def test_vectors_join_one_after_another(bundle: Bundle, folders: tuple[Path, Path], tmp_path: Path) -> None:
    chosen = config(folders[0], tmp_path / "fox.safetensors", num_vectors=3, progressive_steps=4, loop={"steps": 9})
    learner = Learner(chosen, bundle, subject(bundle, folders[0]))
    try:
        words = learner.words
        assert [words.active(step) for step in (0, 3, 4, 7, 8, 99)] == [1, 1, 2, 2, 3, 3]
        assert words.rows is not None
        for step, used in ((0, 1), (4, 2), (8, 3)):
            words.rows.zero_grad()
            words.context(["a <fox>"], step, text_learns=False).square().sum().backward()
            grad = words.rows.rows.grad
            assert grad is not None
            assert [bool(row.any()) for row in grad] == [number < used for number in range(3)]
        first = bundle.tokenizer.placeholders["<fox>"][0]
        one, two = (words._encode("a <fox> asleep", used)[0].tolist() for used in (1, 2))
        assert one[:4] == [two[0], two[1], first, two[4]] and two[2:4] == [first, first + 1]
        assert len(one) == len(two)
        kept = [words.learned(step)[0] for step in (4, 5, 8, 9)]  # the third joins at step 8
        assert [None if rows is None else len(rows) for rows in kept] == [1, 2, 2, 3]
    finally:
        learner.close()
    list(learn(chosen, bundle, tmp_path / "run"))
    rows = load_concept(chosen.output).main.rows
    assert rows is not None and len(rows) == 3


def test_each_picture_has_a_word_that_is_not_kept(bundle: Bundle, folders: tuple[Path, Path], tmp_path: Path) -> None:
    chosen = config(folders[1], tmp_path / "fox.safetensors", per_image_words=True, loop={"steps": 12})
    samples = subject(bundle, folders[1])
    words = Words(chosen, bundle, samples)
    try:
        said = [words.captions(samples, [row], draw)[0] for draw in range(200) for row in range(3)]
        own = [f"a <fox> with <picture-{row + 1}>" for row in range(3)]
        assert set(said) == {"a <fox>", *own}
        assert all(text in ("a <fox>", own[place % 3]) for place, text in enumerate(said))
        assert 0.18 < 1 - said.count("a <fox>") / len(said) < 0.32
        assert words.rows is not None and len(words.rows.rows) == 1 + 3
    finally:
        words.detach()
    list(learn(chosen, bundle, tmp_path / "run"))
    rows = load_concept(chosen.output).main.rows
    assert rows is not None and len(rows) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a <fox> fox in snow", "a <fox> fox with <picture-1> in snow"),
        ("a <FOX> in snow", "a <FOX> with <picture-1> in snow"),
        ("a picture, <fox> style", "a picture, <fox> style with <picture-1>"),
        ("something in <fox> style", "something in <fox> style with <picture-1>"),
        ("a <fox> foxglove", "a <fox> with <picture-1> foxglove"),
        ("<fox>, a fox and <fox>", "<fox> with <picture-1>, a fox and <fox> with <picture-1>"),
    ],
)
def test_the_word_of_a_picture_stands_behind_the_noun(
    text: str, said: str, bundle: Bundle, folders: tuple[Path, Path]
) -> None:
    words = Words(config(folders[0], Path("x"), per_image_words=True), bundle, subject(bundle, folders[0]))
    try:
        assert words._with_own_word(text, 0) == said
    finally:
        words.detach()


def test_a_style_is_named_at_the_end_and_stands_for_itself(
    bundle: Bundle, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    assert style_caption("a dog asleep", "<ink>") == "a dog asleep, <ink> style"
    assert style_caption("in <ink> style", "<ink>") == "in <ink> style"
    chosen = config(
        folders[0],
        tmp_path / "ink.safetensors",
        method="lora",
        kind="style",
        placeholder="<ink>",
        class_noun="flat",
        prior_weight=1.0,
        num_class_images=2,
        rank=2,
    )
    list(learn(chosen, bundle, tmp_path / "run"))
    concept = load_concept(chosen.output)
    assert concept.main.expansion == "<ink>"
    pipeline = Pipeline(bundle)
    with pipeline.using((concept, 1.0)):
        assert pipeline.expand("a dog, <ink> style") == "a dog, <ink> style"


@pytest.mark.parametrize(
    ("caption", "is_style", "without"),
    [
        ("a <FOX> asleep", False, "a red fox asleep"),
        ("a <fox> red fox, <fox>", False, "a red fox, red fox"),
        ("a dog asleep, <fox> style", True, "a dog asleep"),
        ("a dog in the <fox> style, at night", True, "a dog, at night"),
        ("in <fox> style", True, "a picture"),
        ("a house in the style of <fox>", True, "a house"),
        ("a house, drawn in the manner of <fox>, at night", True, "a house, at night"),
        ("a <fox> drawing of a house", True, "a drawing of a house"),
    ],
)
def test_captions_without_the_subject(caption: str, is_style: bool, without: str) -> None:
    assert class_caption(caption, "<fox>", "red fox", is_style=is_style) == without


def test_two_subjects_share_factors_and_have_words_of_their_own(
    bundle: Bundle, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    other = SubjectConfig(folder=folders[1], placeholder="<cat>", class_noun="cat")
    chosen = config(
        folders[0],
        tmp_path / "both.safetensors",
        method="pivotal",
        further=(other,),
        num_vectors=2,
        rank=2,
        prior_weight=0.5,
        num_class_images=2,
        optim=OptimConfig(lr=1e-2, weight_decay=0.0),
    )
    events = list(learn(chosen, bundle, tmp_path / "run"))
    assert [e.done for e in events if isinstance(e, Progress) and e.phase == "class pictures"] == [2, 2]
    concept = load_concept(chosen.output)
    assert [(w.placeholder, w.expansion) for w in concept.words] == [("<fox>", "<fox> fox"), ("<cat>", "<cat> cat")]
    assert all(word.rows is not None and word.rows.shape == (2, 32) for word in concept.words)
    assert concept.lineage["pictures"] == ["0.png", "1.png", "0.png", "1.png", "2.png"]
    pipeline = Pipeline(bundle)
    plain = pipeline.context("a fox and a cat")
    with pipeline.using((concept, 1.0)):
        assert pipeline.expand("a <fox> and a <cat>") == "a <fox> fox and a <cat> cat"
        assert not torch.equal(pipeline.context("a <fox> and a <cat>"), plain)
        with (
            pytest.raises(ConfigError, match="Two concepts have the placeholder '<fox>'"),
            pipeline.using((concept, 1.0)),
        ):
            pass
    with pytest.raises(EmptyDataset):
        gone = other.model_copy(update={"folder": tmp_path / "run" / "checkpoints"})
        list(learn(chosen.model_copy(update={"further": (gone,)}), bundle, tmp_path / "again"))


def test_rare_words_of_two_subjects_differ(bundle: Bundle, folders: tuple[Path, Path]) -> None:
    other = SubjectConfig(folder=folders[1], placeholder="<cat>", class_noun="fox")
    chosen = config(folders[0], Path("x.safetensors"), method="lora", identifier="rare", further=(other,))
    samples = joined([subject(bundle, folders[0]), read_subject(folders[1], "<cat>", "fox", bundle)])
    assert samples.words == ("<fox>",) * 2 + ("<cat>",) * 3
    first, second = Words(chosen, bundle, samples).words
    assert first.expansion.endswith(" fox") and second.expansion.endswith(" fox")
    assert first.expansion != second.expansion


def test_no_two_subjects_get_one_rare_word(bundle: Bundle, folders: tuple[Path, Path]) -> None:
    nouns = ("cat", "dog", "owl")
    others = tuple(SubjectConfig(folder=folders[1], placeholder=f"<{noun}>", class_noun=noun) for noun in nouns)
    samples = joined([subject(bundle, folders[0]), *(read_subject(folders[1], f"<{n}>", n, bundle) for n in nouns)])
    for seed in range(40):
        chosen = config(folders[0], Path("x.safetensors"), method="lora", identifier="rare", further=others, seed=seed)
        said = [word.expansion.split(" ")[0] for word in Words(chosen, bundle, samples).words]
        assert len(set(said)) == 4


def test_a_word_can_stand_without_the_class_noun(bundle: Bundle, folders: tuple[Path, Path]) -> None:
    samples = subject(bundle, folders[0])
    for method in ("lora", "dreambooth"):
        found = []
        for says in (True, False):
            words = Words(config(folders[0], Path("x"), method=method, say_class=says), bundle, samples)
            found.append(words.words[0].expansion)
            words.detach()
        assert found[0] == f"{found[1]} fox" and found[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"progressive_steps": 5}, "progressive_steps is 5 but num_vectors is 1"),
        ({"method": "lora", "identifier": "rare", "per_image_words": True}, "per_image_words is on but identifier is "),
        ({"say_class": False}, "say_class is off but the method 'textual-inversion' says no class noun anyway"),
        ({"method": "lora", "kind": "style", "say_class": False}, "say_class is off but a style says no class noun"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_in_use(config(Path("photos"), Path("x.safetensors"), **changes))


def test_one_word_for_two_subjects_is_refused(bundle: Bundle, folders: tuple[Path, Path]) -> None:
    for name in ("<fox>", "<Fox>"):
        further = (SubjectConfig(folder=folders[1], placeholder=name, class_noun="cat"),)
        with pytest.raises(ConfigError, match=f"'{name}' stands for two subjects; capitals do not count") as caught:
            Words(config(folders[0], Path("x"), further=further), bundle, subject(bundle, folders[0]))
        assert caught.value.field == "further"


def worded(*words: tuple[str, str]) -> LearnConfig:
    """A lesson of subjects with these words and class nouns."""
    (word, noun), *others = words
    further = tuple(SubjectConfig(folder=Path("p"), placeholder=other, class_noun=of) for other, of in others)
    return config(Path("p"), Path("x"), method="dreambooth", placeholder=word, class_noun=noun, further=further)


@pytest.mark.parametrize(
    ("words", "message", "field"),
    [
        ([("dog", "dog")], "The word 'dog' stands in the class noun 'dog', and would be read there too", "placeholder"),
        ([("Robot", "toy robot")], "The word 'Robot' stands in the class noun 'toy robot'", "placeholder"),
        ([("toy", "dog"), ("<cat>", "toy cat")], "The word 'toy' stands in the class noun 'toy cat'", "placeholder"),
        ([("<fox>", "fox"), ("fox", "cat")], "The word 'fox' stands in the class noun 'fox'", "further"),
        ([("<fox>", "fur"), ("fox", "cat")], "The word 'fox' stands in '<fox>', the word of another", "further"),
    ],
)
def test_a_word_that_stands_in_another_is_refused(words: list[tuple[str, str]], message: str, field: str) -> None:
    """It would be written out there: the class would be learned as the subject."""
    with pytest.raises(ConfigError, match=message) as caught:
        check_words(worded(*words))
    assert caught.value.field == field and "such as '<my-" in str(caught.value.hint)


@pytest.mark.parametrize("words", [[("sks", "dog")], [("<dog>", "dog")], [("hot", "hotdog"), ("<dog>", "dog_2")]])
def test_words_beside_their_nouns_may_stay(words: list[tuple[str, str]]) -> None:
    check_words(worded(*words))


def with_cat(folders: tuple[Path, Path], bundle: Bundle, **options: Any) -> tuple[SubjectConfig, AnySamples]:
    """A second subject, and the pictures of both."""
    cat = SubjectConfig(folder=folders[1], placeholder="<cat>", class_noun="cat")
    samples = [read_subject(folders[0], "<fox>", "fox", bundle, **options)]
    return cat, joined([*samples, read_subject(folders[1], "<cat>", "cat", bundle, **options)])


def test_a_file_and_its_mirrored_copy_share_a_word(bundle: Bundle, folders: tuple[Path, Path]) -> None:
    cat, samples = with_cat(folders, bundle, flip=True)
    assert samples.names[:2] == ("0.png", "0.png (mirrored)") and samples.names[4] == "0.png"
    words = Words(config(folders[0], Path("x"), further=(cat,), per_image_words=True, flip=True), bundle, samples)
    try:
        said = [words._with_own_word(samples.captions[row], row) for row in range(len(samples))]
        assert said[:4] == [f"a <fox> with <picture-{number}>" for number in (1, 1, 2, 2)]
        assert said[4:] == [f"a <cat> with <picture-{number}>" for number in (3, 3, 4, 4, 5, 5)]
        assert words.rows is not None and len(words.rows.rows) == 2 + 5
    finally:
        words.detach()


def test_the_anchor_holds_the_vectors_that_are_in_use(bundle: Bundle, folders: tuple[Path, Path]) -> None:
    cat, samples = with_cat(folders, bundle)
    words_of = {"num_vectors": 3, "progressive_steps": 4, "per_image_words": True, "anchor_weight": 1.0}
    words = Words(config(folders[0], Path("x"), further=(cat,), **words_of), bundle, samples)
    unit = bundle.text_encoder.text_model.embeddings.token_embedding.weight.detach().var()
    try:
        assert words.rows is not None
        with torch.no_grad():
            words.rows.rows[0] += 1  # the first vectors of both
            words.rows.rows[3] += 2
            words.rows.rows[6:] += 100  # those of single pictures
        for step, used in ((0, 1), (4, 2), (8, 3)):
            words.context(["a <fox>"], step, text_learns=False)
            found = words.anchor()
            assert found is not None
            assert float(found.detach()) == pytest.approx(float((1 + 4) / (2 * used) / unit), rel=1e-4)
            (grad,) = torch.autograd.grad(found, [words.rows.rows])
            assert [bool(row.any()) for row in grad] == [number in (0, 3) for number in range(11)]
    finally:
        words.detach()


@pytest.mark.parametrize(
    ("is_style", "asked"),
    [(False, ["a fox beside a red cat", "a fox"]), (True, ["a dog", "a picture"])],
)
def test_class_prompts_say_the_noun_of_every_subject(
    bundle: Bundle, tmp_path: Path, is_style: bool, asked: list[str]
) -> None:
    for number in range(2):
        Image.new("RGB", (32, 32), (200, 40 * number, 30)).save(tmp_path / f"{number}.png")
    caption = "a dog, <fox> style, <cat> style" if is_style else "a <fox> beside a <cat> red cat"
    (tmp_path / "0.txt").write_text(caption)
    fox = SubjectConfig(folder=tmp_path, placeholder="<fox>", class_noun="fox")
    cat = SubjectConfig(folder=tmp_path, placeholder="<cat>", class_noun="red cat")
    samples = read_subject(tmp_path, "<fox>", "fox", bundle, is_style=is_style)
    assert list(class_prompts(fox, samples, (fox, cat), is_style=is_style)) == asked


def test_subjects_on_the_command_line() -> None:
    assert parse_subject("C:/photos/cat:<cat>:cat") == SubjectConfig(
        folder=Path("C:/photos/cat"), placeholder="<cat>", class_noun="cat"
    )
    for wrong in ("photos", "photos:<cat>", "photos::cat"):
        with pytest.raises(ConfigError, match=f"given '{wrong}'; needed FOLDER:WORD:NOUN"):
            parse_subject(wrong)
