"""Operators that look along axes: reductions, softmax, the largest values."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lissom.train.node import Function, Maker, Node, Tensor, integers, listed

PER_AXIS_OPSET = 13
"""From here on Softmax runs along one axis; before, along all axes from `axis` on."""


def reduction(reduce: Callable[..., Tensor]) -> Maker:
    """An operator that reduces axes, which are an attribute or an input; without any, all."""

    def make(node: Node) -> Function:
        keep, untouched = bool(node.get("keepdims", 1)), bool(node.get("noop_with_empty_axes", 0))

        def run(x: Tensor, given: Tensor | None = None) -> Tensor:
            axes = listed(node, "axes", given)
            if not axes and (untouched or not x.ndim):
                return x
            return reduce(x, dim=tuple(axes or range(x.ndim)), keepdim=keep).to(x.dtype)

        return run

    return make


def softmax(function: Callable[..., Tensor]) -> Maker:
    """Softmax or its logarithm."""

    def make(node: Node) -> Function:
        if node.opset >= PER_AXIS_OPSET:
            axis = node.get("axis", -1)
            return lambda x: function(x, dim=axis)
        axis = node.get("axis", 1)
        return lambda x: function(x.flatten(axis % x.ndim), dim=-1).reshape(x.shape)

    return make


def top_k(node: Node) -> Function:
    """TopK: of equal values the first ones."""
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))

    def run(x: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        (k,) = integers(count)
        values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
        return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)

    return run


REDUCTIONS: dict[str, Maker] = {
    "LogSoftmax": softmax(torch.log_softmax),
    "ReduceL2": reduction(torch.linalg.vector_norm),
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceMin": reduction(torch.amin),
    "ReduceSum": reduction(torch.sum),
    "Softmax": softmax(torch.softmax),
    "TopK": top_k,
}
