"""A benchmark with truth as it lies on disk: `benchmark.json` beside a folder for every subject."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sfumato.errors import DataError

FILE = "benchmark.json"
PICTURES, MOST_PICTURES = 4, 5
"""Pictures that a subject is learned from unless told, and at most ([ruiz2023]: 3 to 5, best with 4)."""
PromptKind = Literal["expression", "accessory", "garment", "property", "background", "place", "beside", "style"]
_HINT = "Build it again with 'sfumato data characters'."


def _inside(path: str) -> str:
    """Refuse a path that leads out of the folder."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError("needed a path within the folder")
    return path


def _with_gap(text: str) -> str:
    """Refuse a text without exactly one place for the subject's word."""
    if text.count("{}") != 1:
        raise ValueError("needed exactly one {} for the subject's word")
    return text


RelativePath = Annotated[str, AfterValidator(_inside)]
TextWithGap = Annotated[str, AfterValidator(_with_gap)]


class Entry(BaseModel):
    """Base of all entries: unknown keys are refused and values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingPicture(Entry):
    """A picture that the subject is learned from.

    Attributes:
        file: Where it lies; its caption lies beside it in a text file.
        caption: What it shows, with the class noun and without a placeholder.
        ground: What lies behind the subject, in words.
        size: Longer side of the subject as a share of the picture.
    """

    file: RelativePath
    caption: str = Field(min_length=1)
    ground: str
    size: float = Field(gt=0, le=1)


class Prompt(Entry):
    """A request whose answer is known.

    Attributes:
        name: Unique within the subject.
        kind: What differs from the training pictures.
        text: The request; `{}` stands where the subject's word goes.
        words: The same request for a base that knows no such word: the subject described.
        truths: The true pictures; where several are right (a place is a region), any of them.
        expects: What can be read off a right picture, such as `{"hair_color": "green"}`: attributes of drawn people,
            `ground` (colour of a plain ground) or `place`.
        unchanged: The subject without the change, otherwise as in the true picture.
    """

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    kind: PromptKind
    text: TextWithGap
    words: str = Field(min_length=1)
    truths: tuple[RelativePath, ...] = Field(min_length=1)
    expects: dict[str, str] = Field(default_factory=dict)
    unchanged: RelativePath


class Subject(Entry):
    """A drawn person or an icon that is in no training picture of the base.

    Attributes:
        name: Its folder; the pictures to learn from lie in `<name>/train`.
        kind: What it is.
        style: How captions call its style.
        class_noun: What it is, in the base's words.
        class_prompt: Asks for any one of its class, to see whether the class drifts.
        licence: Key into the licences of the benchmark.
        pictures: What it is learned from.
        prompts: What is asked for.
    """

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    kind: Literal["character", "icon"]
    style: str
    class_noun: str = Field(min_length=1)
    class_prompt: str = Field(min_length=1)
    licence: str
    pictures: tuple[TrainingPicture, ...] = Field(min_length=1)
    prompts: tuple[Prompt, ...] = Field(min_length=1)

    @property
    def folder(self) -> str:
        """Folder of the pictures that it is learned from."""
        return f"{self.name}/train"


class Licence(Entry):
    """Whose drawings the pictures are made of."""

    licence: str
    attribution: str


class Benchmark(Entry):
    """Everything that is known of a benchmark.

    Attributes:
        format: Version of this layout.
        seed: What it was drawn with.
        primer: Hash of the training set that its people and icons are held out from.
        subjects: Drawn people first, then icons.
        licences: By the key that the subjects name.
    """

    format: Literal[1] = 1
    seed: int
    primer: str
    subjects: tuple[Subject, ...] = Field(min_length=1)
    licences: dict[str, Licence]

    def to_json(self) -> str:
        """Return the content of `benchmark.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def open_benchmark(folder: Path) -> Benchmark:
    """Read a benchmark and see that every picture is there.

    Args:
        folder: The folder that `build_benchmark` wrote.

    Raises:
        DataError: The folder holds no benchmark, an entry is not as it should be, or a picture is missing.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} is no benchmark: {FILE} cannot be read.", field="folder", hint=_HINT) from error
    try:
        benchmark = Benchmark.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        raise DataError(
            f"{path}: {key} is {problem['input']!r}: {reason[0].lower()}{reason[1:]}.", field=key, hint=_HINT
        ) from error
    named = [picture.file for subject in benchmark.subjects for picture in subject.pictures]
    prompts = [prompt for subject in benchmark.subjects for prompt in subject.prompts]
    named += [file for prompt in prompts for file in (*prompt.truths, prompt.unchanged)]
    missing = [name for name in named if not (folder / name).is_file()]
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(named)} pictures, the first is {missing[0]}.", hint=_HINT
        )
    return benchmark
