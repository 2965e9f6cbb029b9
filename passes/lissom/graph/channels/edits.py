"""What a cut does to nodes: constants that lose positions, and numbers that count channels.

Every edit is stated in atoms, so that it holds for any choice of those that are kept: with keep[atoms] a mask,

- `Take`: a constant keeps the positions of the atoms that are kept, along one axis;
- `Bias`: the same for a layer's bias, which may be given to it after the analysis;
- `Count`: one number (of a shape, of pads, of starts and ends, or an attribute) is how many atoms are kept;
- `Sizes`: a Split says how many channels each part has;
- `Places`: indices that pointed at channels point at where these are then.

A node gets a constant of its own where it shared one, so that an edit never reaches another node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lissom.graph.channels.atoms import IntArray
from lissom.graph.model import Model, Node, constant
from lissom.graph.naming import fresh_name

SPLIT_INPUT = 13
"""First opset in which the sizes of a Split are an input."""

Keep = npt.NDArray[np.bool_]
"""keep[atoms]: whether each atom stays."""


@dataclass(frozen=True)
class Take:
    """Input `position` of a node keeps, along `axis`, the positions whose atoms[extent] are kept."""

    node: str
    position: int
    axis: int
    atoms: IntArray

    def apply(self, surgery: Surgery, keep: Keep) -> None:
        """Cuts the constant."""
        node = surgery.node(self.node)
        kept = np.flatnonzero(keep[self.atoms])
        surgery.replace(node, self.position, node.inputs[self.position].values.take(kept, axis=self.axis))


@dataclass(frozen=True)
class Bias:
    """The bias of a layer, where it has one for each of atoms[out channels] when the cut is made."""

    node: str
    atoms: IntArray

    def apply(self, surgery: Surgery, keep: Keep) -> None:
        """Cuts the constant."""
        node = surgery.node(self.node)
        if len(node.inputs) > 2 and not node.inputs[2].is_empty():
            values = node.inputs[2].values
            if values.ndim and values.shape[-1] == len(self.atoms):
                surgery.replace(node, 2, values.take(np.flatnonzero(keep[self.atoms]), axis=-1))


@dataclass(frozen=True)
class Count:
    """Element `index` of input `position`, or the attribute `position`, is how many of `atoms` are kept."""

    node: str
    position: int | str
    index: int
    atoms: IntArray

    def apply(self, surgery: Surgery, keep: Keep) -> None:
        """Writes the number."""
        node, count = surgery.node(self.node), int(np.count_nonzero(keep[self.atoms]))
        if isinstance(self.position, str):
            node.attrs[self.position] = count
            return
        values = node.inputs[self.position].values.copy()
        values.reshape(-1)[self.index] = count
        surgery.replace(node, self.position, values)


@dataclass(frozen=True)
class Sizes:
    """Part i of a Split has as many channels as atoms[i] that are kept."""

    node: str
    parts: Sequence[IntArray]

    def apply(self, surgery: Surgery, keep: Keep) -> None:
        """Writes the sizes, as the opset wants them."""
        node, sizes = surgery.node(self.node), [int(np.count_nonzero(keep[atoms])) for atoms in self.parts]
        node.attrs.pop("num_outputs", None)
        if surgery.opset < SPLIT_INPUT:
            node.attrs["split"] = sizes
        else:
            surgery.replace(node, 1, np.array(sizes, np.int64))


@dataclass(frozen=True)
class Places:
    """Input `position` of a node holds indices into channels with `atoms`."""

    node: str
    position: int
    atoms: IntArray

    def apply(self, surgery: Surgery, keep: Keep) -> None:
        """Drops the indices of what goes, and renumbers the others."""
        node, kept = surgery.node(self.node), keep[self.atoms]
        old = node.inputs[self.position].values
        indices = old % len(kept)
        surgery.replace(node, self.position, (np.cumsum(kept) - 1)[indices[kept[indices]]].astype(old.dtype))


Edit = Take | Bias | Count | Sizes | Places


class Surgery:
    """A model under the knife: finds nodes, and gives them constants of their own."""

    def __init__(self, model: Model) -> None:
        self.opset = model.opset
        self._nodes = {node.name: node for node in model.graph.nodes}
        self._taken = set(model.graph.tensors())
        self._inside = {name for graph in model.graph.subgraphs(recursive=True) for name in graph.tensors()}

    def node(self, name: str) -> Node:
        """The node of that name."""
        return self._nodes[name]

    def replace(self, node: Node, position: int, values: npt.NDArray[Any]) -> None:
        """Gives a node another constant at `position`, or a first one just behind its inputs."""
        if position == len(node.inputs):
            node.inputs.append(constant(fresh_name(f"{node.name}/lissom_{position}", self._taken), values))
            return
        old = node.inputs[position]
        alone = len(old.outputs) == 1 and old.name not in self._inside
        name = old.name if alone else fresh_name(f"{old.name}/{node.name}", self._taken)
        node.inputs[position] = constant(name, values)
