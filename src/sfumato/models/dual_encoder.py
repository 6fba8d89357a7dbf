"""A small image-text dual encoder: pictures and texts become unit vectors that are near when they belong together.

The cosine of the two vectors is to the world of the primer's pictures what CLIP-T is to photographs: a measure of how
much of a prompt a picture fulfils ([radford2021] 2.3). The picture side is a frozen eye and a small trained transformer
behind it; the text side is a small text encoder. No weight in it comes from a base model, so it can judge one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sfumato.errors import ConfigError, ShapeError
from sfumato.models.eye import Eye, EyeConfig, Picture, Sights, joined
from sfumato.models.text_encoder import TextEncoder, TextEncoderConfig
from sfumato.models.tokenizer import Tokenizer
from sfumato.nn.attention import Attention, check_heads
from sfumato.tensors import PerRow, Tokens

Vectors = Float[Tensor, "n d"]

_WHOLE, _PER_CELL = 1280, 16
_FIRST_SCALE, _LARGEST_SCALE = 1 / 0.07, 100.0


@dataclass(frozen=True)
class DualEncoderConfig:
    """Shape of a dual encoder.

    Args:
        eye: How pictures are looked at.
        text: The text encoder.
        dim: Length of the vectors.
        width: Channels of a cell within the picture side.
        layers: Transformer layers of the picture side.
        heads: Attention heads; must divide `width`.
        mlp_width: Channels inside its feed-forward.
        dropout: Rate within the picture side while it learns, from 0 to less than 1.

    Raises:
        ConfigError: The values contradict one another.
    """

    eye: EyeConfig
    text: TextEncoderConfig
    dim: int = 256
    width: int = 192
    layers: int = 2
    heads: int = 4
    mlp_width: int = 768
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_heads(self.width, self.heads)
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}; a rate from 0 to less than 1 is needed.", field="dropout")
        for field in ("dim", "layers", "mlp_width"):
            value: int = getattr(self, field)
            if value < 1:
                raise ConfigError(f"{field} is {value}; at least 1 is needed.", field=field)


class PictureLayer(nn.Module):
    """Attention among all cells and feed-forward, each behind a LayerNorm and added to its input."""

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = Attention(config.width, heads=config.heads, dropout=config.dropout)
        self.norm2 = nn.LayerNorm(config.width)
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "n l d"]) -> Float[Tensor, "n l d"]:
        """Apply both parts."""
        x = x + self.attention(self.norm1(x))
        out: Tensor = x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))
        return out


class PictureEncoder(nn.Module):
    """What the eye saw becomes one vector; each cell knows its place.

    The vector is read from the token of the whole picture and, in their order, from a few numbers of every cell.
    Through attention alone places were learned many times slower (0.51 against 1.00 of the places right, 40 steps).

    Args:
        config: Shape of the dual encoder.
    """

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        channels, cells = config.eye.cell_channels, config.eye.grid**2
        for name, length in (("cells", channels), ("whole", _WHOLE)):
            self.register_buffer(f"{name}_mean", torch.zeros(length))
            self.register_buffer(f"{name}_std", torch.ones(length))
        self.cells_mean: Tensor
        self.cells_std: Tensor
        self.whole_mean: Tensor
        self.whole_std: Tensor
        self.cells_in = nn.Linear(channels, config.width)
        self.whole_in = nn.Linear(_WHOLE, config.width)
        self.position_embedding = nn.Embedding(cells, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(PictureLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.places = nn.Linear(config.width, _PER_CELL)
        self.projection = nn.Linear(config.width + cells * _PER_CELL, config.dim, bias=False)
        nn.init.normal_(self.position_embedding.weight, std=0.5)

    @torch.no_grad()
    def standardise(self, sights: Sights) -> None:
        """Measure mean and deviation of every channel, so that no map drowns the others.

        Args:
            sights: What was seen in some typical pictures.
        """
        cells = sights.cells.float().transpose(0, 1).flatten(1)
        for name, rows in (("cells", cells), ("whole", sights.whole.float().T)):
            deviation = rows.std(dim=1)
            getattr(self, f"{name}_mean").copy_(rows.mean(dim=1))
            getattr(self, f"{name}_std").copy_(torch.where(deviation > 1e-3, deviation, 1.0))

    def forward(self, sights: Sights) -> Vectors:
        """Return one vector per picture, of any length."""
        seen = (sights.cells.flatten(2).mT - self.cells_mean) / self.cells_std
        whole = self.whole_in((sights.whole - self.whole_mean) / self.whole_std)
        cells = self.cells_in(seen) + self.position_embedding.weight
        x = self.dropout(torch.cat([whole[:, None], cells], dim=1))  # (n, 1 + cells, width)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        placed = F.gelu(self.places(x[:, 1:])).flatten(1)  # (n, cells · per cell)
        out: Tensor = self.projection(torch.cat([x[:, 0], placed], dim=1))
        return out


class DualEncoder(nn.Module):
    """The trained part: two encoders with vectors of one length, and the scale of their cosines.

    Args:
        config: Shape.
    """

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.picture = PictureEncoder(config)
        self.text_encoder = TextEncoder(config.text)
        self.text_projection = nn.Linear(config.text.width, config.dim, bias=False)
        # math.log: on the meta device a tensor's own log imports torch's compiler, a second and 76 MB
        self.log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        nn.init.normal_(self.text_projection.weight, std=config.text.width**-0.5)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by; at most 100 ([radford2021] 2.5)."""
        return self.log_scale.exp().clamp(max=_LARGEST_SCALE)

    def pictures(self, sights: Sights) -> Vectors:
        """Return the unit vectors of what the eye saw, `(n, dim)`."""
        return F.normalize(self.picture(sights).float(), dim=1)

    def texts(self, tokens: Tokens) -> Vectors:
        """Return the unit vectors of texts, `(n, dim)`.

        Args:
            tokens: Ids; padding that all rows share at the end is not computed, since no token looks at later ones.
        """
        ends = (tokens == self.config.text.eos_id).int().argmax(dim=1)
        longest = int(ends.max()) + 1 if len(tokens) else 1
        pooled = self.text_encoder(tokens[:, :longest]).pooled
        return F.normalize(self.text_projection(pooled).float(), dim=1)


