"""Operators that move elements, or count them, in torch."""

from __future__ import annotations

from itertools import pairwise
from math import prod

import onnx
import torch
from torch.nn import functional

from lissom.train.node import Function, Maker, Node, Tensor, integers, listed, plain
from lissom.train.window import pad_argument


def flatten(node: Node) -> Function:
    """Flatten: the axes before `axis` become rows, the others columns."""
    axis = node.get("axis", 1)

    def run(x: Tensor) -> Tensor:
        cut = axis + x.ndim if axis < 0 else axis
        return x.reshape(prod(x.shape[:cut]), prod(x.shape[cut:]))

    return run


def reshape(node: Node) -> Function:
    """Reshape: a zero stands for the extent of the input, unless allowzero says that it is one."""
    literal = node.get("allowzero", 0)

    def run(x: Tensor, shape: Tensor) -> Tensor:
        wanted = integers(shape)
        return x.reshape([x.shape[i] if extent == 0 and not literal else extent for i, extent in enumerate(wanted)])

    return run


def transpose(node: Node) -> Function:
    """Transpose."""
    return lambda x: x.permute(node.get("perm", list(reversed(range(x.ndim)))))


def concat(node: Node) -> Function:
    """Concat."""
    axis = node.attributes["axis"]
    return lambda *inputs: torch.cat(inputs, dim=axis)


def cut(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    """Slice: as Python's slices, which stop at the ends."""
    first, last = integers(starts), integers(ends)
    along = range(len(first)) if axes is None else integers(axes)
    strides = [1] * len(first) if steps is None else integers(steps)
    for axis, start, end, step in zip(along, first, last, strides, strict=True):
        chosen = range(*slice(start, end, step).indices(x.shape[axis]))
        if step == 1:
            x = x.narrow(axis, chosen.start if chosen else 0, len(chosen))
        else:
            x = x.index_select(axis, torch.tensor(chosen, dtype=torch.int64, device=x.device))
    return x


def split(node: Node) -> Function:
    """Split: into parts of stated extents, or of equal ones of which the last may be smaller."""
    axis, count = node.get("axis", 0), node.get("num_outputs", len(node.outputs))

    def run(x: Tensor, given: Tensor | None = None) -> tuple[Tensor, ...]:
        extents = listed(node, "split", given)
        if extents is None:
            edges = [min(i * -(-x.shape[axis] // count), x.shape[axis]) for i in range(count + 1)]
            extents = [end - start for start, end in pairwise(edges)]
        return tuple(torch.split(x, extents, dim=axis))

    return run


def pad(node: Node) -> Function:
    """Pad: by a constant, or by elements of the input itself."""
    mode = node.require("mode", "constant", ("constant", "edge", "reflect", "wrap"))

    def run(x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        sizes, along = integers(pads), list(range(x.ndim)) if axes is None else integers(axes)
        begin, end = [0] * x.ndim, [0] * x.ndim
        for axis, before, behind in zip(along, sizes[: len(along)], sizes[len(along) :], strict=True):
            begin[axis], end[axis] = before, behind
        if mode == "constant":
            return functional.pad(x, pad_argument(begin, end), value=0 if value is None else value.item())
        for axis, (before, behind) in enumerate(zip(begin, end, strict=True)):
            if before or behind:
                indices = torch.arange(-before, x.shape[axis] + behind, device=x.device)
                x = x.index_select(axis, _inside(indices, x.shape[axis], mode))
        return x

    return run


def _inside(indices: Tensor, extent: int, mode: str) -> Tensor:
    """Which elements of an axis stand at `indices`, some of which lie outside."""
    if mode == "edge":
        return indices.clamp(0, extent - 1)
    if mode == "wrap":
        return indices % extent
    period = max(2 * extent - 2, 1)
    indices = indices % period
    return torch.minimum(indices, period - indices)


def squeeze(node: Node) -> Function:
    """Squeeze: the axes that are named, or all of extent one."""

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = listed(node, "axes", given)
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))

    return run


def unsqueeze(node: Node) -> Function:
    """Unsqueeze: axes count in the output."""

    def run(x: Tensor, given: Tensor | None = None) -> Tensor:
        axes = listed(node, "axes", given) or []
        for axis in sorted(axis % (x.ndim + len(axes)) for axis in axes):
            x = x.unsqueeze(axis)
        return x

    return run


def shape_of(node: Node) -> Function:
    """Shape, or a part of it."""
    start, end = node.get("start", 0), node.get("end", None)
    return lambda x: torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


def gather(node: Node) -> Function:
    """Gather: elements along one axis; negative indices count from its end."""
    axis = node.get("axis", 0)

    def run(x: Tensor, indices: Tensor) -> Tensor:
        chosen = (indices.reshape(-1) % x.shape[axis]).to(torch.int64)
        at = axis % x.ndim
        return x.index_select(at, chosen).reshape((*x.shape[:at], *indices.shape, *x.shape[at + 1 :]))

    return run


def expand(x: Tensor, shape: Tensor) -> Tensor:
    """Expand: either side may be broadcast."""
    return x.expand(torch.broadcast_shapes(x.shape, integers(shape)))


def filled(node: Node) -> Function:
    """ConstantOfShape."""
    value = node.get("value", None)
    number = 0.0 if value is None else onnx.numpy_helper.to_array(value).item()
    wanted = node.type_of(onnx.TensorProto.FLOAT if value is None else value.data_type)
    return lambda shape: torch.full(integers(shape), number, dtype=wanted, device=shape.device)


def space_to_depth(node: Node) -> Function:
    """SpaceToDepth: the pixels of a block become channels, block position first (DCR) or channel first (CRD)."""
    size, mode = node.attributes["blocksize"], node.require("mode", "DCR", ("DCR", "CRD"))
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        blocks = x.reshape(n, c, h // size, size, w // size, size).permute(order)
        return blocks.reshape(n, c * size * size, h // size, w // size)

    return run


def depth_to_space(node: Node) -> Function:
    """DepthToSpace: block position first (DCR) or channel first (CRD)."""
    size, mode = node.attributes["blocksize"], node.require("mode", "DCR", ("DCR", "CRD"))

    def run(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        left = c // (size * size)
        if mode == "DCR":
            blocks = x.reshape(n, size, size, left, h, w).permute(0, 3, 4, 1, 5, 2)
        else:
            blocks = x.reshape(n, left, size, size, h, w).permute(0, 1, 4, 2, 5, 3)
        return blocks.reshape(n, left, h * size, w * size)

    return run


SHAPING: dict[str, Maker] = {
    "Concat": concat,
    "ConstantOfShape": filled,
    "DepthToSpace": depth_to_space,
    "Expand": plain(expand),
    "Flatten": flatten,
    "Gather": gather,
    "Pad": pad,
    "Reshape": reshape,
    "Shape": shape_of,
    "Slice": plain(cut),
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
