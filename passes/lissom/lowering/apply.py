"""Surgery: puts a runtime operator in the place of a layer and of the nodes behind it that it takes in."""

from __future__ import annotations

from lissom_runtime.packing import Packed

from lissom.graph.model import Model, Node
from lissom.lowering.emit import emit
from lissom.lowering.fuse import Tail
from lissom.lowering.propose import KIND, Site
from lissom.version import __version__


def apply(model: Model, site: Site, packed: Packed, behind: Tail) -> Node:
    """Replaces the nodes of `site` by one.

    The node stands where the last of them stood, because a residual may be produced after the layer.

    Args:
        model: the model that holds them.
        site: the layer.
        packed: its weight.
        behind: the nodes behind it that go with it.

    Returns:
        The new node.
    """
    old = [site.node, *behind.nodes]
    node = emit(
        model,
        f"{site.name}/lissom_0",
        site.node.inputs[0],
        packed,
        site.bias if behind.bias is None else site.bias + behind.bias,
        site.convolution,
        behind.epilogue,
    )
    names = [gone.name for gone in old]
    for gone in old:
        gone.inputs.clear()
        gone.outputs.clear()
    node.outputs = [behind.output]
    gone_ids = {id(gone) for gone in old}
    model.graph.nodes = [
        node if other is old[-1] else other
        for other in model.graph.nodes
        if other is old[-1] or id(other) not in gone_ids
    ]
    parameters = {"block": packed.block, "orientation": packed.orientation, "columns": packed.format}
    model.set_provenance(node, {"kind": KIND, "from": names, "parameters": parameters, "lissom": __version__})
    return node
