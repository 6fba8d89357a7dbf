"""Keep what is computed once: latents of pictures and features of texts, under a name made of all that decides them.

An entry is written whole or not at all and carries the hash of its content: one that is cut short or altered is
computed again, so that a cache can be lost, shared or interrupted without harm.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.errors import CheckpointError, StorageError
from sfumato.formats.safe_io import read_header, read_safetensors, write_safetensors
from sfumato.training.parts import weights_hash

_CONTENT = "content"


class TensorCache:
    """Tensors in files of a folder.

    Args:
        folder: Where; `None` keeps nothing.

    Attributes:
        problem: Why something could not be kept; `None` where all could.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.problem: StorageError | None = None
        self._identities: dict[int, str] = {}

    def get(self, kind: str, key: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return kept tensors, or make and keep them.

        Args:
            kind: Name of the folder within the cache.
            key: Everything that decides the tensors; torch's version is added.
            make: Computes them.
        """
        kept = self.find(kind, key)
        return self.keep(kind, key, make()) if kept is None else kept

    def find(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """Return kept tensors; `None` where there are none or they are damaged."""
        return None if self.folder is None else _kept(self._path(self.folder, kind, key))

    def keep(self, kind: str, key: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep tensors and return them; where they cannot be written they are only returned."""
        if self.folder is None:
            return dict(tensors)
        whole = {name: value.detach().contiguous() for name, value in tensors.items()}
        try:
            write_safetensors(self._path(self.folder, kind, key), whole, {_CONTENT: _digest(whole)})
        except StorageError as error:  # it ends no lesson: what is not kept is computed again
            self.problem = self.problem or error
        return whole

    def identity(self, module: nn.Module, compute: Callable[[], str] | None = None) -> str:
        """Return the hash of a network that does not change while the cache is used; nothing where nothing is kept.

        Args:
            module: The network.
            compute: How to hash it; by default all of its weights.
        """
        if self.folder is None:
            return ""
        if id(module) not in self._identities:
            self._identities[id(module)] = weights_hash(module) if compute is None else compute()
        return self._identities[id(module)]

    def _path(self, folder: Path, kind: str, key: str) -> Path:
        """Name the file of an entry."""
        return folder / kind / f"{hashlib.sha256(f'{key}/{torch.__version__}'.encode()).hexdigest()}.safetensors"


def _kept(path: Path) -> dict[str, Tensor] | None:
    """Read an entry; `None` where there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        tensors = {name: value.clone() for name, value in read_safetensors(path).items()}
        return tensors if read_header(path).metadata.get(_CONTENT) == _digest(tensors) else None
    except CheckpointError:
        return None


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash names, shapes and every bit of some tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
