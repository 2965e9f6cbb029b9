"""The contract between a model file and the runtime: which operators there are, and what their inputs mean.

A function body of standard operators cannot branch, so whatever changes the body is part of the operator's *name*, and
one table makes all names: the compiler emits a body for each name it uses, the library registers a kernel for each.

An operator of one layer takes these inputs, all but `x` and `residual` constant:

    x, shape, row_ptr, columns, values, bias [, residual] [, min, max]

`shape`: int64, the dense weight's: [out_channels, in_channels / group, kernel_height, kernel_width] or
[out_features, in_features]. `row_ptr`, `columns`, `values`: docs/packed-format.md. `bias`: float32[out_channels].
`residual`: like the output, added before the activation. `min`, `max`: float32 scalars of the activation "clip".

Attributes: "strides" [2], "pads" [4], "dilations" [2] and "group" of a SparseConv, in ONNX's meaning, always given;
"alpha" of the activations leaky_relu (slope), thresholded_relu and shrink (threshold).

A SparseChain is up to three layers in one (docs/decisions/0009): its inputs are `x` and those of each stage in turn,

    S_shape, S_row_ptr, S_columns, S_values, S_bias [, residual] [, S_min, S_max]    S: expand, spatial or project
    depthwise_weight, depthwise_bias [, depthwise_min, depthwise_max]

the first of a sparse stage, whose blocks run along output channels, the second of a dense depthwise one. Only the last
stage may add a residual. The attributes are those of the convolution in the middle; expand and project are 1 × 1.

A WinnerMask keeps the largest activations of each sample and makes the others zero. It takes `x`[batch, ...] and two
constants: `rate`, a float64 scalar in (0, 1], and `stride`, int64[1], at least 1. Of the n elements of a sample it
looks at those with the indices 0, s, 2 s, ... in row-major order, s = `stride`: m = ceil(n / s) of them. Their winners
are the k = max(1, rate m) largest, rate m in float64, rounded half to even (`winner_count`). theta is the least |x| of
these, and

    y = 0 where |x| < theta, else x.

So what is as large as theta stays, ties included. A NaN counts as infinity: it is a winner, and stays a NaN. A model
that asks for a share alpha of the elements has s = max(1, floor(1 / alpha)) (`sample_stride`).
Source: Integral Pruning on Activations and Weights for Efficient Neural Networks (ICLR 2019 submission).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from lissom_runtime.errors import UsageError

DOMAIN = "ai.lissom"
"""Domain of the operators."""

VERSION = 1
"""Version of the domain."""

Operator = Literal["SparseConv", "SparseGemm"]
Columns = Literal["bitmap", "delta8", "u16", "u32"]
Orientation = Literal["output", "input"]
Activation = Literal[
    "none", "relu", "clip", "leaky_relu", "hard_swish", "silu", "thresholded_relu", "shrink"
]  # the order of lissom_activation in runtime/kernels/sparse.h

OPERATORS: tuple[Operator, ...] = get_args(Operator)
COLUMNS: tuple[Columns, ...] = get_args(Columns)
ORIENTATIONS: tuple[Orientation, ...] = get_args(Orientation)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)

ChainShape = Literal["inverted_residual", "expanded_depthwise", "depthwise_separable", "bottleneck"]
Stage = Literal["expand", "depthwise", "spatial", "project"]

CHAIN_SHAPES: tuple[ChainShape, ...] = get_args(ChainShape)
CHAIN_STAGES: Mapping[ChainShape, tuple[Stage, ...]] = {
    "inverted_residual": ("expand", "depthwise", "project"),
    "expanded_depthwise": ("expand", "depthwise"),
    "depthwise_separable": ("depthwise", "project"),
    "bottleneck": ("expand", "spatial", "project"),
}
"""The layers of each chain, in the order in which they run."""

CHAIN_COLUMNS: tuple[Columns, ...] = ("bitmap", "delta8")
"""Column formats of a chain's weights."""

CHAIN_ACTIVATIONS: tuple[tuple[Activation, Activation, bool], ...] = (
    ("clip", "clip", False),
    ("clip", "none", True),
    ("clip", "relu", True),
    ("hard_swish", "clip", False),
    ("hard_swish", "hard_swish", False),
    ("hard_swish", "none", True),
    ("silu", "clip", False),
    ("silu", "silu", False),
    ("silu", "none", True),
)
"""What all stages but the last pass their sums through, what the last does, and whether it adds a residual before.

"clip" is none and Relu too. Not behind a residual: ONNX Runtime takes a Relu there into the convolution, but no Clip.
"""

GEOMETRY = ("strides", "pads", "dilations", "group")
"""Attributes of a convolution."""

BLOCKS = (1, 2, 4, 8, 16)
"""Weights that share one column index."""

WITH_ALPHA = frozenset({"leaky_relu", "thresholded_relu", "shrink"})
"""Activations with the attribute "alpha"."""

MOST_SCRATCH_BYTES = 2**30
"""Largest scratch that a kernel takes from a thread; a run that needs more is an error (runtime/ops/tasks.cc)."""


