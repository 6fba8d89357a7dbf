"""What judges pictures and texts: any encoder whose features have cosines that mean something.

Embedded is EfficientNet-Lite0, which needs no download. A small encoder of pictures and texts plugs in by its two
methods, and encoders of the field from a local folder (`local_encoders.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from sfumato.errors import ConfigError, DataError
from sfumato.evaluation.features import FeatureExtractor
from sfumato.evaluation.grounds import border, ground_rgb, on_white
from sfumato.evaluation.local_encoders import LocalEncoder, load_local
from sfumato.models.efficientnet import EfficientNetLite0

Picture = UInt8[np.ndarray, "H W 3"]
Features = Float[Tensor, "n d"]

_PLAIN_TOLERANCE, _PLAIN_SHARE = 24, 0.75


@runtime_checkable
class Seeing(Protocol):
    """Turns pictures into features."""

    def embed_pictures(self, pictures: Sequence[Picture]) -> Features:
        """Return one row a picture."""
        ...


@runtime_checkable
class Dual(Seeing, Protocol):
    """Turns pictures and texts into features of one space."""

    def embed_texts(self, texts: Sequence[str]) -> Features:
        """Return one row a text."""
        ...


LoadsDual = Callable[[EfficientNetLite0 | None], Dual]
"""Opens a dual encoder that looks through a network at hand, or opens one of its own."""


@runtime_checkable
class PictureEncoder(Seeing, Protocol):
    """Turns pictures into features of length 1, under the name that a report gives it."""

    name: str


@runtime_checkable
class TextEncoder(Dual, PictureEncoder, Protocol):
    """Turns pictures and texts into features of length 1, under the name that a report gives it."""


class EmbeddedEncoder:
    """The features of EfficientNet-Lite0, normalised.

    Args:
        eye: The extractor; made when it is not given.
    """

    name = "EfficientNet-Lite0"

    def __init__(self, eye: FeatureExtractor | None = None) -> None:
        self.eye = eye or FeatureExtractor()

    def embed_pictures(self, pictures: Sequence[Picture]) -> Features:
        """Return one row of length 1 a picture."""
        return F.normalize(self.eye.look(pictures), dim=1)


@dataclass(frozen=True)
class Encoders:
    """What judges a concept.

    Attributes:
        pictures: For the subject and for copies.
        texts: For the prompt; None where there is none, and pictures of the base then stand for the prompts.
    """

    pictures: PictureEncoder
    texts: TextEncoder | None = None


class NamedEncoder:
    """An encoder of pictures and texts under the name that a report gives it.

    Args:
        name: Such as `dual encoder`.
        encoder: What does the work.
    """

    def __init__(self, name: str, encoder: Dual) -> None:
        self.name, self.encoder = name, encoder

    def embed_pictures(self, pictures: Sequence[Picture]) -> Features:
        """Return one row of length 1 a picture."""
        return self.encoder.embed_pictures(pictures)

    def embed_texts(self, texts: Sequence[str]) -> Features:
        """Return one row of length 1 a text."""
        return self.encoder.embed_texts(texts)


def choose_encoders(
    pictures: str = "embedded",
    texts: str = "auto",
    *,
    eye: FeatureExtractor | None = None,
    dual: LoadsDual | None = None,
) -> Encoders:
    """Load the encoders that were asked for.

    Args:
        pictures: `embedded`, `dual`, or a folder with a model of transformers: CLIP, DINO (ViT) or DINOv2.
        texts: `none`, `dual`, `auto` for `dual` where it is there and else `none`, or a folder with CLIP.
        eye: The embedded features, if they are loaded already.
        dual: Loads the encoder of pictures and texts that ships with sfumato, to look through the network of `eye` if
            that is given; None where there is none.

    Raises:
        ConfigError: `dual` was asked for and is not there, the folder of the encoder of texts holds one that knows no
            texts, or transformers is missing.
        CheckpointError: A folder is missing or holds no usable model.
    """
    found, by_text = choose_judges([pictures], texts, eye=eye, dual=dual)
    return Encoders(found[0], by_text)


def choose_judges(
    pictures: Sequence[str],
    texts: str = "auto",
    *,
    eye: FeatureExtractor | None = None,
    dual: LoadsDual | None = None,
) -> tuple[list[PictureEncoder], TextEncoder | None]:
    """Load several encoders of pictures, each model once; see `choose_encoders`.

    Args:
        pictures: What `choose_encoders` takes, one or more.
        texts: As there.
        eye: As there.
        dual: As there.

    Returns:
        The encoders of pictures in the order asked for, each model with a name of its own, and the encoder of texts.
    """
    if texts == "auto":
        texts = "none" if dual is None else "dual"
    for field, given, wrong, needed in (
        ("judge_texts", (texts,), "embedded", "'auto', 'none', 'dual' or a folder with CLIP"),
        ("judge_pictures", pictures, "none", "'embedded', 'dual' or a folder with CLIP, DINO or DINOv2"),
    ):
        if wrong in given:
            raise ConfigError(f"{field} is '{wrong}'; needed: {needed}.", field=field)
    seen: dict[str, PictureEncoder] = {}
    for name in sorted({*pictures, texts} - {"embedded", "none"}):
        if name != "dual":
            seen[name] = load_local(Path(name))
        elif dual is not None:
            seen[name] = NamedEncoder("dual encoder", dual(None if eye is None else eye.network))
        else:
            raise ConfigError(
                "The encoder 'dual' was asked for; this installation has none.",
                field="judge_texts" if texts == "dual" else "judge_pictures",
                hint="Use 'embedded' for pictures, and 'none' or a CLIP folder for texts.",
            )
    _tell_apart([encoder for encoder in seen.values() if isinstance(encoder, LocalEncoder)])
    by_text: TextEncoder | None = None
    if texts != "none":
        found = seen[texts]
        if not isinstance(found, TextEncoder):
            raise ConfigError(
                f"'{texts}' holds {found.name}, which knows pictures only; an encoder of texts was needed.",
                field="judge_texts",
                hint="Name a folder with CLIP, or 'none'.",
            )
        by_text = found
    if "embedded" in pictures:
        seen["embedded"] = EmbeddedEncoder(eye)
    return [seen[name] for name in pictures], by_text


def _tell_apart(encoders: Sequence[LocalEncoder]) -> None:
    """Name encoders of one family in folders of one name, such as `main`, by more of their paths, until all differ."""
    for encoder in encoders:
        others = [other for other in encoders if other.folder != encoder.folder]
        most = len(encoder.folder.parts)
        differs = (n for n in range(1, most) if encoder.named(n) not in {other.named(n) for other in others})
        encoder.name = encoder.named(next(differs, most))


def check_readable(judge: TextEncoder | None, texts: Sequence[str]) -> None:
    """Refuse texts that a judge cannot read, before the time is spent that leads to them.

    Args:
        judge: The encoder of texts; nothing is refused without one.
        texts: Everything that it will be asked.

    Raises:
        DataError: A text is too long for it.
    """
    if judge is None:
        return
    try:
        judge.embed_texts(texts)
    except DataError as error:
        raise DataError(
            f"The judge of texts, {judge.name}, cannot read what pictures are compared with. {error.message}",
            field="judge_texts",
            hint="Shorten the text, judge by a folder with CLIP (--judge-texts DIR), or by none (--judge-texts none).",
        ) from error


def without_ground(picture: Picture) -> Picture:
    """Paint a plain ground white, so that the subject is judged and not what it stands on; leave any other picture.

    Why: the subject is asked for on grounds that its pictures do not have. Seen with them, a step that obeys the prompt
    would lose fidelity to one that repeats the grounds. A ground counts as plain where three quarters of the border
    have nearly its colour; where it is not, nothing tells it from the subject, and the picture stays as it is.
    """
    far = np.abs(border(picture).astype(np.float32) - np.array(ground_rgb(picture), np.float32)).max(axis=1)
    return on_white(picture) if float((far < _PLAIN_TOLERANCE).mean()) >= _PLAIN_SHARE else picture
