"""The public names are few and pinned; importing the package is quick and drags in nothing heavy."""

from __future__ import annotations

import statistics
import subprocess
import sys

import sfumato

MAX_PUBLIC_NAMES = 40
PUBLIC = {
    "SAMPLERS",
    "Artifact",
    "Bundle",
    "Checkpoint",
    "Concept",
    "DemoRequest",
    "DoctorRequest",
    "Done",
    "EvaluateRequest",
    "Event",
    "Finding",
    "GenerateRequest",
    "LearnPlan",
    "LearnRequest",
    "Metric",
    "Notice",
    "Picture",
    "Pipeline",
    "Preview",
    "PrimerDataRequest",
    "Progress",
    "ReplayRequest",
    "Settings",
    "SfumatoError",
    "Step",
    "Table",
    "TrainRequest",
    "Verdict",
    "__version__",
    "generate",
    "learn",
    "load",
    "load_bundle",
    "load_concept",
    "plan",
    "read_recipe",
    "run",
    "save_bundle",
}
MAX_IMPORT_S = 0.3
HEAVY = ("diffusers", "transformers", "peft", "sklearn", "scipy", "tensorboard", "resvg_py", "rich", "pandas")


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_public_names_exist_and_are_few() -> None:
    assert len(sfumato.__all__) <= MAX_PUBLIC_NAMES
    assert sorted(sfumato.__all__) == sorted(PUBLIC)
    assert all(getattr(sfumato, name) is not None for name in sfumato.__all__)


def test_import_is_quick() -> None:
    # Seconds of the processor, so that a busy machine does not count.
    code = "import torch, time; start = time.process_time(); import sfumato; print(time.process_time() - start)"
    seconds = statistics.median(float(run_python(code)) for _ in range(3))
    assert seconds <= MAX_IMPORT_S, f"import sfumato takes {seconds:.2f} s beyond torch, at most {MAX_IMPORT_S} s"


def test_import_stays_light() -> None:
    code = "import sys, sfumato; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    assert not set(HEAVY) & set(run_python(code).split())
