"""Write a folder of pictures again as it should be; the originals stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sfumato.data.caption_checks import decode_caption
from sfumato.data.caption_files import SUFFIXES
from sfumato.data.doctor import Examined
from sfumato.data.images import MASK_ENDINGS, Picture, is_mask, load_image
from sfumato.data.listing import Entry
from sfumato.data.masks import load_mask
from sfumato.events import Artifact, Notice, Progress
from sfumato.formats.atomic import atomic_folder
from sfumato.operations.stream import Events


def write_copy(pictures: Sequence[Examined], target: Path) -> Events:
    """Write upright 8-bit RGB pictures on white, each once, their masks, and captions in UTF-8.

    The alpha of a see-through picture without a mask file becomes its mask, so that learning from the copy with masks
    from files is as learning from the originals with masks from alpha. Beside such pictures those whose alpha is all
    solid get a mask too.

    Numbered folders keep their names; pictures in other folders, which only `metadata.jsonl` makes part of the data,
    lie in the copy itself. What a camera or a program wrote into the file besides the picture, such as place and time,
    is not copied.

    Args:
        pictures: The pictures that can be read.
        target: A folder that does not exist; it appears when all is written.

    Yields:
        Progress, notices, and an `Artifact` of kind `dataset`.

    Raises:
        StorageError: The disk is full or the place cannot be written.
    """
    kept = [picture for picture in pictures if picture.same_as is None]
    takes_alpha = any(picture.facts.is_see_through and not picture.has_mask_file for picture in kept)
    taken: set[str] = set()
    made, lacking = 0, 0
    with atomic_folder(target) as stage:
        for number, picture in enumerate(kept, 1):
            stem = _free_stem(_place(picture.entry), taken)
            path = stage / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            loaded = load_image(picture.entry.path)
            Image.fromarray(loaded.rgb).save(path)
            for suffix, caption in _captions(picture):
                (stage / f"{stem}{suffix}").write_text(caption, encoding="utf-8", newline="\n")
            mask = _mask(picture, loaded, takes_alpha=takes_alpha)
            if mask is not None:
                Image.fromarray(mask).save(stage / f"{stem}{MASK_ENDINGS[0]}")
            made += mask is not None and picture.mask is None
            lacking += mask is None
            yield Progress("writing", number, len(kept))
    left_out = len(pictures) - len(kept)
    masks = sum(picture.has_mask_file and picture.mask is None for picture in kept)
    yield Notice(0, f"Pictures copied: {len(kept)}; duplicates left out: {left_out}. Unreadable files are not copied.")
    if masks:
        yield Notice(0, f"Masks that cannot be used and were not copied: {masks}.")
    if made:
        needs = f" Each picture needs a mask then; {lacking} of {len(kept)} have none." if lacking else ""
        yield Notice(0, f"Masks made from alpha channels: {made}. Learn from the copy with --masks file.{needs}")
    yield Artifact(target, "dataset", {"pictures": len(kept), "left_out": left_out})


def _captions(picture: Examined) -> Iterator[tuple[str, str]]:
    """Give what is written beside the copy, with its suffix: nothing where the folder's name says it all.

    Of two captions that differ both are written: which one is meant is for the user to say.
    """
    texts: dict[str, str] = {}
    for path in picture.entry.texts:
        try:
            text = decode_caption(path.read_bytes())[0]
        except OSError:
            continue  # the examination has named it
        if text.strip():
            texts.setdefault(" ".join(text.split()), "\n".join(text.splitlines()) + "\n")
    if not texts and picture.entry.metadata:
        texts[""] = f"{picture.entry.metadata}\n"
    yield from zip(SUFFIXES, texts.values(), strict=False)


def _mask(picture: Examined, loaded: Picture, *, takes_alpha: bool) -> UInt8[np.ndarray, "H W"] | None:
    """Return the mask that is written beside the copy, `None` for none; alpha never takes the place of a file."""
    if picture.mask is not None:
        return load_mask(picture.mask)
    return loaded.alpha if takes_alpha and not picture.has_mask_file else None


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
