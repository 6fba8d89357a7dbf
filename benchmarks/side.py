"""One side of a comparison, in a process of its own: it does its work each time the other end says so."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

from sfumato.runtime.peak_memory import peak_memory_bytes

ROOT = Path(__file__).resolve().parents[1]


class Side:
    """A process that repeats one piece of work on demand.

    Args:
        module: Module of this package that answers `--side NAME`.
        name: `sfumato` or `diffusers`.
        words: Further options.
    """

    def __init__(self, module: str, name: str, words: Sequence[str]) -> None:
        self.name = name
        command = [sys.executable, "-m", f"benchmarks.{module}", "--side", name, *words]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait()

    def read(self) -> dict[str, Any]:
        """Wait for the next answer."""
        line = self._pipe(self._process.stdout).readline()
        if not line:
            raise SystemExit(f"The side '{self.name}' ended without an answer; its error stands above.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def repeat(self) -> float:
        """Do the work once and return its seconds."""
        stdin = self._pipe(self._process.stdin)
        stdin.write("again\n")
        stdin.flush()
        return float(self.read()["seconds"])

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        """Return a pipe that is known to be open."""
        assert pipe is not None
        return pipe


def serve(work: Callable[[], object], facts: Mapping[str, Any]) -> None:
    """Warm up, count the operations, then repeat the work for every line on standard input.

    Args:
        work: What is measured.
        facts: Further values for the first answer.
    """
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    work()
    before = peak_memory_bytes()
    with flop_counter() as counter:
        work()
    answer(flops=counter.get_total_flops(), memory=before, **facts)
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        answer(seconds=time.perf_counter() - start)


def flop_counter() -> FlopCounterMode:
    """Count operations, those of the CPU's fused attention and of packed weights too."""
    ops = torch.ops.aten

    def backward(grad: Sequence[int], q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
        return int(sdpa_backward_flop_count(grad, q, k, v))

    def forward(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(q, k, v))

    def packed_kernel(x: Sequence[int], kernel: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
        return int(conv_flop_count(list(x), list(kernel), list(out_shape)))

    def packed_matrix(x: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
        return 2 * math.prod(out_shape) * x[-1]

    mapping = {
        ops._scaled_dot_product_flash_attention_for_cpu: forward,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    for name, count in (("_convolution_pointwise", packed_kernel), ("_linear_pointwise", packed_matrix)):
        if hasattr(torch.ops.mkldnn, name):
            mapping[getattr(torch.ops.mkldnn, name)] = count
    return FlopCounterMode(display=False, custom_mapping=mapping)
