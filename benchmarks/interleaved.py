"""Latencies of some models of the same inputs in the same rounds, in a process of its own.

    LISSOM_ISA=scalar python benchmarks/interleaved.py FEEDS.npz MODEL.onnx [OTHER.onnx ...] [--seconds 10]

The kernels are chosen once in a process, so that another instruction set needs another one. Prints the instruction set
of the kernels that ran, and for each model but the first the ratio of its latency to the first one's with the 99 %
interval, as JSON. One thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from lissom.data import Feeds
from lissom.lowering.price import native
from lissom_runtime import library
from lissom_runtime.errors import LoadError
from lissom_runtime.intervals import Interval
from lissom_runtime.latency import PairedLatency, Schedule, compare_many
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session


@dataclass(frozen=True)
class Compared:
    """What was measured.

    Attributes:
        kernels: instruction set of the kernels.
        intervals: ratio of latencies of each model but the first to the first.
    """

    kernels: str
    intervals: Sequence[Interval]


def compare_apart(models: Sequence[onnx.ModelProto], feeds: Feeds, seconds: float, isa: str | None = None) -> Compared:
    """Compares models in another process.

    Args:
        models: of the same inputs.
        feeds: the inputs.
        seconds: of the measurement, at most.
        isa: best instruction set that the kernels may use; None: what this process may.
    """
    environment: Mapping[str, str] = os.environ if isa is None else {**os.environ, library.LIMIT: isa}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.onnx" for number in range(len(models))]
        for file, model in zip(files, models, strict=True):
            onnx.save(model, file)
        given = Path(folder) / "feeds.npz"
        np.savez(given, **feeds)
        words = [sys.executable, __file__, str(given), *map(str, files), "--seconds", str(seconds)]
        done = subprocess.run(words, check=True, env=environment, stdout=subprocess.PIPE, text=True)  # noqa: S603  # own words
    found = json.loads(done.stdout)
    return Compared(found["kernels"], [Interval(**interval) for interval in found["intervals"]])


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("feeds", type=Path, metavar="FEEDS.npz")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the measurement, at most")
    arguments = parser.parse_args(argv)
    provider = native(ProviderRequest())
    if provider is None:
        raise LoadError("expected the kernel library, but this installation has none")
    with np.load(arguments.feeds, allow_pickle=False) as arrays:
        feeds = {name: arrays[name] for name in arrays.files}
    runs = [(open_session(path, provider), feeds) for path in arguments.models]
    first, *others = compare_many(runs, schedule=Schedule(max_seconds=arguments.seconds))
    intervals = [vars(PairedLatency(first, other).interval) for other in others]
    print(json.dumps({"kernels": library.instruction_set(), "intervals": intervals}))


if __name__ == "__main__":
    main()
