"""The layers of a network that is trained, and their weights; batch normalisations stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from lissom.canonical import READING
from lissom.data import Feeds
from lissom.graph.layers import Layer, activations, find_layers
from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom.graph.sharing import unshare_constants
from lissom.graph.steps import Step, apply_steps
from lissom.observe import observe_shapes

STEPS: tuple[Step, ...] = (*READING, Step("un-share constants", unshare_constants))
"""Makes the weights of a file visible, each that of one layer."""


@dataclass(frozen=True)
class Layered:
    """A network with its layers.

    Attributes:
        model: the network; what is done to the nodes of the layers is done to it.
        layers: its layers, in topological order.
        feeds: one input.
    """

    model: Model
    layers: Sequence[Layer]
    feeds: Feeds

    @property
    def zeros(self) -> float:
        """Share of the layers' weights that are zero."""
        size = sum(layer.weight.size for layer in self.layers)
        return 1 - sum(int(np.count_nonzero(layer.weight)) for layer in self.layers) / size


def layered(proto: onnx.ModelProto, feeds: Feeds) -> Layered:
    """A copy of a network whose nodes have names and whose layers share no weight.

    Args:
        proto: the network.
        feeds: one input of it.

    Raises:
        LoadError: ONNX Runtime cannot run it.
        UsageError: a weight is NaN, infinite or empty.
    """
    model = from_proto(proto)
    apply_steps(model, STEPS)
    shapes = observe_shapes(model, activations(model), feeds)
    return Layered(model, find_layers(model, shapes).layers, feeds)
