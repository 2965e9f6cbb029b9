"""Five networks for 224 × 224 images as plain ONNX, with random weights, dense or block-sparse.

Batch normalisation is folded already, so that a convolution has a bias and nothing follows it but a residual sum and an
activation. Sources: He et al. 2016 (stride on the 3 × 3, as all frameworks have it now); Sandler et al. 2018; Simonyan
and Zisserman 2015; Tan and Le 2019.

    python benchmarks/kernels/networks.py --shapes
    python benchmarks/kernels/networks.py --network resnet50 --density 0.2 --block 4 -o resnet50.onnx
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import numpy as np
import numpy.typing as npt
import onnx

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.kernels.builder import IMAGE, Builder, Pruning, Value, Which
from benchmarks.kernels.shapes import ConvShape, distinct, table

CLASSES = 1000


def resnet18(b: Builder) -> Value:
    """Two 3 × 3 convolutions a block."""
    x = b.max_pool(b.conv(b.image(), 64, 7, stride=2, activation="relu"), 3, 2, 1)
    for width in (64, 128, 256, 512):
        for block in range(2):
            stride = 2 if block == 0 and width > 64 else 1
            shortcut = b.conv(x, width, 1, stride=stride) if stride > 1 else x
            inner = b.conv(x, width, 3, stride=stride, activation="relu")
            x = b.conv(inner, width, 3, activation="relu", residual=shortcut)
    return b.linear(b.average(x), CLASSES)


def resnet50(b: Builder) -> Value:
    """Bottleneck blocks."""
    x = b.max_pool(b.conv(b.image(), 64, 7, stride=2, activation="relu"), 3, 2, 1)
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            shortcut = b.conv(x, 4 * width, 1, stride=stride) if block == 0 else x
            inner = b.conv(x, width, 1, activation="relu")
            inner = b.conv(inner, width, 3, stride=stride, activation="relu")
            x = b.conv(inner, 4 * width, 1, activation="relu", residual=shortcut)
    return b.linear(b.average(x), CLASSES)


def mobilenetv2(b: Builder) -> Value:
    """Inverted residuals, width 1.0."""
    x = b.conv(b.image(), 32, 3, stride=2, activation="clip")
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, width, blocks, first_stride in stages:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            inner = b.conv(x, expansion * x.channels, 1, activation="clip") if expansion > 1 else x
            inner = b.conv(inner, inner.channels, 3, stride=stride, group=inner.channels, activation="clip")
            x = b.conv(inner, width, 1, residual=x if block else None)
    return b.linear(b.average(b.conv(x, 1280, 1, activation="clip")), CLASSES)


def vgg16(b: Builder) -> Value:
    """Thirteen 3 × 3 convolutions and three fully connected layers."""
    x = b.image()
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            x = b.conv(x, width, 3, activation="relu")
        x = b.max_pool(x, 2, 2, 0)
    return b.linear(b.linear(b.linear(x, 4096, "relu"), 4096, "relu"), CLASSES)


def efficientnet_b0(b: Builder) -> Value:
    """Inverted residuals with squeeze-excite and SiLU."""
    x = b.conv(b.image(), 32, 3, stride=2, activation="silu")
    stages = (
        *((1, 3, 16, 1, 1), (6, 3, 24, 2, 2), (6, 5, 40, 2, 2), (6, 3, 80, 3, 2)),
        *((6, 5, 112, 3, 1), (6, 5, 192, 4, 2), (6, 3, 320, 1, 1)),
    )
    for expansion, kernel, width, blocks, first_stride in stages:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            inner = b.conv(x, expansion * x.channels, 1, activation="silu") if expansion > 1 else x
            inner = b.conv(inner, inner.channels, kernel, stride=stride, group=inner.channels, activation="silu")
            inner = b.squeeze_excite(inner, x.channels // 4)
            x = b.conv(inner, width, 1, residual=x if block else None)
    return b.linear(b.average(b.conv(x, 1280, 1, activation="silu")), CLASSES)


NETWORKS: Mapping[str, Callable[[Builder], Value]] = MappingProxyType(
    {
        "resnet50": resnet50,
        "resnet18": resnet18,
        "mobilenetv2": mobilenetv2,
        "vgg16": vgg16,
        "efficientnet_b0": efficientnet_b0,
    }
)

POINTWISE = frozenset({"mobilenetv2", "efficientnet_b0"})
"""Networks whose 1 × 1 convolutions hold nearly all that can be pruned."""


def build(name: str, pruning: Pruning | None = None, seed: int = 0) -> onnx.ModelProto:
    """One of `NETWORKS` with input "image" and output "logits".

    Raises:
        ValueError: a density or a block is not legal.
    """
    builder = Builder(name, pruning or Pruning(), np.random.default_rng(seed))
    return builder.model(NETWORKS[name](builder))


def layers(name: str) -> Builder:
    """The shapes of one of `NETWORKS`, without weights."""
    builder = Builder(name, Pruning(), None)
    NETWORKS[name](builder)
    return builder


def all_shapes() -> list[ConvShape]:
    """The distinct convolutions of all networks."""
    return [shape for name in NETWORKS for shape in distinct(layers(name).shapes)]


def image(seed: int = 0) -> npt.NDArray[np.float32]:
    """A random input[1, 3, 224, 224], standard normal as a normalised image is about."""
    return np.random.default_rng(seed).standard_normal((1, 3, IMAGE, IMAGE), np.float32)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the shapes, or writes a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", action="store_true", help="print shapes.txt")
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet50")
    parser.add_argument("--density", type=float, default=1.0)
    parser.add_argument("--block", type=int, default=4)
    parser.add_argument("--which", choices=get_args(Which), default="all but first")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args(argv)
    if arguments.shapes:
        print(table(all_shapes()), end="")
    if arguments.output:
        onnx.save(
            build(arguments.network, Pruning(arguments.density, arguments.block, arguments.which)), arguments.output
        )


if __name__ == "__main__":
    main()
