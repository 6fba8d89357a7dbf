"""How the pictures of a subject are cut, masked and varied."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from sfumato.data.masks import MaskSource
from sfumato.errors import ConfigError
from sfumato.training.section import Section


class PictureConfig(Section):
    """What is made of the subject's pictures.

    Attributes:
        masks: What of a picture is learned: all, what is solid in its `alpha` channel, or what is white in a `file`
            beside it.
        mask_folder: Folder of such files, with the names of their pictures; None for files beside them.
        unmasked_weight: How much the rest still counts in the loss.
        buckets: Cut pictures to one of several proportions instead of their middle square.
        variants: Variants of each picture, the first one without changes; each is encoded once.
        crop: Largest share of a side that a variant cuts off.
        jitter: Largest relative change of a variant's brightness, contrast and saturation.
    """

    masks: MaskSource = "none"
    mask_folder: Path | None = None
    unmasked_weight: float = Field(default=0.1, ge=0, le=1)
    buckets: bool = False
    variants: int = Field(default=1, ge=1, le=1000)
    crop: float = Field(default=0.0, ge=0, lt=1)
    jitter: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> PictureConfig:
        """Refuse variants without a difference, differences without variants, and a folder of masks without masks."""
        if self.mask_folder is not None and self.masks != "file":
            raise ConfigError(
                f"mask_folder is '{self.mask_folder}' but masks is '{self.masks}', which reads no files.",
                field="mask_folder",
                hint="Set masks to 'file'.",
            )
        if (self.variants > 1) != (self.crop > 0 or self.jitter > 0):
            raise ConfigError(
                f"variants is {self.variants}, crop {self.crop} and jitter {self.jitter}; variants above 1 need a crop "
                "or a jitter, and these need variants.",
                field="variants",
                hint="For example variants 8 with crop 0.2.",
            )
        return self
