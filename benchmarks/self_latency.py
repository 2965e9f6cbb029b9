"""Compares models with themselves: how often does the 99 % interval cover 1, and how wide is it?

The target is at least 19 of 20, with a half-width below 2 % on a machine that does nothing else. Each comparison opens
two fresh sessions. On a busy machine the intervals are to grow wider, not wrong.

    python benchmarks/self_latency.py [MODEL.onnx ...] [--runs 20] [--seconds 3] [--threads 1] [--ep cpu]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_models import path
from lissom_runtime.latency import PairedLatency, Schedule, compare
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session
from lissom_runtime.target import Machine

HEADER = "model                 covers 1  half-width  worst ratio       median  pairs   busy"
DEFAULT_MODELS = ("lenet5", "mobilenet-small", "resnet20")


def main() -> None:
    """Prints one line a model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, default=[path(name) for name in DEFAULT_MODELS])
    parser.add_argument("--runs", type=int, default=20, help="comparisons of each model")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each comparison")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ep", action="append", default=[], help="execution provider")
    arguments = parser.parse_args()
    request = ProviderRequest.parse(arguments.ep, threads=arguments.threads)
    machine = Machine.here()
    print(f"{machine.cpu}, {machine.cores} cores, onnxruntime {machine.onnxruntime}, {arguments.threads} threads")
    print(HEADER)
    for model in arguments.models:
        results = [self_comparison(model, request, arguments.seconds, seed) for seed in range(arguments.runs)]
        print(line(model.stem, results), flush=True)


def self_comparison(model: Path, request: ProviderRequest, seconds: float, seed: int) -> PairedLatency:
    """Two fresh sessions of `model` against each other."""
    a, b = open_session(model, request), open_session(model, request)
    feeds = {value.name: random_input(value) for value in a.get_inputs()}
    return compare(a, b, feeds, schedule=Schedule(max_pairs=4000, max_seconds=seconds, seed=seed))


def random_input(value: Any) -> npt.NDArray[np.float32]:
    """One random sample for an input whose free axes are set to 1."""
    shape = [extent if isinstance(extent, int) else 1 for extent in value.shape]
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def line(name: str, results: list[PairedLatency]) -> str:
    """Summary of the comparisons of one model."""
    intervals = [result.interval for result in results]
    covered = sum(interval.covers_one for interval in intervals)
    half_width = np.median([(interval.high - interval.low) / 2 for interval in intervals])
    worst = max((interval.ratio for interval in intervals), key=lambda ratio: abs(ratio - 1))
    median = np.median([result.a.median for result in results])
    pairs = int(np.median([len(result.a.us) for result in results]))
    busy = np.median([result.a.busy_threads for result in results])
    share = f"{covered}/{len(results)}"
    return f"{name:20} {share:>9} {half_width:>10.2%} {worst:>12.4f} {median:>9.0f} µs {pairs:>6} {busy:>6.2f}"


if __name__ == "__main__":
    main()
