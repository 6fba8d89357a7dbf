"""Build the training pictures of the embedded base."""

from __future__ import annotations

from sfumato.data.primer.build import build_primer
from sfumato.operations.stream import Events
from sfumato.requests import PrimerDataRequest


def primer_data(request: PrimerDataRequest) -> Events:
    """Build the data set `primer` into a folder.

    Args:
        request: Where to, and what decides the pictures.

    Yields:
        Progress, notices and the finished folder.

    Raises:
        DataError: Node or npm is missing, or a package is not what it should be.
        StorageError: The folder cannot be written.
    """
    yield from build_primer(
        request.output, seed=request.seed, packages_dir=request.packages, characters=request.characters
    )
