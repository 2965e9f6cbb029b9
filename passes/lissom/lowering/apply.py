"""Surgery: puts a runtime operator in the place of layers and of the nodes behind them that it takes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lissom_runtime.packing import Packed

from lissom.graph.model import Model, Node
from lissom.graph.naming import fresh_stem
from lissom.lowering.chains import ChainSite, Link
from lissom.lowering.emit import DepthwiseStage, SparseStage, emit, emit_chain
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
    node = emit(
        model,
        _name(model, site),
        site.node.inputs[0],
        packed,
        site.bias if behind.bias is None else site.bias + behind.bias,
        site.convolution,
        behind.epilogue,
    )
    parameters = {"block": packed.block, "orientation": packed.orientation, "columns": packed.format}
    _replace(model, [Link(site, behind)], node, parameters)
    return node


def apply_each(model: Model, links: Sequence[Link]) -> None:
    """Replaces each sparse layer of `links` by a node of its own; depthwise ones stay dense."""
    for link in links:
        if link.packed is not None:
            apply(model, link.site, link.packed, link.behind)


def apply_chain(model: Model, chain: ChainSite) -> Node:
    """Replaces the nodes of all layers of `chain` by one, which stands where the last of them stood.

    Args:
        model: the model that holds them.
        chain: the layers.

    Returns:
        The new node.
    """
    first, last = chain.links[0], chain.links[-1]
    node = emit_chain(
        model,
        _name(model, first.site),
        first.site.node.inputs[0],
        chain.signature,
        [_stage(link) for link in chain.links],
        chain.convolution,
        last.residual,
    )
    blocks = [link.packed.block for link in chain.links if link.packed is not None]
    parameters = {"chain": chain.signature.shape, "blocks": blocks, "columns": chain.signature.columns}
    _replace(model, chain.links, node, parameters)
    return node


def _name(model: Model, site: Site) -> str:
    return fresh_stem(f"{site.name}/lissom_0", model)


def _stage(link: Link) -> SparseStage | DepthwiseStage:
    if link.packed is None:
        return DepthwiseStage(link.site.weight, link.site.bias, link.limits)
    return SparseStage(link.packed, link.site.bias, link.limits)


def _replace(model: Model, links: Sequence[Link], node: Node, parameters: Mapping[str, Any]) -> None:
    """Puts `node` where the last node of `links` stands, and takes them all out."""
    old = [gone for link in links for gone in link.nodes]
    names = [gone.name for gone in old]
    for gone in old:
        gone.inputs.clear()
        gone.outputs.clear()
    node.outputs = [links[-1].behind.output]
    gone_ids = {id(gone) for gone in old}
    model.graph.nodes = [
        node if other is old[-1] else other
        for other in model.graph.nodes
        if other is old[-1] or id(other) not in gone_ids
    ]
    model.set_provenance(node, {"kind": KIND, "from": names, "parameters": parameters, "lissom": __version__})
