"""Pooling in torch. Where the last window would leave the padded input (ceil_mode), the input is padded further."""

from __future__ import annotations

import torch
from torch.nn import functional

from lissom.train.layers import CONVOLUTIONS
from lissom.train.node import Function, Maker, Node, Tensor, plain
from lissom.train.window import Window, pad_argument, read_window

MAXIMA = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def max_pool(node: Node) -> Function:
    """MaxPool, without the indices."""
    if any(node.outputs[1:]):
        raise node.refuse("one output", len(node.outputs))

    def run(x: Tensor) -> Tensor:
        window = read_window(node, node.attributes["kernel_shape"], x.shape[2:])
        beyond = _beyond(node, window, x)
        end = [size + more for size, more in zip(window.end, beyond, strict=True)]
        if any(window.begin) or any(end):
            x = functional.pad(x, pad_argument(window.begin, end), value=float("-inf"))
        return MAXIMA[len(window.kernel)](x, window.kernel, window.strides, 0, window.dilations)

    return run


def average_pool(node: Node) -> Function:
    """AveragePool: the sum over each window, divided by how many positions of it count."""
    counts_pads = node.get("count_include_pad", 0)

    def run(x: Tensor) -> Tensor:
        window = read_window(node, node.attributes["kernel_shape"], x.shape[2:])
        beyond = _beyond(node, window, x)
        pads, more = pad_argument(window.begin, window.end), pad_argument([0] * len(beyond), beyond)
        kernel = torch.ones(1, 1, *window.kernel, dtype=x.dtype, device=x.device)
        ones = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
        sums, counts = (
            CONVOLUTIONS[len(beyond)](
                functional.pad(functional.pad(part, pads, value=value), more),
                kernel,
                None,
                window.strides,
                0,
                window.dilations,
            )
            for part, value in ((x.flatten(0, 1).unsqueeze(1), 0.0), (ones, float(counts_pads)))
        )
        return (sums / counts).reshape(*x.shape[:2], *sums.shape[2:])

    return run


def _beyond(node: Node, window: Window, x: Tensor) -> list[int]:
    """Positions behind the pads of each axis that the last window covers."""
    if not node.get("ceil_mode", 0) or node.get("auto_pad", "NOTSET") != "NOTSET":
        return [0] * len(window.kernel)
    found = []
    for size, extent, stride, begin, end in zip(
        x.shape[2:], window.extents, window.strides, window.begin, window.end, strict=True
    ):
        windows = -(-(size + begin + end - extent) // stride) + 1
        if (windows - 1) * stride >= size + begin:  # the last one would begin behind the input
            windows -= 1
        found.append(max((windows - 1) * stride + extent - size - begin - end, 0))
    return found


POOLING: dict[str, Maker] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": plain(lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": plain(lambda x: x.amax(dim=tuple(range(2, x.ndim)), keepdim=True)),
    "MaxPool": max_pool,
}
