"""`Flow`: what is known of channels while a graph is walked, and what the rules of operators may ask of it.

A rule says what one operator does to channels: where those of its output come from, which become one, which constants
go with them. It raises `Declined` where it does not know; then whatever reached the node stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lissom.graph.channels.atoms import Atoms, Channels, IntArray
from lissom.graph.channels.edits import Count, Edit, Take
from lissom.graph.model import Node, Tensor, is_constant


class Declined(Exception):
    """An operator that channels cannot be followed through; the message is a clause about it."""


@dataclass(frozen=True)
class Literal:
    """A number in a constant of whole numbers, such as a shape.

    Attributes:
        value: the number.
        node, position, index: it is element `index` of input `position` of `node`; "" where others read it as well.
    """

    value: int
    node: str
    position: int
    index: int


Entry = Literal | IntArray | None
"""A number that a graph computes: known, the count of channels of some atoms, or anything that no channel is in."""


@dataclass
class Flow:
    """What is known so far.

    Attributes:
        shapes: observed shape of each tensor.
        opset: of the model.
        given: names of the graph's outputs.
        atoms: all atoms.
        channels: those of each tensor that has them; other tensors are *opaque*.
        vectors: the entries of tensors of whole numbers that shapes are made of.
        rows: atoms[out channels] of each layer.
        columns: atoms[in channels] of each layer whose input has channels.
        through: atoms[out channels] of each depthwise convolution.
        edits: what has to be done to the nodes when atoms go.
        read: the tensors whose entries the rule that runs has asked for.
    """

    shapes: Mapping[str, tuple[int, ...]]
    opset: int
    given: frozenset[str] = frozenset()
    atoms: Atoms = field(default_factory=Atoms)
    channels: dict[str, Channels] = field(default_factory=dict)
    vectors: dict[str, Sequence[Entry]] = field(default_factory=dict)
    rows: dict[str, IntArray] = field(default_factory=dict)
    columns: dict[str, IntArray] = field(default_factory=dict)
    through: dict[str, IntArray] = field(default_factory=dict)
    edits: list[Edit] = field(default_factory=list)
    read: set[str] = field(default_factory=set)

    def shape(self, tensor: Tensor) -> tuple[int, ...]:
        """The shape of a constant, or the observed one of a variable."""
        return tuple(tensor.values.shape) if is_constant(tensor) else self.shapes[tensor.name]

    def source(self, node: Node, axis: int | None = None) -> Channels | None:
        """The channels of the first input, or None where it is opaque.

        Raises:
            Declined: they are not along `axis`, or another input has channels.
        """
        for tensor in node.inputs[1:]:
            if tensor.name in self.channels:
                raise Declined(f"reads channels as its input {tensor.name}")
        found = self.channels.get(node.inputs[0].name)
        if found is not None and axis is not None and found.axis != axis:
            raise Declined(f"has the channels along axis {found.axis}; expected axis {axis}")
        return found

    def give(self, node: Node, channels: Channels | None) -> None:
        """The channels of the first output of a node; it may have no other that is used.

        Raises:
            Declined: there are channels, and another output is used.
        """
        if channels is None:
            return
        if any(tensor.name and (tensor.outputs or tensor.name in self.given) for tensor in node.outputs[1:]):
            raise Declined("has more than one output")
        self.channels[node.outputs[0].name] = channels

    def take(self, node: Node, position: int, axis: int, atoms: IntArray) -> None:
        """Notes that a constant input goes with atoms[extent] along `axis`.

        Raises:
            Declined: the input is no constant.
        """
        if not is_constant(node.inputs[position]):
            raise Declined(f"computes its input {node.inputs[position].name}")
        self.edits.append(Take(node.name, position, axis, atoms))

    def tie(self, atoms: IntArray) -> IntArray:
        """Makes the rows of atoms[rows, n] one, and returns the first."""
        for row in atoms[1:]:
            self.atoms.unite(atoms[0], row)
        first: IntArray = atoms[0]
        return first

    def numbers(self, node: Node, position: int) -> list[int] | None:
        """The whole numbers of a constant input, or None where it is missing or computed."""
        if position >= len(node.inputs) or not is_constant(node.inputs[position]):
            return None
        return [int(value) for value in node.inputs[position].values.reshape(-1)]

    def entries(self, node: Node, position: int) -> Sequence[Entry] | None:
        """The entries of an input that is a shape, or None where nothing is known of it."""
        tensor = node.inputs[position]
        if is_constant(tensor):
            values = tensor.values.reshape(-1)
            return [Literal(int(value), node.name, position, index) for index, value in enumerate(values)]
        self.read.add(tensor.name)
        found = self.vectors.get(tensor.name)
        if found is None or len(tensor.outputs) == 1:
            return found
        return [replace(entry, node="") if isinstance(entry, Literal) else entry for entry in found]

    def require_free(self, entries: Sequence[Entry] | None) -> None:
        """Raises where a shape counts channels that its tensor does not have.

        Raises:
            Declined: an entry does.
        """
        if any(isinstance(entry, np.ndarray) for entry in entries or ()):
            raise Declined("gives the number of channels to another axis")

    def count(self, entry: Entry, atoms: IntArray) -> None:
        """Notes that an entry of a shape must be how many of `atoms` are left.

        Raises:
            Declined: it is computed from something else, or other nodes read the same number.
        """
        if isinstance(entry, Literal) and entry.node:
            self.edits.append(Count(entry.node, entry.position, entry.index, atoms))
        elif not isinstance(entry, np.ndarray) or not self._are_one(entry, atoms):
            raise Declined("takes the number of channels from a shape that is computed")

    def _are_one(self, one: IntArray, other: IntArray) -> bool:
        return np.array_equal(self.atoms.roots(one), self.atoms.roots(other))
