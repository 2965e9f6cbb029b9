"""Real time of pruned activations in fully connected layers, batch 1: SparseGemm reads the weights of winners alone.

    python benchmarks/activations_latency.py [--seconds 20] [--threads 1]
    python benchmarks/activations_latency.py --fast

*layer*: one 4096 × 4096 layer, 10 % of its weights kept, on inputs of which a given share is not zero. The ratio is to
the same operator on inputs without a zero, which passes nothing over.

*network*: 784-2048-2048-10, 10 % of the weights kept (20 % of the last layer's), masks of the published rates, 12 and
24 % winners, behind the hidden layers. The thresholds are quantiles of calibration samples; ONNX Runtime with the dense
weights and no mask is the reference. The masks alone and the zeros of the weights alone are there too, and the masks on
dense weights in ONNX Runtime, which passes nothing over.

Weights are random, in 1×1 and 4×1 blocks, and inputs normally distributed. Each run reads the next one of `INPUTS`
inputs, so that no two consecutive runs find the columns of the same winners in the caches. All rows of a table are
timed in the same rounds.

Source of the rates: Integral Pruning on Activations and Weights for Efficient Neural Networks (ICLR 2019 submission),
MLP-3.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lissom
import numpy as np
import onnx
from lissom.activations.insert import insert
from lissom.activations.sensitivity import static_masks
from lissom.activations.sites import find_sites
from lissom.activations.thresholds import observe_magnitudes
from lissom.canonical import canonicalise
from lissom.graph.load import from_proto
from lissom.observe import observe_shapes, run_batches
from lissom_runtime.latency import Feeds, PairedLatency, Runnable, Samples, Schedule, compare_many
from lissom_runtime.library import get_library_path
from lissom_runtime.packing import pack
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session
from lissom_runtime.target import Machine
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.kernels import chains
from benchmarks.kernels.builder import LEAST_IR, OPSET
from benchmarks.kernels.sparsity import FloatArray, sparse_weight
from benchmarks.results import REPORTS
from benchmarks.subjects import markdown

BLOCKS = (1, 4)
DENSITY, LAST_DENSITY = 0.1, 0.2
"""Shares of weights that are kept: of all layers but the last, and of that."""

WIDTH = 4096
SHARES = (1.0, 0.5, 0.35, 0.29, 0.2, 0.1, 0.05)
"""Of the inputs of the layer, not zero; the first is the reference."""

FEATURES = (784, 2048, 2048, 10)
RATES = (0.12, 0.24)
"""Winner rates behind the hidden layers."""

INPUTS = 32
CALIBRATION = 512


@dataclass(frozen=True)
class Row:
    """One engine of a table.

    Attributes:
        block: rows of the weight that share a pattern; 0: the weight is dense.
        nonzero: share of the activations that are not zero, of each layer's input.
        median: microseconds a run.
        speed: how many times as fast as the reference, with the 99 % interval.
    """

    name: str
    block: int
    nonzero: Sequence[float]
    median: float
    speed: tuple[float, float, float]
    busy: float


class Cycle:
    """A session that reads the next input at each run, whatever it is given."""

    def __init__(self, session: Runnable, inputs: Sequence[Feeds]) -> None:
        self._session, self._inputs, self._next = session, inputs, 0

    def run(self, output_names: Sequence[str] | None, _: Feeds) -> Sequence[Any]:
        """The outputs for the next input."""
        self._next = (self._next + 1) % len(self._inputs)
        return self._session.run(output_names, self._inputs[self._next])


def measure(
    named: Sequence[tuple[str, int, Sequence[float], Runnable]], schedule: Schedule, reference: int = 0
) -> list[Row]:
    """Times (name, block, shares that are not zero, engine) in the same rounds; the reference is one of them."""
    samples = compare_many([(engine, {}) for *_, engine in named], schedule=schedule)
    return [
        Row(name, block, nonzero, found.median, speed(samples[reference], found), found.busy_threads)
        for (name, block, nonzero, _), found in zip(named, samples, strict=True)
    ]


def speed(reference: Samples, found: Samples) -> tuple[float, float, float]:
    """How many times as fast as the reference, and the ends of the interval."""
    interval = PairedLatency(found, reference).interval
    return interval.ratio, interval.low, interval.high


def layer_rows(block: int, shares: Sequence[float], request: ProviderRequest, schedule: Schedule) -> list[Row]:
    """One wide layer on inputs with `shares` that are not zero."""
    rng = np.random.default_rng(0)
    packed = pack(sparse_weight((WIDTH, WIDTH), DENSITY, block, rng), block)
    model = chains.sparse_gemm(1, packed, rng.standard_normal(WIDTH, np.float32)).model
    named = []
    for share in shares:
        inputs = [{"x": with_zeros(share, rng)} for _ in range(INPUTS)]
        engine = Cycle(open_session(model, request), inputs)
        named.append((f"{WIDTH}→{WIDTH}", block, [share], engine))
    return measure(named, schedule)


def with_zeros(share: float, rng: np.random.Generator) -> FloatArray:
    """x[1, WIDTH], of which round(share · WIDTH) elements at random places are not zero."""
    x = np.zeros((1, WIDTH), np.float32)
    kept = rng.permutation(WIDTH)[: round(share * WIDTH)]
    x[0, kept] = rng.standard_normal(len(kept), np.float32)
    return x


def network(block: int, density: float) -> onnx.ModelProto:
    """x[batch, 784] -> y[batch, 10], two hidden layers with ReLU; density 1: dense weights."""
    rng = np.random.default_rng(0)
    nodes, constants, last = [], [], "x"
    pairs = list(itertools.pairwise(FEATURES))
    for index, (depth, rows) in enumerate(pairs):
        is_last = index == len(pairs) - 1
        kept = LAST_DENSITY if is_last and density < 1 else density
        moment = 0.5 if index else 1.0  # of what a ReLU gives
        weight = sparse_weight((rows, depth), kept, 1 if rows % block else block, rng, moment)
        constants += [
            numpy_helper.from_array(weight, f"fc{index}.weight"),
            numpy_helper.from_array(0.1 * rng.standard_normal(rows, np.float32), f"fc{index}.bias"),
        ]
        inputs = [last, f"fc{index}.weight", f"fc{index}.bias"]
        last = "y" if is_last else f"fc{index}.sum"
        nodes.append(helper.make_node("Gemm", inputs, [last], f"fc{index}", transB=1))
        if not is_last:
            nodes.append(helper.make_node("Relu", [last], [f"fc{index}.out"], f"fc{index}.relu"))
            last = f"fc{index}.out"
    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", features))
        for name, features in (("x", FEATURES[0]), ("y", FEATURES[-1]))
    ]
    graph = helper.make_graph(nodes, "mlp", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=LEAST_IR)


def pruned(proto: onnx.ModelProto, calibration: Feeds, inputs: Sequence[Feeds]) -> tuple[onnx.ModelProto, list[float]]:
    """A network with masks at `RATES`, and the share of each layer's input that is not zero then."""
    canonical = canonicalise(from_proto(proto), inputs[0])
    model = canonical.model
    sites = find_sites(model, canonical.layers).sites
    mask_at = static_masks(observe_magnitudes(model, sites, [calibration]))
    masks = {site.tensor: mask_at(site.tensor, rate) for site, rate in zip(sites, RATES, strict=True)}
    refused = insert(model, sites, masks, observe_shapes(model, list(masks), inputs[0]))
    if refused:
        raise ValueError(f"expected both masks to be inserted, but got: {refused[0].reason}")
    return model.to_proto(), nonzero(model.to_proto(), inputs)


