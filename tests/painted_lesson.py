"""A painter in place of a base: what he paints at a step of a lesson decides what a verdict finds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sfumato.data.images import to_tensor
from sfumato.evaluation.features import FeatureExtractor
from sfumato.events import Event
from sfumato.models.efficientnet import EfficientNetLite0
from sfumato.pipeline import Drawn, Pipeline, Settings

COLOURS = {"purple": (130, 60, 170), "green": (60, 160, 70), "grey": (140, 140, 140), "white": (255, 255, 255)}
SUBJECT, CLASS, OTHER = (230, 30, 40), (30, 40, 60), (20, 210, 230)
THINGS = {"<fox>": SUBJECT, "<cat>": OTHER}
PROMPTS = ("a {} on purple", "a {} on green", "a {} on grey")


def paint(ground: tuple[int, int, int], thing: tuple[int, int, int], seed: int, stripes: bool) -> np.ndarray:
    """A thing in the middle, somewhat moved by the seed; the subject has stripes."""
    picture = np.full((32, 32, 3), ground, np.uint8)
    at = 8 + seed % 3
    picture[8:24, at : at + 16] = thing
    if stripes:
        picture[8:24:4, at : at + 16] = (250, 220, 60)
    return picture


class Painter(Pipeline):
    """Paints what a step of a lesson would.

    Args:
        knows: How much of its subject each word shows.
        obeys: Whether the grounds that a prompt asks for are painted.
        leaks: Words whose class shows the subject too; True for all.
        copied: Photographs that are painted again for every word.
    """

    def __init__(
        self,
        knows: float | Mapping[str, float] = 0,
        *,
        obeys: bool = True,
        leaks: bool | Collection[str] = False,
        copied: Sequence[Any] = (),
    ) -> None:
        self.bundle: Any = SimpleNamespace(native_size=32)
        self.knows = knows if isinstance(knows, Mapping) else dict.fromkeys(THINGS, knows)
        self.leaks = (tuple(THINGS) if leaks else ()) if isinstance(leaks, bool) else leaks
        self.obeys, self.copied = obeys, copied

    def generate(self, prompts: Sequence[str], seeds: Sequence[int], settings: Any = None, **_: Any) -> Iterator[Event]:
        assert isinstance(settings, Settings)
        for index, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            yield Drawn(index, prompt, seed, to_tensor(self.picture(prompt, seed)))

    def picture(self, prompt: str, seed: int) -> np.ndarray:
        thing = next(word for word in THINGS if word.strip("<>") in prompt)
        is_said = thing in prompt
        if self.copied and is_said:
            return self.copied[seed % len(self.copied)]
        ground = next((COLOURS[name] for name in COLOURS if name in prompt and self.obeys), COLOURS["white"])
        share = self.knows[thing] if is_said or thing in self.leaks else 0.0
        colour = tuple(round((1 - share) * a + share * b) for a, b in zip(CLASS, THINGS[thing], strict=True))
        return paint(ground, colour, seed, stripes=share > 0.5)  # type: ignore[arg-type]


class Grid:
    """Features that are the colours of a coarse grid, around grey; a text is the colour that it names, everywhere."""

    def embed_pictures(self, pictures: Sequence[np.ndarray]) -> Tensor:
        rows = [torch.from_numpy(picture[1::3, 1::3].astype(np.float32)).flatten() - 128 for picture in pictures]
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        grounds = [next(COLOURS[name] for name in COLOURS if name in text) for text in texts]
        return self.embed_pictures([np.full((32, 32, 3), ground, np.uint8) for ground in grounds])


def write_photos(folder: Path, thing: tuple[int, int, int]) -> Path:
    """Write three photographs of a subject and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, ground in enumerate(((52, 112, 224), (252, 216, 62), (20, 150, 150))):
        Image.fromarray(paint(ground, thing, index, True)).save(folder / f"{index}.png")
    return folder


def random_eye() -> FeatureExtractor:
    """Return embedded features that nothing has trained."""
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return FeatureExtractor(network, side=32)
