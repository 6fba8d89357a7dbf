"""Folders in the layout of google/dreambooth: classes, the two lists of prompts, and what may be wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from sfumato.data.dreambooth_folder import FILE, read_dreambooth
from sfumato.errors import DataError, EmptyDataset
from sfumato.evaluation.dreambench import dream_cases

TEXT = """Classes

subject_name,class
rex,dog
old_boot,boot
plush2,stuffed animal

Prompts

Object Prompts

prompt_list = [
'a {0} {1} under a tree'.format(unique_token, class_token),
"a shiny {0} {1}".format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} with a scarf'.format(unique_token, class_token),
]
"""


def write(folder: Path, text: str = TEXT, subjects: tuple[str, ...] = ("rex", "old_boot", "plush2")) -> Path:
    for name in subjects:
        (folder / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 32), (200, 20 * number, 30)).save(folder / name / f"{number:02}.jpg")
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_text(text)
    return folder


def test_subjects_classes_and_prompts(tmp_path: Path) -> None:
    write(tmp_path / "dataset")
    rex, boot, plush = read_dreambooth(tmp_path, ("cat", "dog"))
    assert (rex.name, rex.class_noun, rex.is_live, rex.prompts) == ("rex", "dog", True, ("a {} with a scarf",))
    assert boot.prompts == ("a {} under a tree", "a shiny {}")
    assert plush.words == ("a stuffed animal under a tree", "a shiny stuffed animal")
    assert rex.folder == tmp_path / "dataset" / "rex"
    cases = dream_cases([rex, plush])
    assert [case.kind for case in cases] == ["live subjects", "objects"]
    assert cases[1].class_prompt == "a stuffed animal"
    assert [asked.name for asked in cases[1].asked] == ["prompt-00", "prompt-01"]


def test_which_subjects_are_live_is_said_by_the_user(tmp_path: Path) -> None:
    write(tmp_path, subjects=("old_boot",))
    (boot,) = read_dreambooth(tmp_path, ("boot",))
    assert boot.is_live and boot.prompts == ("a {} with a scarf",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace("Live Subject Prompts", "More"), "has nothing below a heading 'Live Subject Prompts'"),
        (TEXT.replace("Classes", "Things"), "has nothing below a heading 'Classes'"),
        (
            TEXT.replace("shiny {0} {1}", "shiny {1} {0}"),
            r"line 14: the prompt 'a shiny \{1\} \{0\}' needs '\{0\} \{1\}'",
        ),
        (TEXT.replace("shiny {0} {1}", "shiny {0}"), r"line 14: the prompt 'a shiny \{0\}' needs"),
        (
            TEXT.replace("rex,", "bello,").replace("old_", "new_").replace("plush2", "x"),
            "for none of the 3 subjects of",
        ),
    ],
)
def test_files_that_say_too_little(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    with pytest.raises(DataError, match=message):
        read_dreambooth(tmp_path, ("dog",))


def test_folders_that_are_not_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} holds no {FILE}. The file lies beside the subjects"):
        read_dreambooth(tmp_path, ())
    with pytest.raises(DataError, match="nowhere does not exist"):
        read_dreambooth(tmp_path / "nowhere", ())
    write(tmp_path, subjects=())
    (tmp_path / "rex").mkdir()
    with pytest.raises(EmptyDataset, match="rex holds no pictures"):
        read_dreambooth(tmp_path, ())
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=f"{FILE} cannot be read as UTF-8 text"):
        read_dreambooth(tmp_path, ())
