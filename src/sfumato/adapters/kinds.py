"""The kinds of adapter as one table; a new kind is a class and a row."""

from __future__ import annotations

from collections.abc import Mapping

from sfumato.adapters.learned_path import LearnedPath
from sfumato.adapters.low_rank import DoRA, LowRank
from sfumato.adapters.products import Full, LoHa, LoKr

KINDS: Mapping[str, type[LearnedPath]] = {"lora": LowRank, "dora": DoRA, "loha": LoHa, "lokr": LoKr, "full": Full}
"""What learns beside one module, by name."""
