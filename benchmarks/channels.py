"""Channels or weights removed from networks of known shape: work and latency, beside onnxsim's pruning.

    pip install onnxsim==0.8.1     # in an environment of its own, PYTHON
    python benchmarks/channels.py [--network mobilenetv2] [--keep 0.55] [--onnxsim PYTHON] [--sparsity 0.3]
    python benchmarks/channels.py --network resnet50 --recipe obs --keep 0.3

Weights and calibration images are random: nothing is said of accuracy, only which channels can go and what it is worth.
`lissom` is the recipe under `--keep-macs`; onnxsim is `apply_structured_pruning`, which takes the same share of every
layer that it can cut. Original and both results are timed in the same rounds on one thread, on the kernels of the
runtime where they are used; ratios of latencies with the 99 % interval. `cut` are the layers with fewer rows or columns
than before, or packed, of those with a weight; GiB is the most memory that this process had held when the model was
made.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import lissom
import numpy as np
import onnx
from lissom.canonical import canonicalise
from lissom.data import Feeds
from lissom.graph.load import from_proto
from lissom.lowering.price import provider_of
from lissom.progress import silent
from lissom_runtime.latency import PairedLatency, Schedule, compare_many
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kernels.networks import NETWORKS, build
from benchmarks.results import REPORTS
from benchmarks.subjects import markdown

PEER = """
import onnx, onnxsim, sys
before, after, sparsity = sys.argv[1:]
onnx.save(onnxsim.apply_structured_pruning(onnx.load(before), float(sparsity)), after)
"""
COLUMNS = ("network", "by", "MACs", "parameters", "layers cut", "latency [99 %]", "s", "GiB")


def weights(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The extents of the weights of all convolutions and linear layers, by the node's output."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return {node.output[0]: shapes[node.input[1]] for node in layers if node.input[1] in shapes}


@dataclass(frozen=True)
class Made:
    """A model, with its size."""

    model: onnx.ModelProto
    macs: float
    params: float


def counted(model: onnx.ModelProto, feeds: Feeds) -> Made:
    """A model of standard operators with its size."""
    size = canonicalise(from_proto(model), feeds).original
    return Made(model, size.macs, size.params)


def by_onnxsim(python: str, model: onnx.ModelProto, sparsity: float) -> onnx.ModelProto:
    """What onnxsim makes of a model, in the environment of an interpreter."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        words = [python, "-c", PEER, str(before), str(after), str(sparsity)]
        subprocess.run(words, check=True)  # noqa: S603  the user's own interpreter
        return onnx.load(after)


def by_lissom(model: onnx.ModelProto, recipe: str, keep: float, images: int) -> Made:
    """What a recipe makes of a model, on random images."""
    (source,) = model.graph.input
    shape = [dim.dim_value for dim in source.type.tensor_type.shape.dim][1:]
    drawn = np.random.default_rng(0).standard_normal((images, *shape)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        np.savez(data, **{source.name: drawn})
        found = lissom.compress(
            model, recipe=recipe, bounds={"keep_macs": keep}, calibration=str(data), keep_anyway=True, progress=silent
        )
    assert found.model is not None
    assert found.report.after is not None
    return Made(found.model, found.report.after.macs, found.report.after.params)


def peak_gib() -> float:
    """The most memory that this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(
    name: str, recipe: str, keep: float, images: int, peer: str | None, sparsity: float, seconds: float
) -> list[dict[str, object]]:
    """The rows of one network."""
    model = build(name)
    (source,) = model.graph.input
    feeds = {source.name: np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)}
    original = counted(model, feeds)
    made, spent = {"original": original}, {"original": (0.0, peak_gib())}
    makers: dict[str, Callable[[], Made]] = {f"lissom, {recipe}": lambda: by_lissom(model, recipe, keep, images)}
    if peer is not None:
        makers["onnxsim"] = lambda: counted(by_onnxsim(peer, model, sparsity), feeds)
    for by, make in makers.items():
        began = time.perf_counter()
        made[by] = make()
        spent[by] = time.perf_counter() - began, peak_gib()
    provider = provider_of([found.model for found in made.values()], ProviderRequest())
    runs = [(open_session(found.model.SerializeToString(), provider), feeds) for found in made.values()]
    samples = dict(zip(made, compare_many(runs, schedule=Schedule(max_seconds=seconds)), strict=True))
    before = weights(model)
    rows = []
    for by, found in made.items():
        interval = PairedLatency(samples["original"], samples[by]).interval
        after = weights(found.model)
        rows.append(
            {
                "network": name,
                "by": by,
                "macs": found.macs / original.macs,
                "params": found.params / original.params,
                "cut": sum(after.get(output) != shape for output, shape in before.items()),
                "layers": len(before),
                "ratio": interval.ratio,
                "low": interval.low,
                "high": interval.high,
                "seconds": spent[by][0],
                "gib": spent[by][1],
            }
        )
    return rows


def words(row: Mapping[str, object]) -> list[str]:
    """One line of the table."""
    latency = "1" if row["by"] == "original" else f"{row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
    sizes = [f"{row['macs']:.3f}", f"{row['params']:.3f}", f"{row['cut']} of {row['layers']}"]
    return [str(row["network"]), str(row["by"]), *sizes, latency, f"{row['seconds']:.0f}", f"{row['gib']:.1f}"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and keeps it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=sorted(NETWORKS), default=["mobilenetv2"])
    parser.add_argument("--recipe", choices=["nodes", "obs"], default="nodes", help="what lissom does")
    parser.add_argument("--keep", type=float, default=0.55, help="share of the multiply-accumulates")
    parser.add_argument("--images", type=int, default=32, help="random calibration images")
    parser.add_argument("--onnxsim", metavar="PYTHON", help="interpreter of an environment with onnxsim")
    parser.add_argument("--sparsity", type=float, default=0.3, help="share of the channels that onnxsim removes")
    parser.add_argument("--seconds", type=float, default=30.0, help="of the measurement of each network")
    arguments = parser.parse_args(argv)
    rows: list[dict[str, object]] = []
    for name in arguments.network:
        asked = (
            arguments.recipe,
            arguments.keep,
            arguments.images,
            arguments.onnxsim,
            arguments.sparsity,
            arguments.seconds,
        )
        rows += measure(name, *asked)
    print(markdown(COLUMNS, [words(row) for row in rows]))
    REPORTS.mkdir(parents=True, exist_ok=True)
    (REPORTS / "channels.json").write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
