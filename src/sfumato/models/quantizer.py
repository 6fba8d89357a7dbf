"""Vector quantisation: replace each latent vector by its nearest neighbour in a learned codebook."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sfumato.errors import ConfigError
from sfumato.tensors import Latents


@dataclass(frozen=True)
class Quantized:
    """Latents after quantisation.

    Attributes:
        latents: Codebook vectors, with the gradient of the latents before quantisation.
        indices: Which codebook rows they are.
        codebook_loss: Mean squared distance that pulls the codebook to the latents, a scalar.
        commitment_loss: Mean squared distance that pulls the latents to the codebook, a scalar, already times beta.
    """

    latents: Latents
    indices: Int[Tensor, "b h w"]
    codebook_loss: Float[Tensor, ""]
    commitment_loss: Float[Tensor, ""]

    def loss(self) -> Float[Tensor, ""]:
        """Return the sum of both terms."""
        return self.codebook_loss + self.commitment_loss


class VectorQuantizer(nn.Module):
    """A codebook with straight-through gradients ([oord2017] eq. 3).

    L = mean (sg[z] - e)^2 + beta mean (z - sg[e])^2. Beta stands on the commitment term, as in the paper; the layer of
    the released LDM code has it on the codebook term. Both give the same pictures from the same weights.

    Args:
        size: Number of vectors.
        width: Length of each vector.
        beta: Weight of the commitment term, ≥ 0.

    Raises:
        ConfigError: If a number is out of range.
    """

    def __init__(self, size: int, width: int, beta: float = 0.25) -> None:
        super().__init__()
        if size < 2 or width < 1 or beta < 0:
            raise ConfigError(
                f"The codebook has size {size}, width {width}, beta {beta}; needed: size ≥ 2, width ≥ 1, beta ≥ 0.",
                field="codebook_size",
            )
        self.beta = beta
        self.embedding = nn.Embedding(size, width)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    def forward(self, z: Latents) -> Quantized:
        """Quantise latents of shape `(b, width, h, w)`."""
        indices = self.nearest(z)
        e = self.lookup(indices)
        return Quantized(
            latents=z + (e - z).detach(),
            indices=indices,
            codebook_loss=F.mse_loss(e, z.detach()),
            commitment_loss=self.beta * F.mse_loss(z, e.detach()),
        )

    @torch.no_grad()
    def nearest(self, z: Latents) -> Int[Tensor, "b h w"]:
        """Return for each latent vector the index of the nearest codebook row, ties to the lower index.

        argmin_k |z - e_k|^2 = argmin_k (|e_k|^2 / 2 - z e_k): |z|^2 is the same for all k.
        """
        book = self.embedding.weight.float()
        with torch.autocast(z.device.type, enabled=False):  # in 16 bits neighbours cannot be told apart
            scores = torch.einsum("bchw,kc->bhwk", z.float(), book)
        return (book.square().sum(dim=1) / 2 - scores).argmin(dim=-1)

    def lookup(self, indices: Int[Tensor, "b h w"]) -> Latents:
        """Return the codebook vectors of some indices, `(b, width, h, w)`."""
        vectors: Tensor = self.embedding(indices)
        return vectors.permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class CodebookUse:
    """How much of a codebook is in use.

    Attributes:
        used: Share of the rows chosen at least once, in [0, 1].
        perplexity: exp of the entropy of the choice: as many equally frequent rows would be as diverse.
    """

    used: float
    perplexity: float


def codebook_use(indices: Int[Tensor, "*any"], size: int) -> CodebookUse:
    """Measure codebook use over many latents; a collapsed codebook has a perplexity near 1.

    Args:
        indices: Chosen rows, any shape.
        size: Number of rows.

    Returns:
        Share in use and perplexity.
    """
    share = torch.bincount(indices.flatten(), minlength=size).double() / indices.numel()
    entropy = torch.special.entr(share).sum()
    return CodebookUse(used=float((share > 0).double().mean()), perplexity=float(entropy.exp()))
