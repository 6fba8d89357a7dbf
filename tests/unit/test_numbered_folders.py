"""Numbered folders: kohya's word for a subject is no caption, and several subjects are not learned as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from broken_folders import photo
from sfumato.data.caption_checks import check_captions, read_captions
from sfumato.data.listing import list_entries
from sfumato.data.numbered_folders import Naming, check_subjects
from sfumato.errors import DataError
from sfumato.training.subject import plain_caption, subject_caption, subject_entries

SUBJECTS = "numbered folders of more than one subject, it seems"


def tree(folder: Path, *names: str) -> Path:
    """Write folders with a picture each."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        photo(number, 8, 8).save(folder / name / "a.png")
    return folder


def learned(folder: Path, placeholder: str = "<rex>", class_noun: str = "dog") -> dict[str, str]:
    """Return the caption that each picture is learned with, by the name of its folder."""
    plain = plain_caption(placeholder)
    return {
        entry.path.parent.name: subject_caption(entry.caption(plain), placeholder, class_noun)
        for entry in subject_entries(folder, placeholder, class_noun)
    }


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("10_sks dog", "a <rex>"),
        ("10_SKS Dog", "a <rex>"),
        ("10_sks_dog", "a <rex>"),
        ("10_ohwx, dog", "a <rex>"),
        ("10_dog", "a <rex>"),
        ("10_a dog asleep", "a <rex> asleep"),
        ("10_statue", "a <rex>, statue"),
        ("10_sks hotdog", "a <rex>, sks hotdog"),
        ("10_sks dogs", "a <rex>, sks dogs"),
        ("10_my <rex>", "my <rex>"),
    ],
)
def test_a_name_that_ends_in_the_class_is_no_caption(name: str, caption: str, tmp_path: Path) -> None:
    assert learned(tree(tmp_path, name)) == {name: caption}


def test_a_class_of_two_words(tmp_path: Path) -> None:
    folder = tree(tmp_path, "10_sks golden retriever", "5_sks_Golden_Retriever", "2_a golden retriever in snow")
    assert learned(folder, class_noun="golden retriever") == {
        "10_sks golden retriever": "a <rex>",
        "5_sks_Golden_Retriever": "a <rex>",
        "2_a golden retriever in snow": "a <rex> in snow",
    }


def test_captions_of_pictures_come_first_and_repeats_stay(tmp_path: Path) -> None:
    folder = tree(tmp_path, "10_sks dog", "3_dog in snow")
    (folder / "10_sks dog" / "a.txt").write_text("asleep")
    assert learned(folder) == {"10_sks dog": "a <rex>, asleep", "3_dog in snow": "<rex> in snow"}
    assert [entry.repeats for entry in subject_entries(folder, "<rex>", "dog")] == [10, 3]


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("10_sks dog", "10_ohwx man"), "'10_ohwx man' does not name the class 'dog', '10_sks dog' does"),
        (("5_sks dog", "10_sks cat"), "'10_sks cat' does not name the class 'dog', '5_sks dog' does"),
        (("10_sks man", "10_ohwx woman"), "neither '10_ohwx woman' nor '10_sks man' names the class 'dog'"),
        (("1_dog", "2_dogs", "3_cat"), "'2_dogs' does not name the class 'dog', '1_dog' does"),
    ],
)
def test_several_subjects_are_refused(names: tuple[str, ...], what: str, tmp_path: Path) -> None:
    folder = tree(tmp_path, *names)
    with pytest.raises(DataError) as caught:
        subject_entries(folder, "<rex>", "dog")
    assert caught.value.message == f"{folder}: {SUBJECTS}: {what}."
    assert caught.value.field == "folder" and "--also FOLDER:WORD:NOUN" in str(caught.value.hint)
    assert len(subject_entries(folder / names[0], "<rex>", "dog")) == 1, "each folder is one subject by itself"
    captions = {entry.caption("a picture") for entry in subject_entries(folder, "<ink>", "dog", is_style=True)}
    assert captions == {name.partition("_")[2] for name in names}, "a style may be seen in anything"


def test_folders_whose_captions_or_names_say_the_subject_are_not_refused(tmp_path: Path) -> None:
    folder = tree(tmp_path, "10_sks dog", "5_beach", "2_<REX> asleep")
    (folder / "5_beach" / "a.caption").write_text("a dog on a beach")
    assert learned(folder) == {
        "10_sks dog": "a <rex>",
        "5_beach": "a <rex> on a beach",
        "2_<REX> asleep": "<REX> asleep",
    }
    photo(9, 8, 8).save(folder / "5_beach" / "b.png")
    with pytest.raises(DataError, match="'5_beach' does not name the class 'dog', '10_sks dog' does"):
        subject_entries(folder, "<rex>", "dog")


