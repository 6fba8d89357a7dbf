"""Named tensor shapes.

They document every signature and are checked while the tests run (see `tests/conftest.py`); in production they cost
nothing. Letters: `b` batch, `c` channels, `h w` latent height and width, `H W` picture height and width, `l` tokens,
`d` width of the text features.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

Images = Float[Tensor, "b 3 H W"]
"""Pictures, float in [-1, 1]."""

Latents = Float[Tensor, "b c h w"]
"""Scaled latents, about unit variance."""

LatentWeights = Float[Tensor, "b 1 h w"]
"""How much each place of the latents counts in the loss."""

Tokens = Int[Tensor, "b l"]
"""Token ids, padded to the context length."""

Context = Float[Tensor, "b l d"]
"""One feature vector per token."""

Pooled = Float[Tensor, "b d"]
"""One feature vector per text."""

Times = Int[Tensor, "b"] | Float[Tensor, "b"]
"""Training times t in [0, T), one per row."""

PerRow = Float[Tensor, "b"]
"""One number per row of the batch."""
