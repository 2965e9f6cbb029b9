"""Which layers become runtime operators: finds them, and declines the others by name.

A Conv, Gemm or MatMul with a constant float32 weight is declined when

1. it is no layer for the reasons of `graph.layers`, groups aside; a subgraph's layers are not looked at;
2. a convolution has other than 2 spatial axes, or an auto_pad whose pads depend on an input size that is not fixed;
3. the bias is no constant of one number per output channel;
4. the dense weight is larger than ONNX Runtime folds (`FOLDED_BYTES`): without the library it would be unpacked again
   in every run;
5. it is a depthwise convolution: its time goes into reading and writing activations, and its kernels are dense (those
   with one output channel per input channel are listed apart: `chains` may take them in between two sparse layers);
6. the packed weight is denser than `CROSSOVER` says for its operator and block;
7. its kernel would need more scratch at the observed shape than kernels take (`scratch`).

A layer that the user does not ask for is declined too, unless it was a sparse operator in the file: reading the file
has made it dense, and it becomes sparse again, at any density.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from lissom_runtime.contract import Operator, Stage
from lissom_runtime.packing import Packed, pack

from lissom.asked import not_asked_for
from lissom.graph.geometry import Geometry
from lissom.graph.layers import LAYER_OPS, weight_obstacle
from lissom.graph.model import Model, Node, is_constant, is_standard
from lissom.lowering import scratch
from lissom.lowering.emit import Convolution
from lissom.lowering.fuse import Shapes, addends
from lissom.lowering.pattern import Pattern, pattern
from lissom.observe import resolve_pads
from lissom.options import Refusal

CROSSOVER: Mapping[tuple[Operator, str], Mapping[int, float]] = {
    ("SparseConv", "many"): {1: 0.28, 2: 0.35, 4: 0.47, 8: 0.47, 16: 0.47},
    ("SparseGemm", "many"): {1: 0.28, 2: 0.35, 4: 0.47, 8: 0.47, 16: 0.47},
    ("SparseGemm", "one"): {1: 0.35, 2: 0.45, 4: 0.5, 8: 0.5, 16: 0.5},
}
"""Density up to which a kernel is expected to beat the dense layer, by operator, rows of the input, and block.

