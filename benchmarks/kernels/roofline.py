"""What this processor can do at most, measured here: arithmetic from registers, and bytes by how many are touched.

The time of a layer is at least the larger of its arithmetic at the peak rate and its bytes at the rate of the memory
that holds them. That rate is a copy's, for as many bytes as the layer touches: a layer whose tensors fit the second
cache is held against the second cache, and one that does not against what lies behind it.

    python benchmarks/kernels/roofline.py [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.kernels.compiler import compiled

Bound = Literal["arithmetic", "memory"]


@dataclass(frozen=True)
class Roofline:
    """The processor's limits with `threads` threads.

    Attributes:
        peak_gflops: 10^9 operations a second; a fused multiply-add is two.
        bandwidth: (bytes touched, 10^9 bytes a second read plus written), ascending.
    """

    threads: int
    peak_gflops: float
    bandwidth: tuple[tuple[float, float], ...]

    def gbps(self, size: float) -> float:
        """Bandwidth for `size` bytes, 10^9 bytes a second: interpolated between the sizes measured."""
        sizes, rates = np.log(self.bandwidth).T
        return float(np.exp(np.interp(np.log(size), sizes, rates)))

    def bound(self, flops: float, size: float) -> tuple[float, Bound]:
        """The least time for `flops` operations on `size` bytes, microseconds, and what sets it."""
        arithmetic, memory = flops / self.peak_gflops / 1e3, size / self.gbps(size) / 1e3
        return (arithmetic, "arithmetic") if arithmetic >= memory else (memory, "memory")


def measure(threads: int = 1) -> Roofline:
    """Measures; takes some seconds.

    Raises:
        LoadError: there is no C++ compiler.
    """
    command = [str(compiled("roofline")), str(threads)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)  # noqa: S603  # ours
    return Roofline(found["threads"], found["peak_gflops"], tuple((size, rate) for size, rate in found["bandwidth"]))


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    roofline = measure(parser.parse_args(argv).threads)
    print(f"{roofline.threads} threads: {roofline.peak_gflops:.0f} GFLOP/s from registers")
    for size, rate in roofline.bandwidth:
        print(f"{size / 1024:>10.0f} KiB {rate:>8.1f} GB/s")


if __name__ == "__main__":
    main()
