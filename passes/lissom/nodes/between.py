"""What stands between the layers of a network, as channel groups see it: it takes time, and less with fewer channels.

Additions, activations that no layer takes up, concatenations, resizing: all go over a tensor once, so that what they
take is taken as proportional to the channels of it that are left. So it is for the reorders that ONNX Runtime puts
between its own layout and the plain one (`lissom.price.between`). Those bear no name of the model, only a shape: what
the tensors of that shape lose, on average, is what they lose.

1. A node whose first output has no channels that are followed is left out: its time is no group's.
2. So are pinned channels: their share of the time stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from lissom.graph.channels.atoms import IntArray
from lissom.graph.channels.coupling import Coupling
from lissom.graph.model import Model
from lissom.nodes.groups import ChannelGroup
from lissom.nodes.widths import Part
from lissom.options import Cost
from lissom.price.between import reorder

_NOTHING = Cost(0.0, 0.0, 0.0)


def between(
    model: Model, coupling: Coupling, groups: Mapping[str, ChannelGroup], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Part]:
    """What stands between the layers, by the name under which its time is measured.

    Args:
        model: the model that was analysed.
        coupling: which of its channels are one.
        groups: the groups, by site.
        shapes: shapes of tensors.
    """
    owner = np.full(len(coupling.roots), len(groups))
    for number, group in enumerate(groups.values()):
        owner[group.roots] = number
    sites = list(groups)
    sizes = np.array([len(group) for group in groups.values()])

    def shares(tensor: str) -> IntArray:
        """How many[group] of a tensor's channels each group has."""
        found: IntArray = np.bincount(owner[coupling.roots[coupling.tensors[tensor].atoms]], minlength=len(sites) + 1)
        return found

    layers = coupling.rows.keys() | coupling.through.keys()
    of_shape: dict[tuple[int, ...], list[str]] = defaultdict(list)
    tensors: dict[str, list[str]] = {}
    for node in model.graph.nodes:
        known = [tensor.name for tensor in node.outputs if tensor.name in coupling.tensors]
        for name in known:
            if name in shapes:
                of_shape[shapes[name]].append(name)
        if known and node.name not in layers:
            tensors[node.name] = known[:1]
    tensors |= {reorder(shape): names for shape, names in of_shape.items()}
    parts = {}
    for name, of in tensors.items():
        each = np.mean([(counts := shares(tensor))[:-1] / counts.sum() for tensor in of], axis=0) / sizes
        rows = {site: float(share) for site, share in zip(sites, each, strict=True) if share > 0}
        if rows:
            parts[name] = Part(_NOTHING, rows, {}, charged=False)
    return parts