A first guess that saves measurements; where latency is measured, the measurement decides. Blocks of 1 and 4 of a
convolution are medians over the shapes of ResNet-50 (`benchmarks/kernels/layers.py`, AVX2), the others lie between.
"""

FOLDED_BYTES = 2**30
"""Largest constant that ONNX Runtime computes when it loads a model."""

KIND = "lower"
"""Kind of the refusals."""


@dataclass(frozen=True)
class Site:
    """A layer that can be a runtime operator, or a dense depthwise one that can be part of a chain.

    Attributes:
        name: of the node.
        node: the Conv, Gemm or MatMul.
        weight: weight[O, C/group, kh, kw] or weight[O, I].
        bias: bias[O].
        convolution: geometry of a Conv, or None.
        shape: shape of its input, observed.
        rows: how often the weight is applied.
        pattern: the blocks of its weight.
        before: the sparse operator that it was, or was part of, where it is not asked for: it becomes one again.
    """

    name: str
    node: Node
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    convolution: Convolution | None
    shape: tuple[int, ...]
    rows: int
    pattern: Pattern
    before: str | None = None

    @property
    def operator(self) -> Operator:
        """What it would become."""
        return "SparseGemm" if self.convolution is None else "SparseConv"

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel of the output is made of one channel of the input, its own."""
        return self.convolution is not None and self.weight.shape[1] == 1 < self.convolution.group == len(self.weight)

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a 1 × 1 convolution of all pixels in one group."""
        return (
            self.convolution is not None
            and self.weight.shape[2:] == (1, 1)
            and set(self.convolution.strides) == {1}
            and not any(self.convolution.pads)
            and self.convolution.group == 1
        )

    @property
    def crossover(self) -> float:
        """The density above which it is expected to be faster dense."""
        return CROSSOVER[self.operator, "one" if self.convolution is None and self.rows == 1 else "many"][
            self.pattern.block
        ]

    @property
    def scratch(self) -> int:
        """Bytes that its operator takes from each thread."""
        if self.convolution is None:
            return scratch.of_product(self.rows, self.weight.shape[1])
        return scratch.of_convolution(self.convolution, self.weight.shape, self.shape[2:])

    def packed(self) -> Packed:
        """The weight in the packed format, its columns in the smallest way."""
        return pack(self.weight, self.pattern.block, self.pattern.orientation)


@dataclass(frozen=True)
class Proposal:
    """What was found in a model.

    Attributes:
        sites: the layers that are sparse enough, in topological order.
        refusals: what was declined, the depthwise layers among it.
        depthwise: dense depthwise layers that were asked for, in topological order.
    """

    sites: Sequence[Site]
    refusals: Sequence[Refusal]
    depthwise: Sequence[Site]


def sources(model: Model) -> list[str]:
    """Names of the tensors whose shapes `propose` and `fuse.tail` need."""
    candidates = [node for node in model.graph.nodes if _is_candidate(node)]
    ends = (tensor for node in candidates for tensor in (node.inputs[0], node.outputs[0]) if not is_constant(tensor))
    return list({tensor.name: None for tensor in ends} | dict.fromkeys(addends(model)))


def propose(
    model: Model,
    shapes: Shapes,
    max_density: float | None = None,
    include: str | None = None,
    exclude: str | None = None,
    sparse: Collection[str] = (),
) -> Proposal:
    """Finds the layers that are sparse enough.

    Args:
        model: a canonical model.
        shapes: the observed shapes of the tensors that `sources` names.
        max_density: stands in for `CROSSOVER`.
        include: regular expression; only layers whose name it finds are sites.
        exclude: regular expression; layers whose name it finds are none.
        sparse: names of the sparse operators that the model was read from.
    """
    sites: list[Site] = []
    refusals: list[Refusal] = []
    depthwise: list[Site] = []
    for node in model.graph.nodes:
        if not _is_candidate(node):
            continue
        skipped = not_asked_for(node.name, include, exclude)
        before = None if skipped is None else _operator_of(node.name, sparse)
        found = skipped if skipped is not None and before is None else _site(node, shapes)
        if isinstance(found, Site):
            found = replace(found, before=before)
            reason = _obstacle(found, max_density if before is None else 1.0)
            if reason is None:
                sites.append(found)
                continue
            if found.is_depthwise:
                depthwise.append(found)
            found = reason
        refusals.append(Refusal(node.name, KIND, found))
    return Proposal(sites, refusals, depthwise)


def _obstacle(site: Site, max_density: float | None) -> str | None:
    """Why `site` cannot run by itself, or is not expected to be faster, or None."""
    if site.convolution is not None and site.weight.shape[1] == 1 < site.convolution.group:
        return "it is a depthwise convolution, whose time does not depend on its weights"
    limit = site.crossover if max_density is None else max_density
    density, block = site.pattern.density, site.pattern.block
    if density > limit:
        return f"its weight is {density:.2f} dense in blocks of {block}; expected {limit:g} at most"
    return scratch.obstacle(site.scratch)


def _operator_of(name: str, operators: Collection[str]) -> str | None:
    """Which of `operators` a layer was, whose name it has then, or was a stage of; None for none."""
    chain, _, stage = name.rpartition("/")
    return name if name in operators else chain if stage in get_args(Stage) and chain in operators else None


def _is_candidate(node: Node) -> bool:
    return any(is_standard(node, op) for op in LAYER_OPS)


def _site(node: Node, shapes: Shapes) -> Site | str:
    """The site that `node` is, or why it is none."""
    reason = _weight_obstacle(node)
    if reason is not None:
        return reason
    if is_constant(node.inputs[0]):
        return "its input is a constant"
    source = shapes[node.inputs[0].name]
    if len(source) < 2:
        return f"the input has rank {len(source)}; expected at least 2"
    weight = _weight(node)
    if weight.nbytes > FOLDED_BYTES:
        return f"its dense weight has {weight.nbytes:,} bytes; ONNX Runtime unpacks {FOLDED_BYTES:,} at most"
    own = _bias(node, len(weight))
    if isinstance(own, str):
        return own
    convolution = _convolution(node, weight.shape) if node.op == "Conv" else None
    if isinstance(convolution, str):
        return convolution
    target = shapes[node.outputs[0].name]
    return Site(
        name=node.name,
        node=node,
        weight=weight,
        bias=own,
        convolution=convolution,
        shape=source,
        rows=prod(source[:-1]) if convolution is None else source[0] * prod(target[2:]),
        pattern=pattern(weight, 1 if convolution is None else convolution.group),
    )


def _weight_obstacle(node: Node) -> str | None:
    weight = node.inputs[1]
    if node.op != "Conv" or not is_constant(weight) or weight.dtype != np.float32:
        return weight_obstacle(node)
    axes = len(weight.shape) - 2
    return None if axes == 2 else f"the convolution has {axes} spatial axes; expected 2"


def _weight(node: Node) -> npt.NDArray[np.float32]:
    """weight[O, ...], a Gemm's alpha multiplied in."""
    values: npt.NDArray[np.float32] = node.inputs[1].values
    if node.op == "Conv":
        return values
    if node.op == "MatMul" or not node.attrs.get("transB", 0):
        values = values.T
    return np.ascontiguousarray(values * np.float32(node.attrs.get("alpha", 1.0)))


