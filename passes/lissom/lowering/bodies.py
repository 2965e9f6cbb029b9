"""The function bodies of the runtime's operators: the same arithmetic in standard ONNX operators.

A body unpacks the weight and hands it to an ordinary Conv or MatMul. The unpacking reads constants only, so that ONNX
Runtime does it once, while it loads the model; what runs is the dense layer. With R pattern rows of P positions each:

    blocks[R P, b]    the blocks of the pattern matrix, row by row, those that are not stored as zeros
    weight[shape]     `blocks`, transposed to where their weights belong

A bitmap's bits are a running count away from the number of the block to take. The other formats scatter the blocks to
row * P + column. The row of a stored block comes from the running count of the non-empty rows that begin up to it.

ONNX Runtime folds a constant only if it can tell its shape beforehand (since 1.27; docs/decisions/0007). So no operator
here has a shape that depends on values (NonZero, Compress): what would be left out goes to spare places behind the
used ones, each a place of its own, and is cut off.

All operators have the same form from opset 11 on, but for HardSwish (14).

The body of a chain calls the operators of its sparse layers, whose bodies the model needs too, and has a standard Conv
where the depthwise layer is. Its nodes are named after the stages.

The body of a WinnerMask runs as it is: TopK of every s-th magnitude gives theta. NaN become infinities before, because
TopK has no order for them, and what is compared is whether an element loses, so that they win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx
import onnx.parser
from lissom_runtime.contract import (
    DOMAIN,
    VERSION,
    WINNER_MASK,
    Activation,
    ChainSignature,
    Columns,
    MaskSignature,
    Orientation,
    Signature,
)

HARD_SWISH_OPSET = 14
"""First opset with HardSwish."""

_EXTENTS = """
    zero = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    last = Constant <value = int64[1] {-1}> ()
    as_column = Constant <value = int64[2] {-1, 1}> ()
    axis = Constant <value = int64 {0}> ()
    size = ReduceProd <keepdims = 1> (shape)
    values_shape = Shape (values)
    block = Gather (values_shape, one)
    positions = Div (size, block)
    ptr_shape = Shape (row_ptr)
    pattern_rows = Sub (ptr_shape, one)
"""

_BITMAP = """
    byte_column = Reshape (columns, as_column)
    places = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    shifted = BitShift <direction = "RIGHT"> (byte_column, places)
    two = Constant <value = uint8[1] {2}> ()
    bits = Mod (shifted, two)
    flat_bits = Reshape (bits, last)
    unpadded = Slice (flat_bits, zero, positions)
    is_stored = Cast <to = 6> (unpadded)
    count = CumSum (is_stored, axis)
    number = Mul (is_stored, count)
    zero_shape = Concat <axis = 0> (one, block)
    zero_block = ConstantOfShape (zero_shape)
    zero_and_stored = Concat <axis = 0> (zero_block, values)
    blocks = Gather (zero_and_stored, number)
"""

_ROWS = """
    row_bounds = Cast <to = 7> (row_ptr)
    starts = Slice (row_bounds, zero, last)
    ends = Slice (row_bounds, one, ptr_shape)
    lengths = Sub (ends, starts)
    is_filled = Greater (lengths, zero)
    ones = ConstantOfShape <value = int64[1] {1}> (pattern_rows)
    row_from_one = CumSum (ones, axis)
    row = Sub (row_from_one, one)

    fills = Cast <to = 7> (is_filled)
    filled_from_one = CumSum (fills, axis)
    filled = Sub (filled_from_one, one)
    spare_filled = Add (row, pattern_rows)
    filled_or_spare = Where (is_filled, filled, spare_filled)
    filled_at = Reshape (filled_or_spare, as_column)
    twice_rows = Add (pattern_rows, pattern_rows)
    no_rows = ConstantOfShape <value = int64[1] {0}> (twice_rows)
    row_of_filled = ScatterND (no_rows, filled_at, row)

    stored = Shape (columns)
    spare_start = Add (row, stored)
    start_or_spare = Where (is_filled, starts, spare_start)
    start_at = Reshape (start_or_spare, as_column)
    stored_and_spare = Add (stored, pattern_rows)
    no_marks = ConstantOfShape <value = int64[1] {0}> (stored_and_spare)
    marks_and_spare = ScatterND (no_marks, start_at, ones)
    marks = Slice (marks_and_spare, zero, stored)
    begun_from_one = CumSum (marks, axis)
    begun = Sub (begun_from_one, one)
    rows = Gather (row_of_filled, begun)
