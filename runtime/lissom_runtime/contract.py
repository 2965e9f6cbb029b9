"""The contract between a model file and the runtime: which operators there are, and what their inputs mean.

A function body of standard operators cannot branch, so whatever changes the body is part of the operator's *name*, and
one table makes all names: the compiler emits a body for each name it uses, the library registers a kernel for each.

Every operator takes these inputs, all but `x` and `residual` constant:

    x, shape, row_ptr, columns, values, bias [, residual] [, min, max]

`shape`: int64, the dense weight's: [out_channels, in_channels / group, kernel_height, kernel_width] or
[out_features, in_features]. `row_ptr`, `columns`, `values`: docs/packed-format.md. `bias`: float32[out_channels].
`residual`: like the output, added before the activation. `min`, `max`: float32 scalars of the activation "clip".

Attributes: "strides" [2], "pads" [4], "dilations" [2] and "group" of a SparseConv, in ONNX's meaning, always given;
"alpha" of the activations leaky_relu (slope), thresholded_relu and shrink (threshold).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

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

BLOCKS = (1, 2, 4, 8, 16)
"""Weights that share one column index."""

WITH_ALPHA = frozenset({"leaky_relu", "thresholded_relu", "shrink"})
"""Activations with the attribute "alpha"."""


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
        geometry = ("strides", "pads", "dilations", "group") if self.operator == "SparseConv" else ()
        return (*geometry, *(("alpha",) if self.activation in WITH_ALPHA else ()))


def signatures() -> Iterator[Signature]:
    """Every operator that there is, in the order in which the library registers them."""
    for operator, columns, orientation, residual, activation in product(
        OPERATORS, COLUMNS, ORIENTATIONS, (False, True), ACTIVATIONS
    ):
        yield Signature(operator, columns, orientation, residual, activation)