def _bias(node: Node, channels: int) -> npt.NDArray[np.float32] | str:
    """bias[O], a Gemm's beta multiplied in, or why there is none."""
    if len(node.inputs) < 3 or node.inputs[2].is_empty() or node.attrs.get("beta", 1.0) == 0:
        return np.zeros(channels, np.float32)
    operand = node.inputs[2]
    if not is_constant(operand):
        return "the bias is no constant"
    values = operand.values
    if values.size not in (1, channels) or (values.ndim > 0 and values.shape[-1] != values.size):
        return f"the bias has shape {list(values.shape)}; expected [{channels}]"
    bias: npt.NDArray[np.float32] = np.broadcast_to(values.reshape(-1), (channels,))
    return bias * np.float32(node.attrs.get("beta", 1.0))


def _convolution(node: Node, shape: Sequence[int]) -> Convolution | str:
    """The attributes with pads in numbers, or why they are not known."""
    strides = tuple(node.attrs.get("strides", (1, 1)))
    dilations = tuple(node.attrs.get("dilations", (1, 1)))
    group = int(node.attrs.get("group", 1))
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    if auto_pad in ("NOTSET", "VALID"):
        pads = node.attrs.get("pads", (0, 0, 0, 0)) if auto_pad == "NOTSET" else (0, 0, 0, 0)
        return Convolution(strides, tuple(pads), dilations, group)
    spatial = _fixed_extents(node, strides)
    if spatial is None:
        return f"auto_pad {auto_pad} with strides {list(strides)} depends on the input's size, which is not fixed"
    geometry = Geometry(shape[0], shape[1], tuple(shape[2:]), strides, dilations, auto_pad=auto_pad)
    begin, end = resolve_pads(geometry, spatial)
    return Convolution(strides, (*begin, *end), dilations, group)


def _fixed_extents(node: Node, strides: Sequence[int]) -> tuple[int, ...] | None:
    """The input's extents where pads depend on them, or None when they are not fixed in the file."""
    told: Any = node.inputs[0].shape or (None,) * 4
    extents = [extent if stride > 1 else 1 for extent, stride in zip(told[2:], strides, strict=True)]
    return tuple(extents) if all(isinstance(extent, int) and extent > 0 for extent in extents) else None