"""

_FROM_GAPS = """
    gaps = Cast <to = 7> (columns)
    advances = Add (gaps, one)
    reached = CumSum (advances, axis)
    reached_before = Sub (reached, advances)
    row_start = Gather (starts, rows)
    reached_at_start = Gather (reached_before, row_start)
    index_from_one = Sub (reached, reached_at_start)
    index = Sub (index_from_one, one)
"""

_FROM_INDICES = """
    index = Cast <to = 7> (columns)
"""

_SCATTER = """
    row_length = Div (positions, pattern_rows)
    row_offset = Mul (rows, row_length)
    position = Add (row_offset, index)
    position_at = Reshape (position, as_column)
    blocks_shape = Concat <axis = 0> (positions, block)
    zeros = ConstantOfShape (blocks_shape)
    blocks = ScatterND (zeros, position_at, values)
"""

_UNPACK: Mapping[Columns, str] = {
    "bitmap": _BITMAP,
    "delta8": _ROWS + _FROM_GAPS + _SCATTER,
    "u16": _ROWS + _FROM_INDICES + _SCATTER,
    "u32": _ROWS + _FROM_INDICES + _SCATTER,
}

_ARRANGE: Mapping[Orientation, str] = {
    "output": """
    row_shape = Concat <axis = 0> (pattern_rows, last, block)
    by_row = Reshape (blocks, row_shape)
    channels_first = Transpose <perm = [0, 2, 1]> (by_row)
    weight = Reshape (channels_first, shape)
""",
    "input": """
    weight = Reshape (blocks, shape)
""",
}

_GEOMETRY = "strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group"
_POINTWISE = "strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1], group = 1"

_CONV = f"""
    {{sum}} = Conv <{_GEOMETRY}> (x, weight, bias)
"""

_GEMM = """
    transposed = Transpose <perm = [1, 0]> (weight)
    product = MatMul (x, transposed)
    {sum} = Add (product, bias)
"""

_DEPTHWISE = f"""
    depthwise_total = Conv <{_GEOMETRY}> ({{source}}, depthwise_weight, depthwise_bias)
"""

_ACTIVATE: Mapping[Activation, str] = {
    "none": "",
    "relu": "{y} = Relu ({p}total)",
    "clip": "{y} = Clip ({p}total, {p}min, {p}max)",
    "leaky_relu": "{y} = LeakyRelu <alpha: float = @alpha> ({p}total)",
    "hard_swish": "{y} = HardSwish ({p}total)",
    "silu": "{p}gate = Sigmoid ({p}total) {y} = Mul ({p}total, {p}gate)",
    "thresholded_relu": "{y} = ThresholdedRelu <alpha: float = @alpha> ({p}total)",
    "shrink": "{y} = Shrink <lambd: float = @alpha, bias = 0.0> ({p}total)",
}

_OLD_HARD_SWISH = """
    {p}gate = HardSigmoid <alpha = 0.16666667, beta = 0.5> ({p}total)
    {y} = Mul ({p}total, {p}gate)
