"""What this machine can do: the best GFLOP/s of convolutions and matrix products in float32."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.options import parser

_SECONDS = 0.6


@dataclass(frozen=True)
class Peak:
    """Best GFLOP/s measured.

    Attributes:
        conv: 3×3 convolutions, channels-last.
        gemm: Matrix products.
    """

    conv: float
    gemm: float

    @property
    def best(self) -> float:
        """The larger of the two."""
        return max(self.conv, self.gemm)

    def __str__(self) -> str:
        return f"machine peak: conv {self.conv:.0f} GFLOP/s, GEMM {self.gemm:.0f} GFLOP/s"


def fastest(work: Callable[[], object], seconds: float) -> float:
    """Return the seconds of the fastest of many calls.

    Args:
        work: What to call; the first call does not count.
        seconds: How long to try.
    """
    work()
    least, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        least = min(least, time.perf_counter() - start)
    return least


def best_rate(work: Callable[[], Tensor], flops: int, seconds: float) -> float:
    """Return the GFLOP/s of the fastest of many calls.

    Args:
        work: What to call.
        flops: Floating-point operations of one call.
        seconds: How long to try.
    """
    return flops / fastest(work, seconds) / 1e9


@torch.no_grad()
def measure(threads: int, *, tiny: bool = False) -> Peak:
    """Measure the peak with the threads that a benchmark uses.

    Args:
        threads: Threads of torch.
        tiny: Small sizes and one moment only.

    Returns:
        The peak over several sizes.
    """
    torch.set_num_threads(threads)
    seconds = 0.01 if tiny else _SECONDS
    conv = gemm = 0.0
    for rows, channels, side in ((2, 32, 8),) if tiny else ((8, 256, 8), (32, 256, 16), (2, 320, 64), (2, 1280, 16)):
        layout = torch.channels_last
        x = torch.randn(rows, channels, side, side).to(memory_format=layout)
        kernel = torch.randn(channels, channels, 3, 3).to(memory_format=layout)
        flops = 2 * rows * side * side * channels * channels * 9
        conv = max(conv, best_rate(lambda x=x, kernel=kernel: F.conv2d(x, kernel, padding=1), flops, seconds))  # type: ignore[misc]
    for size in (64,) if tiny else (1024, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        gemm = max(gemm, best_rate(lambda a=a, b=b: a @ b, 2 * size**3, seconds))  # type: ignore[misc]
    return Peak(conv, gemm)


def main(words: Sequence[str] | None = None) -> int:
    """Measure and print the peak.

    Args:
        words: Options.

    Returns:
        Exit code 0.
    """
    options = parser("machine", __doc__).parse_args(words)
    sys.stdout.write(f"  {measure(options.threads, tiny=options.tiny)} ({options.threads} threads)\n")
    sys.stdout.flush()
    return 0