@dataclass(frozen=True)
class Signature:
    """What the name of an operator says.

    Attributes:
        operator: SparseConv, or SparseGemm (which serves Gemm and MatMul).
        columns: how the columns are stored.
        orientation: whether blocks run along output channels or along the columns of the folded weight.
        residual: whether a second tensor is added before the activation.
        activation: what the sum passes through.
    """

    operator: Operator
    columns: Columns
    orientation: Orientation = "output"
    residual: bool = False
    activation: Activation = "none"

    @property
    def name(self) -> str:
        """For example "SparseConv_bitmap_add_relu"."""
        parts: list[str] = [self.operator, self.columns]
        if self.orientation == "input":
            parts.append("input")
        if self.residual:
            parts.append("add")
        if self.activation != "none":
            parts.append(self.activation)
        return "_".join(parts)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the formal inputs, in order."""
        extra = ("residual",) if self.residual else ()
        limits = ("min", "max") if self.activation == "clip" else ()
        return ("x", "shape", "row_ptr", "columns", "values", "bias", *extra, *limits)

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, all of them given on every node."""
        geometry = GEOMETRY if self.operator == "SparseConv" else ()
        return (*geometry, *(("alpha",) if self.activation in WITH_ALPHA else ()))


def signatures() -> Iterator[Signature]:
    """Every operator of one layer, in the order in which the library registers them."""
    for operator, columns, orientation, residual, activation in product(
        OPERATORS, COLUMNS, ORIENTATIONS, (False, True), ACTIVATIONS
    ):
        yield Signature(operator, columns, orientation, residual, activation)


@dataclass(frozen=True)
class ChainSignature:
    """What the name of a chain says.

    Attributes:
        shape: which layers it has.
        columns: how the columns of all weights are stored, one of `CHAIN_COLUMNS`.
        inner: activation of all stages but the last; (inner, last, residual) is one of `CHAIN_ACTIVATIONS`.
        last: activation of the last stage.
        residual: whether a second tensor is added before the last activation; never to a depthwise stage.
    """

    shape: ChainShape
    columns: Columns
    inner: Activation
    last: Activation
    residual: bool = False

    @property
    def name(self) -> str:
        """For example "SparseChain_bottleneck_bitmap_clip_add_relu"."""
        added = ("add",) if self.residual else ()
        last = () if self.last == "none" else (self.last,)
        return "_".join(("SparseChain", self.shape, self.columns, self.inner, *added, *last))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Names of the layers, in the order in which they run."""
        return CHAIN_STAGES[self.shape]

    @property
    def middle(self) -> Stage:
        """The stage that the attributes belong to."""
        return "spatial" if self.shape == "bottleneck" else "depthwise"

    def activation(self, stage: Stage) -> Activation:
        """What the sums of `stage` pass through."""
        return self.last if stage == self.stages[-1] else self.inner

    def stage_signature(self, stage: Stage) -> Signature:
        """The operator that a sparse `stage` is by itself."""
        residual = self.residual and stage == self.stages[-1]
        return Signature("SparseConv", self.columns, residual=residual, activation=self.activation(stage))

    def stage_inputs(self, stage: Stage) -> tuple[str, ...]:
        """Names of the formal inputs of `stage` behind the tensor that it reads, in order."""
        if stage != "depthwise":
            formals = self.stage_signature(stage).inputs[1:]
            return tuple(formal if formal == "residual" else f"{stage}_{formal}" for formal in formals)
        limits = ("min", "max") if self.activation(stage) == "clip" else ()
        return tuple(f"{stage}_{formal}" for formal in ("weight", "bias", *limits))

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the formal inputs, in order."""
        return ("x", *(name for stage in self.stages for name in self.stage_inputs(stage)))

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, all of them given on every node."""
        return GEOMETRY


def chain_signatures() -> Iterator[ChainSignature]:
    """Every chain that there is, in the order in which the library registers them."""
    for shape, columns, (inner, last, residual) in product(CHAIN_SHAPES, CHAIN_COLUMNS, CHAIN_ACTIVATIONS):
        if not (residual and CHAIN_STAGES[shape][-1] == "depthwise"):
            yield ChainSignature(shape, columns, inner, last, residual)


@dataclass(frozen=True)
class MaskSignature:
    """The mask of activation pruning, which has one name."""

    name: str = "WinnerMask"
    inputs: tuple[str, ...] = ("x", "rate", "stride")
    attributes: tuple[str, ...] = ()


WINNER_MASK = MaskSignature()
"""The operator that keeps the winners of each sample."""

SAMPLE_SHARE = 0.1
"""alpha where nobody says another: the share of a sample's activations that theta is found from."""


def sample_stride(alpha: float) -> int:
    """The distance s between the elements that a share `alpha` of them takes.

    Raises:
        UsageError: `alpha` is not in (0, 1].
    """
    if not 0 < alpha <= 1:
        raise UsageError(f"expected a share of the activations above 0 and up to 1, got {alpha}")
    return max(1, math.floor(1 / alpha))


def winner_count(rate: float, size: int) -> int:
    """How many of `size` elements win at a winner rate, 1 to `size`.

    Raises:
        UsageError: `rate` is not in (0, 1].
    """
    if not 0 < rate <= 1:
        raise UsageError(f"expected a winner rate above 0 and up to 1, got {rate}")
    return max(1, round(rate * size))


def require_sample(rate: float, alpha: float, size: int) -> None:
    """Refuses a sample in which less than one element would win, because one does.

    Args:
        rate: the winner rate.
        alpha: the share of the activations that theta is found from.
        size: elements of one input.

    Raises:
        UsageError: `rate` or `alpha` is out of range, or the sample has less than 1 / `rate` elements.
    """
    sampled = -(-size // sample_stride(alpha))
    winner_count(rate, sampled)
    if sampled < 1 / rate:
        raise UsageError(
            f"expected at least {math.ceil(1 / rate)} sampled activations for a winner rate of {rate}, got {sampled} "
            f"of {size}"
        )


def operator_names() -> list[str]:
    """The names of all operators, in the order in which the library registers them."""
    return [
        *(signature.name for signature in signatures()),
        *(chain.name for chain in chain_signatures()),
        WINNER_MASK.name,
    ]
