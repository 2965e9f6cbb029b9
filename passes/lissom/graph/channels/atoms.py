"""Atoms: the channels of all tensors, and which of them are one.

Every position along the channel axis of a tensor bears an *atom*. An operator that meets two tensors channel by
channel makes their atoms one (union-find); one that cannot do without a channel *pins* its atom, with the reason. Two
positions of one atom are cut together or not at all, wherever they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Channels:
    """The channel axis of one tensor.

    Attributes:
        axis: which axis of the tensor, from 0.
        atoms: atoms[extent of the axis]; one may stand at many positions (a flattened channel).
    """

    axis: int
    atoms: IntArray


@dataclass(frozen=True)
class Pin:
    """Why some atoms cannot be cut.

    Attributes:
        node: the node that needs them.
        reason: what it does, as a clause about it.
    """

    node: str
    reason: str


class Atoms:
    """All atoms of a graph: sets of them that are one, and pins."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._pins: list[tuple[IntArray, Pin]] = []

    def __len__(self) -> int:
        return len(self._parent)

    def fresh(self, count: int) -> IntArray:
        """New atoms[count], each alone."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return np.arange(first, first + count)

    def unite(self, one: IntArray, other: IntArray) -> None:
        """Makes one[i] and other[i] the same, for all i."""
        for a, b in {(int(a), int(b)) for a, b in zip(one, other, strict=True)}:
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def pin(self, atoms: IntArray, pin: Pin) -> None:
        """Keeps atoms from being cut."""
        self._pins.append((atoms, pin))

    def roots(self, atoms: IntArray) -> IntArray:
        """The least atom that each of atoms[...] is one with."""
        distinct, places = np.unique(atoms, return_inverse=True)
        found = np.array([self._root(int(atom)) for atom in distinct], np.int64)
        return found[places.reshape(atoms.shape)]

    def pins(self) -> dict[int, Pin]:
        """The first pin of each root that has one."""
        found: dict[int, Pin] = {}
        for atoms, pin in self._pins:
            for root in np.unique(self.roots(atoms)):
                found.setdefault(int(root), pin)
        return found

    def _root(self, atom: int) -> int:
        while self._parent[atom] != atom:
            self._parent[atom] = self._parent[self._parent[atom]]
            atom = self._parent[atom]
        return atom
