"""Conv, ConvTranspose, Gemm and MatMul in torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from lissom.train.node import Function, Maker, Node, Tensor, plain
from lissom.train.window import Window, pad_argument, read_window

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def conv(node: Node) -> Function:
    """Conv, of one to three spatial axes."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        window = read_window(node, weight.shape[2:], x.shape[2:])
        padding = window.begin
        if window.begin != window.end:
            x = functional.pad(x, pad_argument(window.begin, window.end))
            padding = (0,) * len(window.kernel)
        convolve = CONVOLUTIONS[len(window.kernel)]
        return convolve(x, weight, bias, window.strides, padding, window.dilations, node.get("group", 1))

    return run


def conv_transpose(node: Node) -> Function:
    """ConvTranspose: the whole of what the kernel reaches is computed, then its edges are cut."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        window = read_window(node, weight.shape[2:], x.shape[2:])
        axes = len(window.kernel)
        whole = TRANSPOSED[axes](
            x, weight, None, window.strides, 0, 0, groups=node.get("group", 1), dilation=window.dilations
        )
        more = node.get("output_padding", [0] * axes)
        reached = [size + extra for size, extra in zip(whole.shape[2:], more, strict=True)]
        begin, end = _cuts(node, window, x.shape[2:], reached)
        behind = [extra - size for extra, size in zip(more, end, strict=True)]
        y = functional.pad(whole, pad_argument([-size for size in begin], behind))
        return y if bias is None else y + bias.reshape(-1, *[1] * axes)

    return run


def _cuts(
    node: Node, window: Window, spatial: Sequence[int], reached: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """How many positions of `reached` are cut off before and behind each axis."""
    same = node.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    wanted = node.get("output_shape", None)
    if wanted is None and not same:
        return window.begin, window.end
    if wanted is None:
        wanted = [size * stride for size, stride in zip(spatial, window.strides, strict=True)]
    surplus = [size - out for size, out in zip(reached, wanted[-len(reached) :], strict=True)]
    odd = 0 if node.get("auto_pad", "NOTSET") == "SAME_UPPER" else 1  # which side an odd surplus is cut off
    begin = [(max(size, 0) + odd) // 2 for size in surplus]
    return begin, [size - first for size, first in zip(surplus, begin, strict=True)]


def gemm(node: Node) -> Function:
    """Gemm: alpha A B + beta C, A and B transposed where the attributes say so."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    turn_a, turn_b = node.get("transA", 0), node.get("transB", 0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, b = (a.T if turn_a else a), (b.T if turn_b else b)
        return alpha * (a @ b) if c is None else torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return run


LAYERS: dict[str, Maker] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": plain(torch.matmul),
}
