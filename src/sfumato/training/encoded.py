"""Read the pictures of a subject and turn each into latents, once for all runs that share a cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from sfumato.data.buckets import bucket_sizes, nearest_bucket
from sfumato.data.images import READING, Picture, load_image
from sfumato.data.masks import read_mask
from sfumato.data.variants import Frame, frame, latent_mask
from sfumato.errors import DataError
from sfumato.formats.bundle import Bundle
from sfumato.runtime.seeding import generator
from sfumato.tensors import LatentWeights
from sfumato.training.cache import TensorCache
from sfumato.training.parts import encoder_hash
from sfumato.training.picture_config import PictureConfig


@dataclass(frozen=True)
class ReadPicture:
    """A picture, what counts of it, and the size it is learned in.

    Attributes:
        picture: The picture.
        mask: How much each pixel counts; `None` without masks.
        size: Width and height in pixels.
        content: The bytes of its files.
        mask_file: Where the mask was read from; the picture itself for its alpha channel, `None` without masks.
    """

    picture: Picture
    mask: UInt8[np.ndarray, "H W"] | None
    size: tuple[int, int]
    content: bytes
    mask_file: Path | None


class PictureEncoder:
    """Reads, cuts and encodes pictures as the settings say.

    Args:
        bundle: Gives autoencoder and sizes.
        data: Masks, buckets, variants.
        seed: Seed of the variants.
        cache: Where latents are kept.
    """

    def __init__(self, bundle: Bundle, data: PictureConfig, seed: int, cache: TensorCache) -> None:
        self._bundle, self._data, self._seed, self._cache = bundle, data, seed, cache
        self._sizes = [(bundle.native_size, bundle.native_size)]
        if data.buckets:
            self._sizes = bucket_sizes(bundle.native_size, bundle.downsample_factor)

    def read(self, path: Path, mask_file: Path | None = None) -> ReadPicture:
        """Read a picture and its mask, and choose the size of its proportions.

        Args:
            path: The picture.
            mask_file: Its mask, where masks are files.

        Raises:
            DataError: The mask does not fit.
            UnreadableImage: A file cannot be read.
        """
        picture, content = load_image(path), path.read_bytes()
        mask = None if self._data.masks == "none" else read_mask(picture, mask_file)
        height, width = picture.rgb.shape[:2]
        size = nearest_bucket(width, height, self._sizes)
        if mask_file is not None:
            content += mask_file.read_bytes()
        return ReadPicture(picture, mask, size, content, None if mask is None else mask_file or path)

    def encode(self, read: ReadPicture, mirrored: bool) -> dict[str, Tensor]:
        """Return `mean` and, where there are any, `std` and `mask` of the scaled latents of every variant.

        Args:
            read: The picture.
            mirrored: Exchange left and right.

        Raises:
            DataError: The autoencoder gives numbers that are not finite, or of a variant nothing counts.
        """
        data, autoencoder = self._data, self._bundle.autoencoder
        content = hashlib.sha256(read.content).hexdigest()
        varied = f"{data.variants} {data.crop} {data.jitter} {self._seed}" if data.variants > 1 else ""
        encoder = self._cache.identity(autoencoder, lambda: encoder_hash(autoencoder))
        key = f"{READING}/{content}/{read.size}/{data.masks}/{mirrored}/{varied}/{encoder}"

        def make() -> dict[str, Tensor]:
            frames = [self._frame(read, content, number) for number in range(data.variants)]
            made = self._moments([one.mirrored() if mirrored else one for one in frames])
            self._check_finite(read, made)
            return made

        tensors = self._cache.get("latents", key, make)
        if "mask" in tensors:
            self._check_weights(read, latent_weights(tensors["mask"], data.unmasked_weight))
        return tensors

    def _check_finite(self, read: ReadPicture, tensors: dict[str, Tensor]) -> None:
        """Refuse latents that are not finite: where they are all that a batch holds, no step could be good."""
        for number in range(self._data.variants):
            latents = torch.cat([tensors[name][number].flatten() for name in ("mean", "std") if name in tensors])
            bad = int((~torch.isfinite(latents)).sum())
            if bad:
                raise DataError(
                    f"Of {read.picture.path}{self._variant(number)} the autoencoder of base '{self._bundle.name}' gave "
                    f"{bad} numbers of {len(latents)} that are not finite; needed: finite latents.",
                    hint="Where every picture does so, the weights of the base are damaged: copy it again. Otherwise "
                    "save this picture again as PNG, or take it out.",
                )

    def _check_weights(self, read: ReadPicture, weights: LatentWeights) -> None:
        """Refuse a variant without any weight: its loss would be 0 / 0."""
        for number, one in enumerate(weights):
            if bool(one.any()):
                continue
            data, path, (width, height) = self._data, read.picture.path, read.size
            what = "alpha channel" if read.mask_file == path else f"mask {read.mask_file}"
            cut = f"the random crop{self._variant(number)}" if number else "the middle"
            ways = ["a mask that marks something there", "an unmasked_weight above 0"]
            ways += ["a smaller crop"] if number and data.crop else []
            ways += [] if data.buckets else ["buckets, which cut another part"]
            raise DataError(
                f"The {what} of {path} leaves nothing in {cut} that is learned at {width} × {height}, and "
                f"unmasked_weight is {data.unmasked_weight:g}: no place would count.",
                field="masks",
                hint=f"Use {', '.join(ways[:-1])} or {ways[-1]}.",
            )

    def _variant(self, number: int) -> str:
        """Name one of several variants, counted from 1."""
        return f" (variant {number + 1} of {self._data.variants})" if self._data.variants > 1 else ""

    def _frame(self, read: ReadPicture, content: str, number: int) -> Frame:
        """Make one variant; the first is the picture as it is."""
        data = self._data
        draw = generator(self._seed, f"variants/{content}", number) if number else None
        return frame(read.picture.rgb, read.mask, read.size, crop=data.crop, jitter=data.jitter, draw=draw)

    @torch.no_grad()
    def _moments(self, frames: list[Frame]) -> dict[str, Tensor]:
        """Encode variants one by one, so that each has the same bits whatever goes with it."""
        made = [self._bundle.autoencoder.moments(one.image[None]) for one in frames]
        tensors = {"mean": torch.cat([mean for mean, _ in made])}
        spreads = [std for _, std in made if std is not None]
        factor = self._bundle.autoencoder.downsample_factor
        masks = [latent_mask(one.mask, factor) for one in frames if one.mask is not None]
        tensors |= {"std": torch.cat(spreads)} if spreads else {}
        return tensors | ({"mask": torch.stack(masks)} if masks else {})


def latent_weights(mask: LatentWeights, unmasked_weight: float) -> LatentWeights:
    """Turn masks on the grid of the latents into weights of the loss: `1 - (1 - unmasked_weight) · (1 - mask)`.

    Args:
        mask: How much each place is learned, in [0, 1].
        unmasked_weight: Weight of places where it is 0, in [0, 1].
    """
    return 1 - (1 - unmasked_weight) * (1 - mask)
