"""Read a folder in the layout of google/dreambooth: a folder for every subject and one text file with everything else.

The text file is written for people: a list of subjects with their classes, then two lists of prompts under headings.
Nothing of it is taken over here; it is data of the user's folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sfumato.data.images import list_images, require_folder
from sfumato.errors import DataError

FILE = "prompts_and_classes.txt"
_HEADINGS = {"classes": "classes", "object prompts": "object", "live subject prompts": "live"}
_ROW = re.compile(r"(?P<name>[\w.-]+)\s*,\s*(?P<class_noun>[^,]+)")
_QUOTED = re.compile(r"""(?P<quote>['"])(?P<text>.*?)(?P=quote)\s*(\.format\(.*\))?\s*,?""")
_GAP = re.compile(r"\{0\} *\{1\}")
_HINT = "The file lies beside the subjects in the dataset of google/dreambooth."


@dataclass(frozen=True)
class DreamSubject:
    """One subject.

    Attributes:
        name: Its folder.
        folder: Where its pictures lie.
        class_noun: What it is.
        is_live: Whether it gets the prompts for live subjects.
        prompts: Texts; `{}` stands where the identifier and the class noun go.
    """

    name: str
    folder: Path
    class_noun: str
    is_live: bool
    prompts: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The same texts with the class noun alone."""
        return tuple(text.replace("{}", self.class_noun) for text in self.prompts)


def read_dreambooth(folder: Path, live: Collection[str]) -> list[DreamSubject]:
    """Read the subjects with their classes and prompts.

    Args:
        folder: The folder with the text file, or the one above it whose folder `dataset` has it.
        live: Classes whose subjects get the prompts for live subjects; the file does not say which they are.

    Returns:
        Subjects in the order of the file that have a folder here.

    Raises:
        DataError: The folder or the file is missing, the file lacks a part, a prompt has no place for the identifier or
            the class, or no subject has a folder.
        EmptyDataset: A subject has no pictures.
    """
    require_folder(folder)
    home = next((place for place in (folder, folder / "dataset") if (place / FILE).is_file()), None)
    if home is None:
        raise DataError(f"{folder} holds no {FILE}.", field="folder", hint=_HINT)
    classes, prompts = _parse(home / FILE)
    present = {name: noun for name, noun in classes.items() if (home / name).is_dir()}
    if not present:
        raise DataError(
            f"{home} has a folder for none of the {len(classes)} subjects of {FILE}, such as '{next(iter(classes))}'.",
            field="folder",
        )
    subjects = []
    for name, noun in present.items():
        list_images(home / name)
        is_live = noun in live
        texts = prompts["live" if is_live else "object"]
        subjects.append(
            DreamSubject(
                name,
                home / name,
                noun,
                is_live,
                tuple(_GAP.sub("{}", text) for text in texts),  # a placeholder brings its class noun along
            )
        )
    return subjects


def _parse(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Read classes and the two lists of prompts."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text: {error}.", hint=_HINT) from error
    part = ""
    classes: dict[str, str] = {}
    prompts: dict[str, list[str]] = {"object": [], "live": []}
    for number, line in enumerate((line.strip() for line in lines), start=1):
        part = _HEADINGS.get(line.lower().rstrip(":"), part)
        row, quoted = _ROW.fullmatch(line), _QUOTED.fullmatch(line)
        if part == "classes" and row and line.replace(" ", "") != "subject_name,class":
            classes[row["name"]] = row["class_noun"].strip()
        elif part in prompts and quoted:
            prompts[part].append(_checked(quoted["text"], path, number))
    for name, found in (
        ("Classes", classes),
        ("Object Prompts", prompts["object"]),
        ("Live Subject Prompts", prompts["live"]),
    ):
        if not found:
            raise DataError(f"{path} has nothing below a heading '{name}'.", hint=_HINT)
    return classes, prompts


def _checked(text: str, path: Path, number: int) -> str:
    """Refuse a prompt without one place for the identifier and, right behind, one for the class."""
    if len(_GAP.findall(text)) != 1 or text.count("{") != 2:
        raise DataError(
            f"{path}, line {number}: the prompt {text!r} needs '{{0}} {{1}}' once, for the identifier and the class.",
            hint=_HINT,
        )
    return text
