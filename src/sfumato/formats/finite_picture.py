"""Refuse a picture with numbers that are none: what bytes would hold in their place means nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sfumato.errors import CheckpointError
from sfumato.formats.bundle import Bundle
from sfumato.formats.concept import Concept


def check_finite(image: Tensor, seed: int, bundle: Bundle, concepts: Sequence[Concept], *, in_lesson: bool) -> None:
    """Refuse a drawn picture that nobody could look at or measure.

    Args:
        image: The picture, of any size.
        seed: Its seed, for the message.
        bundle: The base that drew it.
        concepts: Those that were switched on.
        in_lesson: What drew it is being learned.

    Raises:
        CheckpointError: It holds numbers that are not finite.
    """
    if bool(image.isfinite().all()):
        return
    hint = f"Base '{bundle.name}' is damaged, or was converted to too few bits: copy or convert it again."
    if in_lesson:
        hint = f"Lower the learning rate. Where nothing has been learned yet: {hint[0].lower()}{hint[1:]}"
    elif concepts:
        hint = "Draw without the concept: if that works, lower its strength or learn it again."
    raise CheckpointError(
        f"The picture of seed {seed} holds numbers that are not finite.",
        field=None if in_lesson else "concepts" if concepts else "base",
        hint=hint,
    )
