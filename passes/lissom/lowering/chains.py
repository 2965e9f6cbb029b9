"""Which runs of layers can be one operator, a SparseChain: finds them. docs/decisions/0009 says what a chain is.

A run is two or three convolutions, each the only reader of the one before it, with what `fuse.tail` finds behind them:

    inverted_residual     expand, depthwise, project
    bottleneck            expand, spatial, project
    expanded_depthwise    expand, depthwise
    depthwise_separable   depthwise, project

It is a chain when

1. expand and project are sparse sites with kernel 1 × 1, stride 1, no padding and group 1;
2. depthwise is a dense layer with a constant weight and as many channels after it as before;
3. spatial is a sparse site with a larger kernel and group 1;
4. each tensor from one layer to the next has one reader and is no output of the graph;
5. no layer but the last takes in a residual, and a depthwise one none even then;
6. all activations but the last are the same, and `contract.CHAIN_ACTIVATIONS` has them, the last and whether there is
   a residual; but for the last behind a residual, none and Relu are a clip with infinite limits;
7. blocks of the sparse weights run along output channels;
8. all of it together needs no more scratch at the observed shape than kernels take (`scratch`).

Of the shapes that begin at a layer the longest is taken. Whether a layer is sparse enough is decided in `propose`, for
the layer by itself. That may be too strict: one that is a little too dense to be faster alone breaks the chain around
it, where it might pay by what it keeps in the cache (`--max-density` widens the search).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from lissom_runtime.contract import (
    CHAIN_COLUMNS,
    CHAIN_SHAPES,
    CHAIN_STAGES,
    Activation,
    ChainShape,
    ChainSignature,
    Columns,
    Stage,
    chain_signatures,
)
from lissom_runtime.packing import FormatTooNarrow, Packed, pack

from lissom.graph.model import Model, Node, Tensor
from lissom.lowering import scratch
from lissom.lowering.emit import Convolution
from lissom.lowering.fuse import Shapes, Tail, tail
from lissom.lowering.propose import Site

LONGEST_FIRST: Sequence[ChainShape] = sorted(CHAIN_SHAPES, key=lambda shape: -len(CHAIN_STAGES[shape]))
MOST_STAGES = len(CHAIN_STAGES[LONGEST_FIRST[0]])

Twins = Mapping[int, Any]
"""Of nodes and tensors, by their `id`: what stands for each in a copy of its model."""

_FAMILY: Mapping[Activation, Activation] = {
    "none": "clip",
    "relu": "clip",
    "clip": "clip",
    "hard_swish": "hard_swish",
    "silu": "silu",
}
"""What an activation is called in the name of a chain."""

_SIGNATURES = frozenset(chain_signatures())


@dataclass(frozen=True)
class Link:
    """A layer with all that goes with it.

    Attributes:
        site: the layer.
        behind: the nodes behind it.
        packed: its weight; None for a dense depthwise layer.
    """

    site: Site
    behind: Tail
    packed: Packed | None = None

    @property
    def nodes(self) -> list[Node]:
        """All nodes, in topological order."""
        return [self.site.node, *self.behind.nodes]

    @property
    def residual(self) -> Tensor | None:
        """What is added before the activation."""
        return self.behind.epilogue.residual

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest value behind it, for activations that are a clip in a chain."""
        epilogue = self.behind.epilogue
        if epilogue.activation == "clip":
            return epilogue.limits
        return (0.0 if epilogue.activation == "relu" else -inf, inf)

    def at(self, twins: Twins) -> Link:
        """The same in a copy of the model."""
        node = twins[id(self.site.node)]
        residual = None if self.residual is None else twins[id(self.residual)]
        behind = replace(
            self.behind,
            nodes=[twins[id(other)] for other in self.behind.nodes],
            epilogue=replace(self.behind.epilogue, residual=residual),
            output=twins[id(self.behind.output)],
        )
        return replace(self, site=replace(self.site, name=node.name, node=node), behind=behind)


