"""Every benchmark runs to its end at tiny sizes, and both sides compute the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.options import parser

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("machine", "generate", "cold_start", "waits", "training_step", "unet_step", "lora_step", "kills")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m benchmarks` with these words."""
    command = [sys.executable, "-m", "benchmarks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_an_unknown_benchmark_is_answered_with_the_list() -> None:
    done = run("generat")
    assert done.returncode == 2
    there = ", ".join((*NAMES, "diffusers_scripts", "first_stage", "paper", "settings", "verdict"))
    assert done.stderr == f"Unknown benchmark 'generat'; there are {there}.\n"


def test_repeats_are_offered_where_something_is_repeated() -> None:
    assert parser("name", None, repeats=3).parse_args([]).repeats == 3
    with pytest.raises(SystemExit):
        parser("name", None).parse_args(["--repeats", "1"])


@pytest.mark.slow
def test_first_stages_are_trained_and_measured() -> None:
    done = run("first_stage", "--tiny", "--threads", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("U-Net learns") == 2 and "f = 4, 4×8×8" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_and_both_sides_agree(name: str) -> None:
    repeats = () if name in ("machine", "kills") else ("--repeats", "1")
    done = run(name, "--tiny", "--threads", "1", *repeats)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DIFFER" not in done.stdout
    if name in ("generate", "training_step", "unet_step", "lora_step"):
        assert "results agree" in done.stdout and "ratio" in done.stdout
    if name == "waits":
        assert done.stdout.count(": holds\n") == 3
    if name == "kills":
        assert "3 kills, 3 exact resumes" in done.stdout