def test_pictures_beside_one_numbered_folder_are_of_its_subject(tmp_path: Path) -> None:
    folder = tree(tmp_path, "3_asleep")
    photo(9, 8, 8).save(folder / "b.png")
    assert [entry.name for entry in subject_entries(folder, "<rex>", "dog")] == ["b.png", "3_asleep/a.png"]


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("10_sks dog", "10_ohwx man"), "no noun stands in each of '10_ohwx man', '10_sks dog'"),
        (("10_photo of sks dog", "5_my man"), "no noun stands in each of '10_photo of sks dog', '5_my man'"),
        (("10_sks dog", "10_sks man"), "no noun stands in each of '10_sks dog', '10_sks man'"),
        (("1_a", "2_b", "3_c", "4_d"), "no noun stands in each of '1_a', '2_b', '3_c' and 1 more"),
        (("10_sks dog", "3_my_DOG in snow"), None),
        (("10_ohwx man",), None),
    ],
)
def test_the_doctor_knows_no_class_and_looks_for_a_common_noun(
    names: tuple[str, ...], found: str | None, tmp_path: Path
) -> None:
    entries = list_entries(tree(tmp_path, *names))
    findings = check_subjects(tmp_path, entries, read_captions(entries)[0], Naming())
    assert [(item.kind, item.path, item.found) for item in findings] == (
        [] if found is None else [("several-subjects", tmp_path, found)]
    )


def test_the_doctor_takes_captions_for_names_too(tmp_path: Path) -> None:
    folder = tree(tmp_path, "10_sks dog", "5_beach")
    (folder / "5_beach" / "a.txt").write_text("a dog on a beach")
    entries = list_entries(folder)
    assert check_subjects(folder, entries, read_captions(entries)[0], Naming()) == []


def findings(folder: Path, naming: Naming) -> list[str]:
    """Return what the doctor says of the subjects of a folder."""
    entries = list_entries(folder)
    return [one.found for one in check_subjects(folder, entries, read_captions(entries)[0], naming)]


def test_with_word_and_noun_the_doctor_says_what_the_lesson_says(tmp_path: Path) -> None:
    folder = tree(tmp_path / "a", "10_rex indoors", "10_rex outdoors")
    assert findings(folder, Naming()) == []
    (found,) = findings(folder, Naming("<rex>", "dog"))
    with pytest.raises(DataError, match=found):
        subject_entries(folder, "<rex>", "dog")
    assert findings(folder, Naming("<rex>", "dog", is_style=True)) == []
    other = tree(tmp_path / "b", "10_sks", "20_sks closeup")
    assert len(findings(other, Naming())) == 1
    assert findings(other, Naming("sks", "dog")) == [] != subject_entries(other, "sks", "dog")


@pytest.mark.parametrize(
    ("folder", "caption", "told"),
    [
        ("10_zkz girl", "zkz girl, outdoors", "'zkz'"),
        ("10_ZKZ girl", "a girl zkz, outdoors", "'zkz'"),
        ("10_sks girl", "ohwx girl, outdoors", "'ohwx'"),
        ("10_red girl", "red girl, outdoors", None),
        ("10_bmw car", "a bmw car, outdoors", None),
        ("10_my zkz", "zkz, outdoors", None),
        ("10_zkz girl", "a girl, outdoors", None),
    ],
)
def test_a_word_that_folders_teach_is_named_in_captions(
    folder: str, caption: str, told: str | None, tmp_path: Path
) -> None:
    place = tree(tmp_path, folder)
    for picture in place.rglob("*.png"):
        picture.with_suffix(".txt").write_text(caption)
    entries = list_entries(place)
    found = check_captions(entries, read_captions(entries)[0], lambda text: None, Naming("<me>"))
    assert [one.found.split()[0] for one in found if one.kind == "caption-other-word"] == ([told] if told else [])


@pytest.mark.parametrize(
    ("folder", "naming", "told"),
    [
        ("10_sks dog", Naming("<rex>", "dog"), []),
        ("10_sks dogs", Naming("<rex>", "dog"), ["'sks'"]),
        ("10_sks", Naming("<rex>", "dog"), ["'sks'"]),
        ("10_sks style", Naming("<ink>", "drawing", is_style=True), ["'sks'"]),
    ],
)
def test_names_of_folders_that_are_learned_as_captions_hold_no_other_word(
    folder: str, naming: Naming, told: list[str], tmp_path: Path
) -> None:
    entries = list_entries(tree(tmp_path, folder))
    found = check_captions(entries, read_captions(entries)[0], lambda text: None, naming)
    assert [one.found.split()[0] for one in found if one.kind == "caption-other-word"] == told
