"""Settings for every test: checked shapes, one thread, no network, the same examples in every run."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import jaxtyping


def modules_with_shapes() -> list[str]:
    """Return the modules that annotate shapes; checks in all others, whose types mypy has, took a third of the time."""
    spec = find_spec("sfumato")
    assert spec is not None and spec.origin is not None
    root = Path(spec.origin).parent
    files = [path for path in root.rglob("*.py") if "jaxtyping" in path.read_text(encoding="utf-8")]
    return [".".join(path.relative_to(root.parent).with_suffix("").parts) for path in files]


# Before the first import of sfumato: from here on every annotated shape is an assertion.
jaxtyping.install_import_hook(modules_with_shapes(), "beartype.beartype")


import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "sfumato",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("sfumato")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Go back to one thread after a test that changed it: the last bits of sums depend on how work is divided."""
    yield
    torch.set_num_threads(1)