@dataclass(frozen=True)
class ChainSite:
    """Layers that can be one operator.

    Attributes:
        signature: the operator.
        links: the layers, one for each of its stages, their weights packed as it says.
    """

    signature: ChainSignature
    links: Sequence[Link]

    @property
    def name(self) -> str:
        """Of the first layer."""
        return self.links[0].site.name

    @property
    def middle(self) -> Site:
        """The layer in the middle."""
        return self.links[self.signature.stages.index(self.signature.middle)].site

    @property
    def convolution(self) -> Convolution:
        """Geometry of the layer in the middle."""
        found = self.middle.convolution
        assert found is not None
        return found

    @property
    def scratch(self) -> int:
        """Bytes that the operator takes from each thread."""
        stages, first = self.signature.stages, self.links[0].site
        expand = (first.weight.shape[1], first.pattern.block) if stages[0] == "expand" else None
        middle = scratch.Middle(self.convolution, self.middle.weight.shape, expand, stages[-1] == "project")
        return scratch.of_chain(middle, first.shape[2:])


def find_chain(model: Model, first: Site, members: Mapping[int, Site], shapes: Shapes) -> ChainSite | None:
    """The longest chain that begins at a layer.

    Args:
        model: a canonical model.
        first: the layer, one of `members`.
        members: the layers that may be in a chain, sparse ones and depthwise ones, by the `id` of their node.
        shapes: the observed shapes of the tensors that `propose.sources` names.
    """
    run = [Link(first, tail(model, first.node, len(first.weight), shapes))]
    while len(run) < MOST_STAGES and (site := _next(model, run[-1].behind, members)) is not None:
        run.append(Link(site, tail(model, site.node, len(site.weight), shapes)))
    found = (_chain(shape, run[: len(CHAIN_STAGES[shape])]) for shape in LONGEST_FIRST)
    return next((chain for chain in found if chain is not None), None)


def _next(model: Model, behind: Tail, members: Mapping[int, Site]) -> Site | None:
    """The layer that alone reads what another one gives."""
    output = behind.output
    if model.consumers(output) != 1 or not output.outputs:
        return None
    return members.get(id(output.outputs[0]))  # as its input: weight and bias of a member are constant


def _chain(shape: ChainShape, run: Sequence[Link]) -> ChainSite | None:
    """The chain that a run is, if it is one of `shape`."""
    stages = CHAIN_STAGES[shape]
    if len(run) != len(stages) or not all(_fits(link.site, stage) for link, stage in zip(run, stages, strict=True)):
        return None
    *inner, last = [_FAMILY.get(link.behind.epilogue.activation) for link in run]
    if run[-1].residual is not None:
        last = run[-1].behind.epilogue.activation
    if last is None or inner[0] is None or len(set(inner)) > 1 or any(link.residual is not None for link in run[:-1]):
        return None
    signature = ChainSignature(shape, CHAIN_COLUMNS[0], inner[0], last, run[-1].residual is not None)
    if signature not in _SIGNATURES:
        return None
    links = _packed(run)
    columns = next(link.packed.format for link in links if link.packed is not None)
    chain = ChainSite(replace(signature, columns=columns), links)
    return chain if scratch.obstacle(chain.scratch) is None else None


def _fits(site: Site, stage: Stage) -> bool:
    if stage == "depthwise":
        return site.is_depthwise
    if site.convolution is None or site.is_depthwise or site.pattern.orientation != "output":
        return False
    if stage == "spatial":
        return site.convolution.group == 1 and site.weight.shape[2:] != (1, 1)
    return site.is_pointwise


def _packed(run: Sequence[Link]) -> list[Link]:
    """The same with the weights packed, all in the format that makes them smallest together."""
    choices: list[list[Link]] = []
    for columns in CHAIN_COLUMNS:
        with suppress(FormatTooNarrow):
            choices.append([link if link.site.is_depthwise else _in_format(link, columns) for link in run])
    return min(choices, key=lambda links: sum(link.packed.nbytes for link in links if link.packed is not None))


def _in_format(link: Link, columns: Columns) -> Link:
    return replace(link, packed=pack(link.site.weight, link.site.pattern.block, format=columns))
