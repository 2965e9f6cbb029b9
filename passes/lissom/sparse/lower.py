"""Packs the layers that a plan made block-sparse: each becomes one operator of the runtime (docs/runtime.md).

This comes last: the layers have their final weights, whose zeros are where the plan put them. A layer takes in what it
can of the nodes behind it, as with `lissom lower`, in topological order; nothing is timed and no chains are made. It
stays dense, with its zeros, where the runtime has no operator for it (`lowering.propose`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lissom_runtime.contract import DOMAIN
from lissom_runtime.packing import pack
from lissom_runtime.providers import ProviderRequest

from lissom.data import Feeds
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.lowering.apply import apply
from lissom.lowering.fuse import tail
from lissom.lowering.price import native
from lissom.lowering.propose import propose, sources
from lissom.observe import observe_shapes
from lissom.options import Option, Refusal
from lissom.sparse.blocks import Blocks, is_packed
from lissom.sparse.propose import KIND
from lissom.verify import require_same
from lissom.version import __version__


def pack_layers(
    model: Model, layers: Sequence[Layer], options: Mapping[str, Option], refitted: Collection[str], feeds: Feeds
) -> list[Refusal]:
    """Packs the layers whose option is block-sparse, in place.

    Args:
        model: the model after surgery.
        layers: those of the original model; since then they may have lost channels, but no part of a block.
        options: what was chosen for them, by name.
        refitted: names of the layers that were given other numbers than their option's, for their provenance.
        feeds: one input.

    Returns:
        What stays dense, and why.
    """
    chosen = {layer.name: layer for layer in layers if _is_packed(layer, options.get(layer.name))}
    if not chosen:
        return []
    seen = observe_shapes(model, sources(model), feeds)
    names = "|".join(re.escape(name) for name in chosen)
    proposal = propose(model, seen, max_density=1.0, include=f"^(?:{names})$")
    for site in proposal.sites:
        parameters = options[site.name].parameters
        blocks = Blocks.named(chosen[site.name].geometry, parameters)
        behind = tail(model, site.node, len(site.weight), seen)
        done: dict[str, Any] = {
            "kind": KIND,
            "from": [site.name, *(node.name for node in behind.nodes)],
            "lissom": __version__,
        }
        if site.name in refitted:
            done["refit"] = True
        node = apply(model, site, pack(site.weight, *blocks.packed), behind)
        model.set_provenance(node, {**done, "parameters": dict(parameters)})
    return [refusal for refusal in proposal.refusals if refusal.site in chosen]


def _is_packed(layer: Layer, option: Option | None) -> bool:
    return option is not None and option.kind == KIND and is_packed(layer.geometry, str(option.parameters["pattern"]))


def require_native(expected: Model, model: Model, feeds: Feeds) -> None:
    """Runs a model that has operators of the runtime on their kernels too, where there are any, and compares.

    Args:
        expected: what is right, in standard operators.
        model: what is compared with it.
        feeds: the input.

    Raises:
        VerificationError: they differ.
    """
    provider = native(ProviderRequest())
    if provider is not None and any(node.domain == DOMAIN for node in model.graph.nodes):
        require_same(expected, model, feeds, "the compressed model on its kernels", provider)
