"""Mask layers that choose which channels a network can do without, while it is trained.

Every channel i of a channel group (`nodes/groups.py`) has a number β_i that is learned and a mask α_i ∈ {0, 1} that is
applied where a layer reads the group, behind activation and pooling; what the layer gets is

    y = α_i x

with the straight-through gradient ∂L/∂β_i = Σ (∂L/∂y) x over batch, space and all layers that read the group. Before
each step β is held in [0, LIMIT], and

    α_i = 1 if β_i > ABOVE,   0 if β_i < THRESHOLD,   what it was in between.

After each step with learning rate η, β_i falls by λ η: the gradient of λ Σ β. Channels that are masked can come back.

1. Channels of the output layer, and all that a group cannot be made of, have no mask.
2. Of every group one channel stays: if all would be masked, that of the largest β.
3. `target` "conv" or "fc" has only the groups that convolutions, or linear layers, give; the masks of others stay.
4. With a dropout rate p, what is read of linear groups drops out at p times the share of channels that are left.

A group stands for all layers that give it and all that read it. On a residual trunk every reader has the mask, and the
sums between them have none: no layer gets a masked channel, so that `removed` leaves a network that computes what the
masked one does, and each reading counts once in the gradient.

Source: Yu et al., Scalpel (2017), with the constants of the authors' program (newLayers/MaskLayer.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from lissom_runtime.errors import UsageError

from lissom.graph.channels.coupling import Coupling, couple, tensors_with_shapes
from lissom.graph.layers import activations
from lissom.graph.model import Model
from lissom.nodes.apply import cut
from lissom.nodes.groups import ChannelGroup, find_groups
from lissom.observe import observe_shapes
from lissom.train.companion import Companion
from lissom.train.dropout import Dropout
from lissom.train.layering import Layered
from lissom.train.node import Tensor
from lissom.train.torch_graph import TorchGraph

Array = npt.NDArray[Any]
Target = Literal["conv", "fc"]

THRESHOLD = 0.8
"""Below this a channel is masked."""

ABOVE = 0.8001
"""Above this it is not."""

START = 0.8002
"""Of every β at first."""

LIMIT = 0.802
"""Largest β."""


@dataclass(frozen=True)
class Read:
    """What a layer reads of a channel group.

    Attributes:
        tensor: its name.
        axis: that of its channels.
        index: index[channels]: which channel of the group each is, `len(group)` for those that are none.
    """

    tensor: str
    axis: int
    index: Array


@dataclass(frozen=True)
class Masked:
    """Where the mask of a channel group is.

    Attributes:
        group: the group.
        target: what gives its channels.
        reads: by name of the layer.
    """

    group: ChannelGroup
    target: Target
    reads: Mapping[str, Read]

    @property
    def tensors(self) -> frozenset[str]:
        """Names of the tensors that are read."""
        return frozenset(read.tensor for read in self.reads.values())


@dataclass(frozen=True)
class MaskSites:
    """The channel groups of a network that can be masked.

    Attributes:
        layered: the network.
        coupling: which of its channels are one.
        masked: the groups with what is masked of each.
    """

    layered: Layered
    coupling: Coupling
    masked: Sequence[Masked]

    def removed(self, model: Model, kept: Mapping[str, Array]) -> None:
        """Removes all channels but the kept[n] ones of each group from a copy of the network, in place.

        Raises:
            UsageError: an index is out of range, or a group is not there.
        """
        cut(model, self.coupling, [site.group for site in self.masked], kept)


def find_mask_sites(layered: Layered) -> MaskSites:
    """Finds the channel groups of a network, and the tensors that are read of each."""
    model = layered.model
    shapes = observe_shapes(model, [*tensors_with_shapes(model), *activations(model)], layered.feeds)
    coupling = couple(model, shapes)
    nodes = {node.name: node for node in model.graph.nodes}
    masked = []
    for group in find_groups(coupling).groups:
        reads = {}
        for layer, positions in group.columns.items():
            index = np.full(len(coupling.columns[layer]), len(group))
            index[positions] = np.arange(len(group))[:, None]
            reads[layer] = Read(nodes[layer].inputs[0].name, -1 if nodes[layer].op == "MatMul" else 1, index)
        if reads:
            linear = all(nodes[layer].op in ("Gemm", "MatMul") for layer in group.rows)
            masked.append(Masked(group, "fc" if linear else "conv", reads))
    return MaskSites(layered, coupling, masked)


class NodeMasks(Companion):
    """The masks of some channel groups, through all stages of a training.

    Args:
        sites: the groups.
        dropout: rate at which what is read of linear groups drops out while all channels are there.
        seed: of the dropout.

    Attributes:
        strength: λ of this stage.
        target: the groups whose masks this stage changes; None: all.
    """

    def __init__(self, sites: Sequence[Masked], dropout: float = 0.0, seed: int = 0) -> None:
        if not sites:
            raise UsageError("expected channels that can be masked, but the network has none")
        self.strength = 0.0
        self.target: Target | None = None
        self._sites = {site.group.name: site for site in sites}
        self._beta = {name: torch.nn.Parameter(torch.full((len(s.group),), START)) for name, s in self._sites.items()}
        self._alpha = {name: torch.ones(len(site.group)) for name, site in self._sites.items()}
        linear = {tensor for site in sites if site.target == "fc" for tensor in site.tensors} if dropout else set()
        self._dropout = Dropout(dict.fromkeys(linear, dropout), seed)

    @property
    def kept(self) -> dict[str, Array]:
        """The channels of each group, by its name, that are not masked."""
        return {name: np.flatnonzero(alpha.cpu().numpy()) for name, alpha in self._alpha.items()}

    def identity(self) -> str:
        """Settings and state."""
        known = hashlib.sha256()
        for tensor in self.state().values():
            known.update(tensor.detach().cpu().numpy().tobytes())
        return json.dumps(["masks", self.strength, self.target, self._dropout.identity(), known.hexdigest()])

    def attach(self, graph: TorchGraph) -> None:
        """Puts the masks in front of the layers that read the groups."""
        device = next(graph.parameters()).device
        for name, site in self._sites.items():
            beta = self._beta[name].detach().to(device)
            self._beta[name] = torch.nn.Parameter(beta, requires_grad=self._moves(site))
            self._alpha[name] = self._alpha[name].to(device)
            for layer, read in site.reads.items():
                graph.put_before(layer, 0, self._applied(name, read.axis, torch.from_numpy(read.index).to(device)))
        self._dropout.attach(graph)

    def parameters(self) -> Sequence[torch.nn.Parameter]:
        """β of the groups whose masks change."""
        return [self._beta[name] for name, site in self._sites.items() if self._moves(site)]

    def state(self) -> Mapping[str, Tensor]:
        """β and α of every group."""
        of_beta = {f"beta {name}": beta for name, beta in self._beta.items()}
        return of_beta | {f"alpha {name}": alpha for name, alpha in self._alpha.items()}

    def before(self, step: int) -> None:
        """Holds β in its range and sets the masks."""
        self.settle()
        self._dropout.before(step)
        for site in self._sites.values():
            if site.target == "fc":
                left = float(self._alpha[site.group.name].mean())
                for tensor in site.tensors:
                    self._dropout.scale[tensor] = left

    def after(self, step: int, rate: float) -> None:
        """Lets β fall."""
        with torch.no_grad():
            for beta in self.parameters():
                beta -= self.strength * rate

    def settle(self) -> None:
        """Sets the masks to what β says."""
        with torch.no_grad():
            for name, site in self._sites.items():
                if self._moves(site):
                    beta, alpha = self._beta[name], self._alpha[name]
                    beta.clamp_(0, LIMIT)
                    alpha[beta > ABOVE] = 1
                    alpha[beta < THRESHOLD] = 0
                    if not alpha.any():
                        alpha[beta.argmax()] = 1

    def _moves(self, site: Masked) -> bool:
        """Whether this stage changes the masks of a group."""
        return self.target in (None, site.target)

    def _applied(self, name: str, axis: int, index: Tensor) -> Callable[[Tensor], Tensor]:
        """What multiplies a tensor by the masks of a group."""

        def change(x: Tensor) -> Tensor:
            beta = self._beta[name]
            mask = self._alpha[name] + (beta - beta.detach())  # its value is α, its gradient that of β
            whole = torch.cat([mask, mask.new_ones(1)])[index]
            return x * whole.reshape(-1, *[1] * (x.ndim - 1 - axis % x.ndim))

        return change