"""

_WINNER_MASK = """
    absolute = Abs (x)
    is_nan = IsNaN (x)
    infinity = Constant <value = float {inf}> ()
    magnitude = Where (is_nan, infinity, absolute)
    rows = Flatten <axis = 1> (magnitude)
    zero = Constant <value = int64[1] {0}> ()
    one = Constant <value = int64[1] {1}> ()
    end = Constant <value = int64[1] {9223372036854775807}> ()
    sample = Slice (rows, zero, end, one, stride)
    sample_shape = Shape (sample)
    sampled = Gather (sample_shape, one)
    sampled_float = Cast <to = 11> (sampled)
    share = Mul (sampled_float, rate)
    rounded = Round (share)
    least_count = Constant <value = double[1] {1.0}> ()
    count_float = Max (rounded, least_count)
    count = Cast <to = 7> (count_float)
    winners, places = TopK <axis = 1> (sample, count)
    last = Sub (count, one)
    theta = Slice (winners, last, count, one)
    row_loses = Less (rows, theta)
    x_shape = Shape (x)
    loses = Reshape (row_loses, x_shape)
    nothing = Constant <value = float {0.0}> ()
    y = Where (loses, nothing, x)
"""


def function(signature: Signature, opset: int) -> onnx.FunctionProto:
    """The body of an operator of one layer.

    Args:
        signature: the operator.
        opset: version of the standard operators that the model uses, from 11 on.
    """
    total = "y" if signature.activation == "none" else "total"
    layer = _CONV if signature.operator == "SparseConv" else _GEMM
    parts = [
        _EXTENTS,
        _UNPACK[signature.columns],
        _ARRANGE[signature.orientation],
        layer.replace("{sum}", "sum" if signature.residual else total),
        f"{total} = Add (sum, residual)" if signature.residual else "",
        _activate(signature.activation, opset),
    ]
    return _parse(signature, f'"" : {opset}', parts)


def chain_functions(signature: ChainSignature, opset: int) -> list[onnx.FunctionProto]:
    """The body of a chain, and behind it the bodies of the operators that it calls, each once.

    Args:
        signature: the chain.
        opset: version of the standard operators that the model uses, from 11 on.
    """
    parts: list[str] = []
    source = "x"
    for stage in signature.stages:
        result = "y" if stage == signature.stages[-1] else f"{stage}_result"
        if stage == "depthwise":
            parts.append(_DEPTHWISE.replace("{source}", source))
            parts.append(_activate(signature.activation(stage), opset, "depthwise_", result))
        else:
            geometry = _GEOMETRY if stage == signature.middle else _POINTWISE
            inputs = ", ".join((source, *signature.stage_inputs(stage)))
            parts.append(f"{result} = {DOMAIN}.{signature.stage_signature(stage).name} <{geometry}> ({inputs})")
        source = result
    body = _parse(signature, f'"" : {opset}, "{DOMAIN}" : {VERSION}', parts)
    layers = iter(signature.stages)
    for node in body.node:
        is_layer = node.op_type == "Conv" or node.domain == DOMAIN
        node.name = next(layers) if is_layer else f"depthwise/{node.op_type}"
    called = dict.fromkeys(signature.stage_signature(stage) for stage in signature.stages if stage != "depthwise")
    return [body, *(function(layer, opset) for layer in called)]


def mask_function(opset: int) -> onnx.FunctionProto:
    """The body of WinnerMask.

    Args:
        opset: version of the standard operators that the model uses, from 11 on.
    """
    return _parse(WINNER_MASK, f'"" : {opset}', [_WINNER_MASK])


def _parse(
    signature: Signature | ChainSignature | MaskSignature, opsets: str, parts: Sequence[str]
) -> onnx.FunctionProto:
    attributes = f"<{', '.join(signature.attributes)}>" if signature.attributes else ""
    text = (
        f'<domain: "{DOMAIN}", opset_import: [{opsets}]> '
        f"{signature.name} {attributes} ({', '.join(signature.inputs)}) => (y) {{ {' '.join(parts)} }}"
    )
    return onnx.parser.parse_function(text)


def _activate(activation: Activation, opset: int, prefix: str = "", result: str = "y") -> str:
    """The nodes that make `result` of the sum `<prefix>total`."""
    text = _OLD_HARD_SWISH if activation == "hard_swish" and opset < HARD_SWISH_OPSET else _ACTIVATE[activation]
    return text.replace("{p}", prefix).replace("{y}", result)
