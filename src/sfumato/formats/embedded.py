"""Where the models lie that are part of the package."""

from __future__ import annotations

from pathlib import Path

BASES = Path(__file__).resolve().parents[1] / "bases"
"""The folder of the embedded bases, and of the dual encoder beside them."""
