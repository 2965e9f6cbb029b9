"""Dropout on tensors of a graph while it is trained.

A number is zero with probability p, and else divided by 1 − p. What drops out follows from seed, step and the order of
the tensors alone. Nothing drops out of a graph in evaluation mode, and nothing is left of it in the model that is
written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import torch
from lissom_runtime.errors import UsageError

from lissom.train.companion import Companion
from lissom.train.node import Tensor
from lissom.train.torch_graph import TorchGraph


class Dropout(Companion):
    """Dropout at a rate of each tensor.

    Args:
        rates: rate p by name of the tensor.
        seed: of what drops out.

    Attributes:
        scale: by name of a tensor, what its rate is multiplied by.

    Raises:
        UsageError: a rate is not at least 0 and below 1.
    """

    def __init__(self, rates: Mapping[str, float], seed: int = 0) -> None:
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise UsageError(f"expected dropout rates of 0 or more and below 1, but {name!r} has {rate}")
        self._rates, self._seed = dict(sorted(rates.items())), seed
        self.scale: dict[str, float] = {}
        self._generator = torch.Generator()

    def identity(self) -> str:
        """Rates and seed."""
        return json.dumps(["dropout", self._rates, self._seed])

    def attach(self, graph: TorchGraph) -> None:
        """Lets numbers of the tensors drop out where they are computed."""
        for name in self._rates:
            graph.put_behind(name, self._applied(graph, name))

    def before(self, step: int) -> None:
        """Begins the draws of a step."""
        (seed,) = np.random.SeedSequence((self._seed, step)).generate_state(1, np.uint64)
        self._generator.manual_seed(int(seed >> np.uint64(1)))

    def _applied(self, graph: TorchGraph, name: str) -> Callable[[Tensor], Tensor]:
        def change(x: Tensor) -> Tensor:
            rate = self._rates[name] * self.scale.get(name, 1.0)
            if not graph.training or not rate:
                return x
            stays = torch.rand(x.shape, generator=self._generator).to(x.device) >= rate
            return x * stays / (1 - rate)

        return change
