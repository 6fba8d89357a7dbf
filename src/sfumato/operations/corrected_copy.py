"""Write a folder of pictures again as it should be; the originals stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from sfumato.data.caption_checks import decode_caption
from sfumato.data.doctor import Examined
from sfumato.data.images import MASK_ENDINGS, is_mask, load_image
from sfumato.data.listing import Entry
from sfumato.events import Artifact, Notice, Progress
from sfumato.formats.atomic import atomic_folder
from sfumato.operations.stream import Events


def write_copy(pictures: Sequence[Examined], target: Path) -> Events:
    """Write upright 8-bit RGB pictures on white, each once, their masks, and captions in UTF-8.

    Numbered folders keep their names; pictures in other folders, which only `metadata.jsonl` makes part of the data,
    lie in the copy itself. What a camera or a program wrote into the file besides the picture, such as place and time,
    is not copied.

    Args:
        pictures: The pictures that can be read.
        target: A folder that does not exist; it appears when all is written.

    Yields:
        Progress, a notice, and an `Artifact` of kind `dataset`.

    Raises:
        StorageError: The disk is full or the place cannot be written.
    """
    kept = [picture for picture in pictures if picture.same_as is None]
    taken: set[str] = set()
    with atomic_folder(target) as stage:
        for number, picture in enumerate(kept, 1):
            stem = _free_stem(_place(picture.entry), taken)
            path = stage / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(load_image(picture.entry.path).rgb).save(path)
            caption = _caption(picture)
            if caption:
                (stage / f"{stem}.txt").write_text(caption, encoding="utf-8", newline="\n")
            if picture.mask is not None:
                mask = load_image(picture.mask).rgb[..., 0]
                Image.fromarray(mask).save(stage / f"{stem}{MASK_ENDINGS[0]}")
            yield Progress("writing", number, len(kept))
    left_out = len(pictures) - len(kept)
    yield Notice(0, f"Pictures copied: {len(kept)}; duplicates left out: {left_out}. Unreadable files are not copied.")
    yield Artifact(target, "dataset", {"pictures": len(kept), "left_out": left_out})


def _caption(picture: Examined) -> str:
    """Return the caption that is written beside the copy; empty where the folder's name says it all."""
    path = picture.entry.path.with_suffix(".txt")
    text = decode_caption(path.read_bytes())[0] if path.is_file() else ""
    if text.strip():
        return "\n".join(text.splitlines()) + "\n"
    return f"{picture.entry.metadata}\n" if picture.entry.metadata else ""


def _place(entry: Entry) -> str:
    """Name a copy so that it is read without `metadata.jsonl`: in its numbered folder or none, and not hidden."""
    parts = PurePosixPath(entry.name).parts
    name = parts[-1].lstrip(".")
    return f"{parts[0]}/{name}" if entry.folder_caption else name


def _free_stem(name: str, taken: set[str]) -> str:
    """Name a copy like the original; `a.jpg` beside `a.png` becomes `a-jpg`, with a number where that is taken too.

    The name of a mask is taken as well: `a.mask.jpg` is a picture, `a.mask.png` would be none.
    """
    path = PurePosixPath(name)
    plain = path.with_suffix("").as_posix()
    other = f"{plain}-{path.suffix[1:].lower()}"
    number, stem = 1, plain
    while stem.lower() in taken or is_mask(Path(f"{stem}.png")):
        stem = other if number == 1 else f"{other}-{number}"
        number += 1
    taken.add(stem.lower())
    return stem
