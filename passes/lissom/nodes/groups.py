"""Channel groups: the sites of node pruning.

A *group* holds channels that are interchangeable: the same layers give and read them, and they are in the same tensors
(as long as one index of every group is left, so is a channel of every tensor). Removing
index i of a group removes its positions in every one of those layers. So each layer's rows (output channels) are those
of one or more groups, and so are its columns, and with r rows and c columns kept a layer costs r c taps: bilinear
between the groups of its rows and those of its columns.

A group is not offered, with a `Refusal`, when

1. some node cannot do without its channels (`lissom.graph.channels`);
2. it has one index only: channels that are tied to one another, or a layer of one channel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lissom.graph.channels.atoms import IntArray
from lissom.graph.channels.coupling import Coupling
from lissom.graph.naming import fresh_name
from lissom.options import Refusal

Member = tuple[str, str, int]
"""Role, layer, and at how many positions of it."""

KIND = "nodes"
"""The kind that options of channel groups bear."""


@dataclass(frozen=True)
class ChannelGroup:
    """Interchangeable channels.

    Attributes:
        name: the first layer that gives them, with a number behind where it gives several groups.
        roots: roots[n], the name of each index in a `Coupling`.
        rows: positions[n, k] of each index among the output channels of the layers that give them.
        columns: positions[n, k] of each index among the input channels of the layers that read them.
        through: positions[n, k] of each index among the channels of depthwise convolutions.
    """

    name: str
    roots: IntArray
    rows: Mapping[str, IntArray]
    columns: Mapping[str, IntArray]
    through: Mapping[str, IntArray]

    def __len__(self) -> int:
        return len(self.roots)

    @property
    def width(self) -> int:
        """Channels of its first layer that one index stands for (groups of a convolution stay equal)."""
        first = next(iter((*self.rows.values(), *self.through.values(), *self.columns.values())))
        return int(first.shape[1])

    def counts(self, block: int) -> IntArray:
        """How many indices may be kept, ascending, so that channels come in multiples of `block`.

        All of them always may. Kept are at least one index and one block.

        Raises:
            ValueError: `block` is less than 1.
        """
        if block < 1:
            raise ValueError(f"expected a block of at least 1 channel, but got {block}")
        kept = np.arange(1, len(self) + 1)
        allowed: IntArray = kept[(kept * self.width % block == 0) | (kept == len(self))]
        return allowed


@dataclass(frozen=True)
class Groups:
    """The groups of a model, in the order of their first layers, and what was declined."""

    groups: Sequence[ChannelGroup]
    refusals: Sequence[Refusal]


def find_groups(coupling: Coupling) -> Groups:
    """The channel groups of a model.

    Args:
        coupling: which channels are one, by `lissom.graph.channels.coupling.couple`.
    """
    where: dict[int, list[Member]] = defaultdict(list)
    for role, layer, roots in _members(coupling):
        for root, count in zip(*np.unique(roots, return_counts=True), strict=True):
            where[int(root)].append((role, layer, int(count)))
    tensors = _tensors(coupling)
    alike: dict[tuple[Sequence[Member], Sequence[int]], list[int]] = defaultdict(list)
    for root, members in where.items():
        if root not in coupling.pins:
            alike[tuple(members), tuple(tensors[root])].append(root)
    positions = {(role, layer): _positions(roots) for role, layer, roots in _members(coupling)}
    groups, refusals = [], list(_pinned(coupling))
    taken: set[str] = set()
    for (own, _), same in alike.items():
        name = fresh_name(own[0][1], taken)
        if len(same) < 2:
            refusals.append(
                Refusal(name, KIND, "its channels are tied to one another, or it is one: all or none would go")
            )
            continue
        found: dict[str, dict[str, IntArray]] = {"rows": {}, "columns": {}, "through": {}}
        for role, layer, _ in own:
            found[role][layer] = np.stack([positions[role, layer][root] for root in same])
        groups.append(ChannelGroup(name, np.array(same), **found))
    return Groups(groups, refusals)


def _members(coupling: Coupling) -> Iterator[tuple[str, str, IntArray]]:
    """What a root can be part of: role, layer, and the root at each of its positions."""
    for role, layers in (("rows", coupling.rows), ("through", coupling.through), ("columns", coupling.columns)):
        for layer, roots in layers.items():
            yield role, layer, roots


def _tensors(coupling: Coupling) -> dict[int, list[int]]:
    """In which tensors each root is; those that hold the same roots are one."""
    found: dict[int, list[int]] = defaultdict(list)
    known: set[bytes] = set()
    for number, channels in enumerate(coupling.tensors.values()):
        roots = np.unique(coupling.roots[channels.atoms])
        if roots.tobytes() not in known:
            known.add(roots.tobytes())
            for root in roots:
                found[int(root)].append(number)
    return found


def _positions(roots: IntArray) -> dict[int, IntArray]:
    """Where each root stands in roots[n]."""
    order = np.argsort(roots, kind="stable")
    distinct, starts = np.unique(roots[order], return_index=True)
    return dict(zip(distinct.tolist(), np.split(order, starts[1:]), strict=True))


def _pinned(coupling: Coupling) -> Iterator[Refusal]:
    """What each layer has to keep."""
    for layer, reason in coupling.declined.items():
        yield Refusal(layer, KIND, f"the node {reason}")
    for layer, roots in {**coupling.rows, **coupling.through}.items():
        kept = [int(root) for root in roots if int(root) in coupling.pins]
        if kept:
            pin = coupling.pins[kept[0]]
            yield Refusal(layer, KIND, f"{len(kept)} of its {len(roots)} channels stay: node {pin.node!r} {pin.reason}")
