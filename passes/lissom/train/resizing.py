"""Resize in torch: axis by axis, each output position a weighted sum of one or two input positions.

Position i of an axis that goes from n to m elements by the factor s stands in the input at

    half_pixel            (i + ½) / s - ½
    half_pixel_symmetric  the same, moved by n/2 · (1 - m / (s n)), so that the middle stays where it is
    pytorch_half_pixel    the same as half_pixel, 0 where m = 1
    align_corners         i (n - 1) / (m - 1), 0 where m = 1
    asymmetric            i / s

"nearest" rounds it, "linear" weighs its two neighbours; positions outside the axis are those at its ends. Source: ONNX
operator Resize, versions 11 to 19.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lissom.train.node import Function, Maker, Node, Tensor, integers

Array = npt.NDArray[Any]

_TRANSFORMATIONS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def resize(node: Node) -> Function:
    """Resize by nearest or linear interpolation."""
    mode = node.require("mode", "nearest", ("nearest", "linear"))
    transformation = node.require("coordinate_transformation_mode", "half_pixel", _TRANSFORMATIONS)
    rounding = _ROUNDINGS[node.require("nearest_mode", "round_prefer_floor", tuple(_ROUNDINGS))]
    node.require("antialias", 0, (0,))
    node.require("keep_aspect_ratio_policy", "stretch", ("stretch",))

    def run(x: Tensor, _: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
        axes = [axis % x.ndim for axis in node.get("axes", range(x.ndim))]
        for axis, extent, scale in _extents(x, axes, scales, sizes):
            if extent == x.shape[axis] and scale == 1:
                continue
            at = _positions(transformation, x.shape[axis], extent, scale)
            x = _nearest(x, axis, rounding(at)) if mode == "nearest" else _linear(x, axis, at)
        return x

    return run


def _extents(
    x: Tensor, axes: Sequence[int], scales: Tensor | None, sizes: Tensor | None
) -> list[tuple[int, int, float]]:
    """Axis, new extent and factor, for each axis."""
    if sizes is not None and sizes.numel():
        return [(axis, size, size / x.shape[axis]) for axis, size in zip(axes, integers(sizes), strict=True)]
    assert scales is not None  # one of the two is given
    factors = scales.to(torch.float32).tolist()
    return [(axis, int(x.shape[axis] * factor), factor) for axis, factor in zip(axes, factors, strict=True)]


def _positions(transformation: str, before: int, after: int, scale: float) -> Array:
    """Where the elements of the new axis stand on the old one (see the module)."""
    index, factor = np.arange(after, dtype=np.float32), np.float32(scale)  # the runtime rounds so too
    match transformation:
        case "asymmetric":
            found = index / factor
        case "align_corners":
            found = index * (before - 1) / max(after - 1, 1)
        case "pytorch_half_pixel" if after == 1:
            found = np.zeros(1, np.float32)
        case _:
            found = (index + 0.5) / factor - 0.5
    if transformation == "half_pixel_symmetric":
        found = found + before / 2 * (1 - after / (scale * before))
    return found.astype(np.float32)


def _nearest(x: Tensor, axis: int, at: Array) -> Tensor:
    return x.index_select(axis, _clamped(at, x, axis))


def _linear(x: Tensor, axis: int, at: Array) -> Tensor:
    low = np.floor(at)
    share = torch.from_numpy(at - low).to(x).reshape(-1, *[1] * (x.ndim - 1 - axis))
    first, second = (x.index_select(axis, _clamped(where, x, axis)) for where in (low, low + 1))
    return first * (1 - share) + second * share


def _clamped(at: Array, x: Tensor, axis: int) -> Tensor:
    return torch.from_numpy(at.clip(0, x.shape[axis] - 1).astype(np.int64)).to(x.device)


RESIZING: dict[str, Maker] = {"Resize": resize}
