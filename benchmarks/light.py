"""Compressed networks beside light ones that were trained from scratch on the same data (docs/recovery.md).

    python models/train/train.py resnet20-0.75 --out training
    python models/train/export.py resnet20-0.75 --checkpoint training/resnet20-0.75.pt --out training
    python benchmarks/retrain.py cascade --state build/retrain
    python benchmarks/light.py "width 0.75=training/resnet20-0.75.onnx" "alds=build/retrain/.../keep-0.25.onnx"

Prints parameters, multiply-accumulates, bytes, top-1 on the 10,000 test images of Fashion-MNIST, and the latency
against the zoo's `resnet20`: of that, of `mobilenet-small`, and of the files that are named. All latencies are of one
measurement, on one thread at batch 1. Batch normalisations are folded before anything is counted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import lissom_models
import numpy as np
from lissom.canonical import canonicalise
from lissom.graph.load import load
from lissom_runtime.errors import UsageError

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.interleaved import compare_apart
from benchmarks.retraining.common import top1


def named(text: str) -> tuple[str, Path]:
    """The name and the file of `NAME=FILE`."""
    name, _, file = text.partition("=")
    if not name or not file:
        raise UsageError(f"expected NAME=FILE, but got {text!r}")
    return name, Path(file)


def main(argv: Sequence[str] | None = None) -> None:
    """Counts, scores, times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("others", nargs="*", metavar="NAME=FILE", help="a network of the same inputs")
    parser.add_argument("--tested", type=int, help="the first test images only")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the measurement, at most")
    arguments = parser.parse_args(argv)
    zoo = [(name, lissom_models.path(name)) for name in ("resnet20", "mobilenet-small")]
    subjects = [*zoo, *map(named, arguments.others)]
    test = lissom_models.test("resnet20")
    with np.load(test, allow_pickle=False) as arrays:
        feeds = {"image": arrays["image"][:1]}
    found = [canonicalise(load(file), feeds) for _, file in subjects]
    models = [canonical.model.to_proto() for canonical in found]
    intervals = compare_apart(models, feeds, arguments.seconds).intervals
    ratios = ["1", *(f"{ratio.ratio:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" for ratio in intervals)]
    print("| network | parameters | MACs, M | bytes | top 1, % | latency |\n|---|---:|---:|---:|---:|---|")
    for (name, _), canonical, model, ratio in zip(subjects, found, models, ratios, strict=True):
        told = f"{canonical.totals.params:,} | {canonical.totals.macs / 1e6:.1f} | {canonical.totals.bytes:,}"
        print(f"| {name} | {told} | {top1(model, test, arguments.tested):.2f} | {ratio} |")


if __name__ == "__main__":
    main()