class ImageTextEncoder:
    """A dual encoder ready to use on pictures and texts.

    Args:
        network: The trained part.
        tokenizer: Turns texts into tokens.
        eye: Looks at pictures; by default the one that the configuration asks for.

    Raises:
        ConfigError: The tokenizer belongs to another text encoder.
    """

    def __init__(self, network: DualEncoder, tokenizer: Tokenizer, eye: Eye | None = None) -> None:
        config = network.config
        if tokenizer.vocab_size != config.text.vocab_size:
            raise ConfigError(
                f"The tokenizer has {tokenizer.vocab_size} pieces; the text encoder was made for "
                f"{config.text.vocab_size}.",
                field="tokenizer",
                hint="Use the tokenizer that lies beside the weights.",
            )
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        self.eye = eye or Eye(config.eye)

    @torch.no_grad()
    def embed_pictures(self, pictures: Sequence[Picture], batch_size: int = 2) -> Vectors:
        """Return the unit vectors of pictures.

        Args:
            pictures: RGB pictures of any sizes; each is scaled to a square.
            batch_size: Pictures looked at together.

        Returns:
            One row each, `(n, dim)`.
        """
        if not len(pictures):
            return torch.empty(0, self.network.config.dim)
        groups = (pictures[first : first + batch_size] for first in range(0, len(pictures), batch_size))
        seen = [self.eye.look_at(group) for group in groups]
        return self.network.pictures(joined(seen))

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Return the unit vectors of texts.

        Args:
            texts: English captions of the kind that the primer's scenes have.

        Returns:
            One row each, `(n, dim)`.

        Raises:
            DataError: A text is longer than the encoder reads.
        """
        if not texts:
            return torch.empty(0, self.network.config.dim)
        return self.network.texts(self.tokenizer.encode(texts))

    def fidelity(self, pictures: Sequence[Picture], texts: Sequence[str]) -> PerRow:
        """Return how well each picture fulfils its text: the cosine of the two vectors, from -1 to 1.

        Args:
            pictures: RGB pictures.
            texts: One each.

        Raises:
            ShapeError: Not one text a picture.
        """
        if len(pictures) != len(texts):
            raise ShapeError(
                f"{len(pictures)} pictures and {len(texts)} texts were given; each picture needs one text.",
                field="texts",
            )
        return (self.embed_pictures(pictures) * self.embed_texts(texts)).sum(dim=1)
