"""Average the denoisers of two bases, two stages of one training: docs/decisions/0008.

python examples/average_bases.py FIRST SECOND OUT
"""

import sys
from pathlib import Path

import torch

import sfumato


@torch.no_grad()
def main(first: str = "primer", second: str = "primer", output: str = "averaged") -> None:
    """Write SECOND with the mean weights of both in U-Net and text encoder; its autoencoder stays."""
    one, other = sfumato.load_bundle(first), sfumato.load_bundle(second)
    for mine, theirs in ((one.unet, other.unet), (one.text_encoder, other.text_encoder)):
        old = dict(mine.named_parameters())
        for name, weight in theirs.named_parameters():
            weight.lerp_(old[name], 0.5)
    sfumato.save_bundle(other, Path(output))


if __name__ == "__main__":
    main(*sys.argv[1:])
