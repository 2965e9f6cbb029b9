"""What goes along with a training: it changes tensors of the graph, or weights after a step, and has a state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lissom.train.node import Tensor
from lissom.train.torch_graph import TorchGraph


class Companion:
    """Goes along with a training and does nothing.

    What one draws at random has to follow from the number of the step, so that a run can be resumed.
    """

    def identity(self) -> str:
        """What tells it, as it is before the training, from others."""
        return type(self).__name__

    def attach(self, graph: TorchGraph) -> None:
        """Joins a graph, on the device where that is; called once a training."""

    def parameters(self) -> Sequence[torch.nn.Parameter]:
        """What the optimizer moves besides the weights of the graph, without decay."""
        return ()

    def state(self) -> Mapping[str, Tensor]:
        """All tensors that steps change, by name."""
        return {}

    def before(self, step: int) -> None:
        """Called before each step of the optimizer, with its number."""

    def after(self, step: int, rate: float) -> None:
        """Called after each step of the optimizer, with its number and its learning rate."""
