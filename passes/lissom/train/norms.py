"""Normalisations in torch.

A BatchNormalization of an inference graph is y = (x - mean) / √(variance + ε) · scale + bias with the statistics that
the file holds. `update_batch_norm` is the same node in training: it takes the statistics of the batch, and moves those
of the file towards them by 1 - momentum.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from lissom.train.node import Function, Maker, Node, Tensor

EPSILON = 1e-5


def batch_norm(node: Node) -> Function:
    """BatchNormalization with the statistics of the file."""
    node.require("training_mode", 0, (0,))
    epsilon = node.get("epsilon", EPSILON)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)

    return run


def update_batch_norm(node: Node) -> Function:
    """BatchNormalization with the statistics of the batch; `mean` and `variance` are changed in place.

    One number a channel has no variance: it is normalised as in inference.
    """
    epsilon, momentum, as_it_is = node.get("epsilon", EPSILON), node.get("momentum", 0.9), batch_norm(node)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        if x.numel() == x.shape[1]:
            return as_it_is(x, scale, bias, mean, variance)
        return functional.batch_norm(x, mean, variance, scale, bias, training=True, momentum=1 - momentum, eps=epsilon)

    return run


def instance_norm(node: Node) -> Function:
    """InstanceNormalization."""
    epsilon = node.get("epsilon", EPSILON)
    return lambda x, scale, bias: functional.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def layer_norm(node: Node) -> Function:
    """LayerNormalization, with the mean and the inverse deviation as second and third output."""
    axis, epsilon = node.get("axis", -1), node.get("epsilon", EPSILON)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        axes = tuple(range(axis % x.ndim, x.ndim))
        mean = x.mean(dim=axes, keepdim=True)
        inverse = (x.var(dim=axes, keepdim=True, correction=0) + epsilon).rsqrt()
        y = (x - mean) * inverse * scale
        return (y if bias is None else y + bias), mean, inverse

    return run


def response_norm(node: Node) -> Function:
    """LRN: each value divided by a power of the mean square of its neighbours along the channels."""
    size, alpha, beta, bias = (
        node.attributes["size"],
        node.get("alpha", 1e-4),
        node.get("beta", 0.75),
        node.get("bias", 1.0),
    )

    def run(x: Tensor) -> Tensor:
        before = (size - 1) // 2
        squares = (x * x).flatten(2).transpose(1, 2)
        padded = functional.pad(squares, (before, size - 1 - before))
        sums = padded.unfold(-1, size, 1).sum(-1).transpose(1, 2).reshape(x.shape)
        return x / torch.pow(bias + alpha / size * sums, beta)

    return run


NORMS: dict[str, Maker] = {
    "BatchNormalization": batch_norm,
    "InstanceNormalization": instance_norm,
    "LRN": response_norm,
    "LayerNormalization": layer_norm,
}
