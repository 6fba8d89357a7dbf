"""Let the text encoder learn what a text looks like, apart from the denoiser.

At the noisiest times a picture comes from its words alone, and a denoiser that learns jointly with its text encoder
learns that slowly: most of its samples are about other things. Here one cross-attention without memory of its own reads
the clean latents from the encoded text, at a fraction of the price of a sample of the denoiser. What a name looks like
is then stored in the text encoder, where the denoiser finds it.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from sfumato.nn.attention import Attention
from sfumato.tensors import Context, Latents, PerRow
from sfumato.training.pictures import DataConfig
from sfumato.training.section import Section
from sfumato.training.stream import Prefetched
from sfumato.training.things import Naming, NamingBatches, ThingTable


class TextRegressionConfig(Section):
    """Regression of clean latents on the text.

    Attributes:
        weight: Factor on the term; 0 leaves it out.
        batch_size: Captions a step.
        heads: Heads of the cross-attention; must divide the width of the text encoder.
        alone: Draws at the beginning in which nothing else is learned: the denoiser then finds a text encoder that
            knows the names.
        batches: Different batches of captions; then they come again.
    """

    weight: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=256, ge=1)
    heads: int = Field(default=4, ge=1)
    alone: int = Field(default=0, ge=0)
    batches: int = Field(default=400, ge=1)


class LatentReader(nn.Module):
    """Reads latents from an encoded text: a query for every place, one cross-attention, one linear layer.

    It learns with the text encoder and is not part of the result.

    Args:
        width: Channels of the context.
        heads: Heads of the cross-attention.
        shape: Channels, height and width of the latents.

    Raises:
        ConfigError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.position_embedding = nn.Embedding(shape[1] * shape[2], width)
        self.attention = Attention(width, heads=heads, context_width=width)
        self.out = nn.Linear(width, shape[0])

    def forward(self, context: Context) -> Latents:
        """Return the latents that a text lets expect."""
        places = self.position_embedding.weight.expand(len(context), -1, -1)
        read: Tensor = self.out(places + self.attention(places, context))
        latents: Tensor = read.transpose(1, 2).unflatten(2, self.shape[1:])
        return latents

    def loss(self, context: Context, x_0: Latents) -> PerRow:
        """Return the squared error of each row, mean over its numbers."""
        read: Tensor = self(context)
        return F.mse_loss(read.float(), x_0, reduction="none").mean((1, 2, 3))


class Names:
    """What the text encoder learns names from: captions, and the latents of the thing that each is about.

    Args:
        config: How many a step.
        data: The training set.
        reader: Reads latents from encoded captions.
        table: The latents of every thing.
    """

    def __init__(self, config: TextRegressionConfig, data: DataConfig, reader: LatentReader, table: ThingTable) -> None:
        self.reader, self.table, self._count = reader, table, config.batches
        self._made = Prefetched(NamingBatches(data, config.batch_size), data.workers)
        self._kept: dict[int, Naming] = {}

    def batch(self, draw: int) -> tuple[Naming, Latents]:
        """Return the captions of a draw, and the latents of their things."""
        number = draw % self._count
        if number not in self._kept:
            self._kept[number] = self._made.get(number)
        naming = self._kept[number]
        return naming, self.table.latents(naming.files)

    def close(self) -> None:
        """Stop the workers."""
        self._made.close()
