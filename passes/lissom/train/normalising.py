"""Batch normalisations behind convolutions, put back so that a network can be trained at high learning rates.

A normalisation with mean m, variance v, scale √(v + ε) and shift m passes on what it gets. With m and v those of the
convolution's output on some samples, a training that updates the statistics begins where the network was, and its
layers learn as those of a network that was normalised from the start. It is folded again when the network is
compressed.

A convolution gets none

1. whose output another convolution alone reads: the encoder of a pair;
2. whose output a normalisation reads, or that is an output of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.data import Feeds
from lissom.graph.model import Model, Node, constant, is_standard, make_node, variable
from lissom.observe import run_batches

EPSILON = 1e-5


def with_norms(model: Model, batches: Sequence[Feeds]) -> list[str]:
    """Puts normalisations into a model, in place.

    Args:
        model: the model; its nodes have names.
        batches: samples that the statistics are taken of.

    Returns:
        Names of the convolutions that have one now.
    """
    nodes = [node for node in model.graph.nodes if is_standard(node, "Conv") and _takes_one(model, node)]
    statistics = _statistics(model, [node.outputs[0].name for node in nodes], batches)
    for node in nodes:
        output, (mean, variance) = node.outputs[0], statistics[node.outputs[0].name]
        raw = variable(f"{node.name}/lissom_raw", like=output)
        name = f"{node.name}/lissom_norm"
        parts = {"scale": np.sqrt(variance + EPSILON), "shift": mean, "mean": mean, "variance": variance}
        inputs = [constant(f"{name}_{part}", values.astype(np.float32)) for part, values in parts.items()]
        norm = make_node("BatchNormalization", name, [raw, *inputs], [], {"epsilon": EPSILON})
        told = dict(model.provenance(node))
        node.outputs = [raw]
        norm.outputs = [output]
        if told:
            model.set_provenance(node, told)
        position = next(i for i, other in enumerate(model.graph.nodes) if other is node)
        model.graph.nodes.insert(position + 1, norm)
    return [node.name for node in nodes]


def _takes_one(model: Model, node: Node) -> bool:
    output = node.outputs[0]
    readers = {reader.op for reader in output.outputs}
    return model.consumers(output) == len(output.outputs) > 0 and not readers <= {"Conv", "BatchNormalization"}


def _statistics(
    model: Model, names: Sequence[str], batches: Sequence[Feeds]
) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Mean[channels] and variance[channels] of some tensors[n, channels, ...]."""
    sums: dict[str, list[Any]] = {name: [0.0, 0.0, 0] for name in names}
    for found in run_batches(model, names, batches):
        for name, values in found.items():
            wide = np.moveaxis(values, 1, -1).reshape(-1, values.shape[1]).astype(np.float64)
            sums[name][0] += wide.sum(axis=0)
            sums[name][1] += (wide**2).sum(axis=0)
            sums[name][2] += len(wide)
    return {
        name: (total / count, np.maximum(squares / count - (total / count) ** 2, 0))
        for name, (total, squares, count) in sums.items()
    }
