"""The outputs of blocks: inner tensors of the original that a compressed network has too, and can be held to.

1. Unless they are named, they are what residual additions give (an Add of two tensors that both depend on the input of
   the network) and what poolings over windows give, which end the stages of networks without residuals.
2. A tensor is compared where the compressed network has one of that name and shape. What it lacks, where channels are
   gone or layers are replaced, is left out, and said. A name that the original lacks is refused.

Source: Romero et al., FitNets (ICLR 2015), section 2.2, without the regressor: the shapes are the same here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx
from lissom_runtime.errors import UsageError

Shapes = Callable[[Sequence[str]], Mapping[str, tuple[int, ...]]]
"""The shapes of tensors of a network on some samples, by name."""

_POOLINGS = frozenset({"MaxPool", "AveragePool"})


def find_blocks(
    original: onnx.ModelProto, compressed: onnx.ModelProto, names: Sequence[str], before: Shapes, after: Shapes
) -> tuple[list[str], tuple[str, ...]]:
    """The tensors that are compared.

    Args:
        original: the network that is learned from, without functions.
        compressed: the network that learns, without functions.
        names: those that were asked for; none: what residual additions and poolings give.
        before: shapes of the original's tensors.
        after: shapes of the compressed network's, on the same samples.

    Returns:
        Their names, in the order of the graph, and what is to be said of those that are left out.

    Raises:
        UsageError: a tensor that was asked for is not in the original, or that has no blocks.
    """
    ends, given = list(names) or block_ends(original), computed(original)
    if not ends:
        raise UsageError(
            "expected residual additions or poolings, or block_names, to match the outputs of blocks, but the original "
            "has none"
        )
    for name in ends:
        if name not in given:
            raise UsageError(f"expected block_names that nodes of the original give, but none gives {name!r}")
    there = [name for name in ends if name in computed(compressed)]
    wanted, got = before(there), after(there)
    same = [name for name in there if wanted[name] == got[name]]
    other = [name for name in ends if name not in same]
    if not other:
        return same, ()
    said = f"{len(other)} of {len(ends)} outputs of blocks are not in the compressed model, or in another shape"
    return same, (f"{said}: {', '.join(other)}",)


def block_ends(proto: onnx.ModelProto) -> list[str]:
    """What residual additions and poolings over windows give and no output is, in the order of the graph."""
    depending = {value.name for value in proto.graph.input} - {tensor.name for tensor in proto.graph.initializer}
    outputs = {value.name for value in proto.graph.output}
    found = []
    for node in proto.graph.node:
        known = [name for name in node.input if name in depending]
        if not known:
            continue
        depending.update(name for name in node.output if name)
        residual = node.op_type == "Add" and len(known) > 1
        if (residual or node.op_type in _POOLINGS) and node.output[0] not in outputs:
            found.append(node.output[0])
    return found


def computed(proto: onnx.ModelProto) -> set[str]:
    """The tensors that the nodes of a graph give."""
    return {name for node in proto.graph.node for name in node.output if name}
