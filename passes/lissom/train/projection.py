"""Distortion-aware training: the dense weights are projected to what a decomposition would leave, every S steps.

Between two projections the dense network is trained as usual, so that it settles where the decomposition costs little;
at the end it is decomposed. What is projected to is that of `lissom.lowrank`: the truncated singular value
decomposition of the folded weight, sliced in groups (the tiles of the paper are slices on the output side).

Source: Lee, Kwon, Kim, Jeon, Park and Yun, Learning Low-Rank Approximation for CNNs (2019).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from lissom_runtime.errors import UsageError

from lissom.lowrank.factors import factors, recompose
from lissom.lowrank.foldings import Scheme
from lissom.options import Parameters
from lissom.parallel import one_blas_thread
from lissom.train.companion import Companion
from lissom.train.layering import Layered
from lissom.train.node import Tensor
from lissom.train.torch_graph import TorchGraph


class Projection(Companion):
    """Projects weights to low rank every so many steps.

    Args:
        layered: the network.
        pairs: the parameters of the pair (folding, side, groups, rank) that each layer is to become, by its name.
        every: steps between projections; the paper has 100 to 5,000.

    Raises:
        UsageError: a layer is not there, is none that can be projected, or `every` is less than 1.
    """

    def __init__(self, layered: Layered, pairs: Mapping[str, Parameters], every: int = 200) -> None:
        if every < 1:
            raise UsageError(f"expected 1 step or more between projections, but got {every}")
        layers = {layer.name: layer for layer in layered.layers}
        for name in pairs:
            if name not in layers:
                raise UsageError(f"expected the name of a layer to project, but got {name!r}")
        self._every = every
        self._pairs = {name: dict(parameters) for name, parameters in pairs.items()}
        self._constants = {name: layers[name].node.inputs[1].name for name in pairs}
        self._turned = {name: _is_turned(layers[name].op, layers[name].node.attrs) for name in pairs}
        self._weights: dict[str, Tensor] = {}
        for name, parameters in pairs.items():
            weight = layers[name].weight
            try:
                factors(weight, Scheme.of(parameters), int(parameters["rank"]))
            except (KeyError, ValueError) as error:
                raise UsageError(
                    f"expected a pair for {name!r} that its weight has, but got {dict(parameters)}"
                ) from error

    def identity(self) -> str:
        """What is projected, and when."""
        return json.dumps(["projection", self._every, self._pairs], sort_keys=True)

    def attach(self, graph: TorchGraph) -> None:
        """Finds the weights."""
        trained = graph.trained()
        for constant in self._constants.values():
            if constant not in trained:
                raise UsageError(f"expected the model that the layers are of, but it trains no {constant!r}")
        self._weights = {name: trained[constant] for name, constant in self._constants.items()}

    def after(self, step: int, rate: float) -> None:
        """Projects all weights if it is time to."""
        if (step + 1) % self._every == 0:
            self.project()

    def project(self) -> None:
        """Gives all weights the low rank of their pairs."""
        for name, weight in self._weights.items():
            turned, parameters = self._turned[name], self._pairs[name]
            values = (weight.T if turned else weight).detach().cpu().numpy()
            scheme = Scheme.of(parameters)
            with one_blas_thread():
                encoder, decoder = factors(values, scheme, int(parameters["rank"]))
            dense = torch.from_numpy(recompose(encoder, decoder, scheme.side, scheme.groups))
            with torch.no_grad():
                weight.copy_(dense.T if turned else dense)


def _is_turned(op: str, attributes: Mapping[str, object]) -> bool:
    """Whether a layer's constant is weight[in, out]."""
    return op == "MatMul" or (op == "Gemm" and not attributes.get("transB", 0))