def nonzero(proto: onnx.ModelProto, inputs: Sequence[Feeds]) -> list[float]:
    """The share of each layer's input that is not zero."""
    model = from_proto(proto)
    names = [node.inputs[0].name for node in model.graph.nodes if node.op == "Gemm"]
    seen = [[np.mean(values[name] != 0) for name in names] for values in run_batches(model, names, inputs)]
    return [float(share) for share in np.mean(seen, axis=0)]


def network_rows(block: int, request: ProviderRequest, schedule: Schedule) -> list[Row]:
    """The network: dense, with masks, with sparse weights, and with both."""
    rng = np.random.default_rng(1)
    inputs = [{"x": rng.standard_normal((1, FEATURES[0]), np.float32)} for _ in range(INPUTS)]
    calibration = {"x": rng.standard_normal((CALIBRATION, FEATURES[0]), np.float32)}
    dense, sparse = network(1, 1.0), network(block, DENSITY)
    masked_dense, winners_of_dense = pruned(dense, calibration, inputs)
    masked_sparse, winners = pruned(sparse, calibration, inputs)
    plain = ProviderRequest(threads=request.threads)

    def engine(proto: onnx.ModelProto, is_lowered: bool) -> Runnable:
        model = lissom.lower(proto, shapes={"x": (1, FEATURES[0])}, measured=False).model if is_lowered else proto
        return Cycle(open_session(model.SerializeToString(), request if is_lowered else plain), inputs)

    return measure(
        [
            ("ONNX Runtime, dense", 0, nonzero(dense, inputs), engine(dense, False)),
            ("ONNX Runtime, dense, masks", 0, winners_of_dense, engine(masked_dense, False)),
            ("sparse weights", block, nonzero(sparse, inputs), engine(sparse, True)),
            ("sparse weights, masks", block, winners, engine(masked_sparse, True)),
        ],
        schedule,
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown, a line a row; shares in percent."""
    columns = ["engine", "block", "not zero %", "median µs", "× the first", "busy"]
    return markdown(
        columns,
        [
            [
                *(row.name, str(row.block or "-"), ", ".join(f"{100 * share:.0f}" for share in row.nonzero)),
                *(f"{row.median:.1f}", "{:.2f} [{:.2f}, {:.2f}]".format(*row.speed), f"{row.busy:.2f}"),
            ]
            for row in rows
        ],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the tables and writes build/results/activations_latency.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each table")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fast", action="store_true", help="two shares and the network, 1 s each: does it work?")
    arguments = parser.parse_args(argv)
    request = ProviderRequest(custom_op_libraries=(get_library_path(),), threads=arguments.threads)
    seconds = 1.0 if arguments.fast else arguments.seconds
    schedule = Schedule(warmup=INPUTS, min_pairs=24, max_pairs=4000, max_seconds=seconds)
    machine = Machine.here()
    print(f"{machine.cpu}, {machine.cores} cores, onnxruntime {machine.onnxruntime}, {arguments.threads} threads")
    found: dict[str, list[Row]] = {}
    for block in BLOCKS:
        found[f"layer, {block}×1"] = layer_rows(block, (1.0, 0.2) if arguments.fast else SHARES, request, schedule)
        found[f"network, {block}×1"] = network_rows(block, request, schedule)
    for title, rows in found.items():
        print(f"\n{title}\n\n{table(rows)}", flush=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine.to_json(),
        "threads": arguments.threads,
        "tables": {title: [vars(row) for row in rows] for title, rows in found.items()},
    }
    target = REPORTS / f"activations_latency{'-fast' if arguments.fast else ''}.json"
    target.write_text(json.dumps(content), encoding="utf-8")
    print(f"\nwrote {target}")


if __name__ == "__main__":
    main()
