"""The shape of a base's U-Net, without its weights."""

from __future__ import annotations

from pathlib import Path

from sfumato.errors import CheckpointError
from sfumato.formats.bundle import find_bundle
from sfumato.formats.diffusers_unet import read_unet_config
from sfumato.models.unet_config import UNetConfig
from sfumato.runtime.json_file import naming, read_json


def read_bundle_unet(name_or_path: str | Path) -> UNetConfig:
    """Read what U-Net a base has.

    Args:
        name_or_path: `primer`, or a folder in diffusers layout.

    Raises:
        CheckpointError: There is no such base, or a file of it is missing or damaged.
        UnknownFormat: It is something else, or a configuration that our U-Net cannot follow.
        UnsafeFile: It is a pickle.
    """
    folder = find_bundle(name_or_path) / "unet"
    if not folder.is_dir():
        raise CheckpointError(f"'{folder.parent}' has no folder 'unet'.", hint="Download or copy it again.")
    file = folder / "config.json"
    with naming(file):
        return read_unet_config(read_json(file), str(file))
