"""What surgery on one layer leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from lissom.graph.model import Node


@dataclass(frozen=True)
class Rewrite:
    """The nodes that replaced a layer, and the dense weight that they stand for.

    Attributes:
        nodes: the new nodes, in topological order.
        weight: weight[out_channels, in_channels, *kernel] with which the layer would compute the same:
            what the result is verified against.
    """

    nodes: Sequence[Node]
    weight: npt.NDArray[Any]
