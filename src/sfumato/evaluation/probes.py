"""Linear classifiers on frozen features: does a picture show what was asked for?

A probe is fitted to real pictures whose facts are known, checked on real pictures that it has not seen, and then asked
about generated ones. The share `generated / real` says how much of what can be read back was drawn, free of the
probe's own mistakes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor

from sfumato.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LinearProbe:
    """Multinomial logistic regression on standardised features.

    Args:
        features: Features of real pictures, `(n, d)`.
        labels: One label a row; at least two different ones.
        strength: Inverse L2 penalty.

    Raises:
        DataError: Fewer than two different labels.
    """

    def __init__(self, features: Float[Tensor, "n d"], labels: Sequence[str], *, strength: float = 0.02) -> None:
        check_available()
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        kinds = sorted(set(labels))
        if len(kinds) < 2:
            raise DataError(
                f"A probe needs at least two different labels; given {kinds} on {len(labels)} pictures.",
                hint="Add pictures of another kind or leave this attribute out.",
            )
        regression = LogisticRegression(C=strength, max_iter=400, class_weight="balanced")
        self._model: Any = make_pipeline(StandardScaler(), regression)
        self._model.fit(_array(features), list(labels))

    def predict(self, features: Float[Tensor, "n d"]) -> list[str]:
        """Return the most likely label of each row."""
        return [str(label) for label in self._model.predict(_array(features))]


def check_available() -> None:
    """Check that scikit-learn is installed, which fits the classifiers.

    Raises:
        ConfigError: It is not.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ConfigError(
            "Linear classifiers need the package scikit-learn, which is not installed.",
            hint="Run in the repository: pip install --editable '.[train]'",
        )


def _array(features: Tensor) -> NDArray[Any]:
    return features.double().numpy()
