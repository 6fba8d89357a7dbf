"""What can go wrong, as one tree.

    SfumatoError
    ├── ConfigError            a request, recipe or option is not usable
    ├── ShapeError             a tensor or size does not fit
    ├── CheckpointError        a file of weights is not usable
    │   ├── UnknownFormat      no known layout
    │   ├── MissingKeys        tensors that the model needs are absent
    │   ├── UnusedKeys         tensors that no part of the model takes
    │   ├── ShapeMismatch      a tensor has another shape than the model
    │   └── UnsafeFile         a pickle, which may run code when read
    ├── AdapterError           an adapter cannot be attached
    │   ├── NoTargetMatched    a pattern matches no module
    │   └── WrongBase          made for another base model
    ├── DataError              pictures or captions are not usable
    │   ├── UnreadableImage    a file is not a readable picture
    │   ├── EmptyDataset       no pictures found
    │   └── CaptionMissing     a picture has no caption and none was given
    ├── TrainingError          a run cannot go on
    │   ├── Diverged           non-finite loss or gradients, again and again
    │   ├── OutOfMemory        the device has too little memory
    │   └── CannotResume       the saved state does not belong to this run
    ├── StorageError           a result could not be written
    └── NotReproduced          a picture could not be drawn again with the same bytes

A message says what was given, what was needed and what to do. The same object is printed by the command
line (exit code 2, no traceback) and, with --json, as JSON with the field that it is about.
"""

from __future__ import annotations


class SfumatoError(Exception):
    """A problem that the user can act on.

    Args:
        message: What was given and what was needed, with the values.
        field: Name of the option or configuration key at fault, if there is one.
        hint: What to do about it.
    """

    def __init__(self, message: str, *, field: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.hint = hint

    @property
    def code(self) -> str:
        """Name of the kind of problem, stable across versions."""
        return type(self).__name__

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message} {self.hint}"

    def to_dict(self) -> dict[str, str | None]:
        """Return the problem as plain data for JSON output."""
        return {"error": self.code, "message": self.message, "field": self.field, "hint": self.hint}


class ConfigError(SfumatoError):
    """A request, recipe or option is not usable."""


class ShapeError(SfumatoError):
    """A tensor or picture size does not fit."""


class CheckpointError(SfumatoError):
    """A file of weights is not usable."""


class UnknownFormat(CheckpointError):  # noqa: N818 (names of design.md)
    """No known layout was recognised."""


class MissingKeys(CheckpointError):  # noqa: N818
    """Tensors that the model needs are absent."""


class UnusedKeys(CheckpointError):  # noqa: N818
    """Tensors that no part of the model takes."""


class ShapeMismatch(CheckpointError):  # noqa: N818
    """A tensor has another shape than the model."""


class UnsafeFile(CheckpointError):  # noqa: N818
    """A pickle, which may run code when it is read."""


class AdapterError(SfumatoError):
    """An adapter cannot be attached."""


class NoTargetMatched(AdapterError):  # noqa: N818
    """A target pattern matches no module."""


class WrongBase(AdapterError):  # noqa: N818
    """The adapter was made for another base model."""


class DataError(SfumatoError):
    """Pictures or captions are not usable."""


class UnreadableImage(DataError):  # noqa: N818
    """A file is not a readable picture."""


class EmptyDataset(DataError):  # noqa: N818
    """No pictures were found."""


class CaptionMissing(DataError):  # noqa: N818
    """A picture has no caption and none was given."""


class TrainingError(SfumatoError):
    """A training run cannot go on."""


class Diverged(TrainingError):  # noqa: N818
    """Loss or gradients stay non-finite."""


class OutOfMemory(TrainingError):  # noqa: N818
    """The device has too little memory."""


class CannotResume(TrainingError):  # noqa: N818
    """The saved state does not belong to this run."""


class StorageError(SfumatoError):
    """A result could not be written."""


class NotReproduced(SfumatoError):  # noqa: N818
    """A picture could not be drawn again with the same bytes."""
