"""The training set `primer`: icons in five styles and drawn people, rendered from npm packages."""

from sfumato.data.primer.build import build_primer

__all__ = ["build_primer"]
