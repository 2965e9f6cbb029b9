"""The convolution shapes that the sparse kernels are measured on, `shapes.txt`, and what each of them costs.

The file lists every distinct convolution of the networks in `networks.py` (224 × 224 images, batch 1) with how often it
occurs; `python benchmarks/kernels/networks.py --shapes` prints it, and a test holds the two together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from math import prod
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent / "shapes.txt"

LAYERS = ("stem", "pointwise", "spatial", "depthwise", "squeeze")
"""Layer classes: the first one, 1 × 1, larger kernels, one channel per group, and those on a 1 × 1 map."""

_HEAD = """# The distinct convolutions of five networks, 224 x 224, batch 1 (shapes.py reads, networks.py writes).
# height and width: of the input. residual: a second tensor is added before the activation. Kernels, strides and
# pads are square. activation: what the graph applies; clip is ReLU6.
"""
_FLOAT32 = 4


@dataclass(frozen=True)
class ConvShape:
    """A convolution with square kernel, stride and pad; channels are those of all groups.

    Attributes:
        count: how often the network has it.
        height, width: of the input.
        activation: one of the contract's, or "sigmoid" (the gate of a squeeze-excite block).
        residual: whether a tensor like the output is added before the activation.
    """

    network: str
    layer: str
    count: int
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    pad: int
    group: int
    height: int
    width: int
    activation: str
    residual: bool

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """[out_channels, in_channels / group, kernel, kernel]."""
        return self.out_channels, self.in_channels // self.group, self.kernel, self.kernel

    @property
    def out_spatial(self) -> tuple[int, int]:
        """Height and width of the output."""
        height, width = ((e + 2 * self.pad - self.kernel) // self.stride + 1 for e in (self.height, self.width))
        return height, width

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return prod(self.weight_shape)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run, padding counted."""
        return self.weights * prod(self.out_spatial)

    @property
    def activation_bytes(self) -> int:
        """Bytes of input, output and residual: what must move if nothing of them is in a register or a cache."""
        inputs = self.in_channels * self.height * self.width
        outputs = self.out_channels * prod(self.out_spatial)
        return _FLOAT32 * (inputs + outputs * (2 if self.residual else 1))

    @property
    def label(self) -> str:
        """For a table: "256→64 1×1 @56", with stride and residual where there are any."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        add = " +add" if self.residual else ""
        return f"{self.in_channels}→{self.out_channels} {self.kernel}×{self.kernel}{stride} @{self.height}{add}"


def distinct(shapes: Iterable[ConvShape]) -> list[ConvShape]:
    """Each shape once, in order of appearance, with its `count`."""
    counts: Counter[ConvShape] = Counter()
    for shape in shapes:
        counts[replace(shape, count=1)] += shape.count
    return [replace(shape, count=count) for shape, count in counts.items()]


def read(path: Path = FILE) -> list[ConvShape]:
    """The shapes of a file.

    Raises:
        ValueError: a line has not one word for each field, or a word is not of its field's type.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    _, *rows = [line for line in lines if line and not line.startswith("#")]
    return [_parse(row) for row in rows]


def table(shapes: Sequence[ConvShape]) -> str:
    """The text of a file, in columns."""
    rows = [[field.name for field in fields(ConvShape)], *(_words(shape) for shape in shapes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return _HEAD + "\n".join(lines) + "\n"


def _words(shape: ConvShape) -> list[str]:
    values = [getattr(shape, field.name) for field in fields(ConvShape)]
    return [("add" if value else "-") if isinstance(value, bool) else str(value) for value in values]


def _parse(row: str) -> ConvShape:
    words = row.split()
    names = [field.name for field in fields(ConvShape)]
    if len(words) != len(names) or words[-1] not in ("add", "-"):
        raise ValueError(f"expected {len(names)} words, the last add or -, but got {len(words)}: {row!r}")
    values: dict[str, Any] = dict(zip(names, words, strict=True))
    for name in names[2:-2]:
        values[name] = int(values[name])
    return ConvShape(**{**values, "residual": values["residual"] == "add"})
