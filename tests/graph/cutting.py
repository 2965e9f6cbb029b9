"""What a model must compute once channels were cut, from the model as it was."""

from __future__ import annotations

import numpy as np
from lissom.graph.channels.atoms import IntArray
from lissom.graph.channels.coupling import Coupling
from lissom.graph.channels.edits import Bias, Take
from lissom.graph.model import Model, Node, constant
from lissom.nodes.groups import find_groups


def some_roots(coupling: Coupling, seed: int) -> IntArray:
    """Of every group some indices, never all."""
    rng = np.random.default_rng(seed)
    chosen = [
        rng.choice(group.roots, rng.integers(0, len(group)), replace=False) for group in find_groups(coupling).groups
    ]
    return np.concatenate([np.zeros(0, np.int64), *chosen])


def blank(node: Node, position: int, axis: int, where: IntArray) -> None:
    """Writes zeros into a constant input, at `where` along an axis."""
    values = node.inputs[position].values.copy()
    np.moveaxis(values, axis, 0)[where] = 0
    node.inputs[position] = constant(node.inputs[position].name, values)


def silence(model: Model, coupling: Coupling, gone: IntArray) -> None:
    """Lets channels be 0 wherever they are: rows, biases, and what is multiplied with or added to them on the way."""
    nodes = {node.name: node for node in model.graph.nodes}
    silent = np.isin(coupling.roots, gone)
    for edit in coupling.edits:
        if not isinstance(edit, Take | Bias):
            continue
        node, where = nodes[edit.node], np.flatnonzero(silent[edit.atoms])
        if isinstance(edit, Bias):
            if len(node.inputs) > 2:
                blank(node, 2, -1, where)
        elif not (edit.axis == columns_axis(node) and edit.position == 1) and edit.position != 4:
            blank(node, edit.position, edit.axis, where)


def columns_axis(node: Node) -> int | None:
    """Along which axis the weight of a layer has its columns."""
    match node.op:
        case "Conv":
            return 1
        case "ConvTranspose" | "MatMul":
            return 0
        case "Gemm":
            return 1 if node.attrs.get("transB", 0) else 0
    return None


def deafen(model: Model, coupling: Coupling, gone: IntArray) -> None:
    """Lets no layer read the channels: its columns for them are 0."""
    for node in model.graph.nodes:
        if node.name in coupling.columns:
            axis, roots = columns_axis(node), coupling.columns[node.name]
            width = len(roots) // int(node.attrs.get("group", 1)) if node.op == "Conv" else len(roots)
            assert axis is not None
            blank(node, 1, axis, np.flatnonzero(np.isin(roots[:width], gone)))
