"""Looks into a network while it runs: shapes of tensors, second moments of layer inputs.

Outputs are added to a copy of the graph and ONNX Runtime runs it batch by batch; what
is kept does not grow with the number of images. What one batch takes is `layer_bytes`
of it: who makes the batches bounds them by that (`scoring.batch_size`).

The *second moment* of a layer is Sigma[columns, columns] = E[x x^T] over the columns x
that its folded weight multiplies (im2col patches for a convolution), so that
tr(E Sigma E^T) is the mean squared output error of a weight error E[out, columns].
Where the layer's bias takes up the mean error, E m with m = E[x], what is left is
tr(E (Sigma - m m^T) E^T): the moment *about the mean*. Batches are merged about their
means, so that a moment of little variance about a large mean loses no digits to it.
Source: Zhang et al., Accelerating Very Deep Convolutional Networks (2015), section 3;
Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample
Variances (1979).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime.errors import UsageError
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session

from lissom.data import Feeds, samples_of
from lissom.graph.count import mac_activations
from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.parallel import one_blas_thread

MOMENT_BYTES = 4 * 2**30
"""Memory for the moments of all layers together. Layers beyond it have none (a 25,088-wide one would need 5 GB)."""

ROWS_PER_BATCH = 4096
"""Patches of one batch that enter the moment of one layer, at most: bounds memory."""

ROWS = 16 * ROWS_PER_BATCH
"""Patches of all batches that do: bounds time, however many batches there are."""

Array = npt.NDArray[Any]


@dataclass
class Moment:
    """The accumulated mean and second moment of one layer's input columns.

    Attributes:
        scatter: sum of (x - m)(x - m)^T over the rows seen, scatter[columns, columns].
        mean: m[columns] = E[x].
        rows: how many x were seen.
    """

    scatter: npt.NDArray[np.float64]
    mean: npt.NDArray[np.float64]
    rows: int = 0

    @classmethod
    def of(cls, columns: int) -> Moment:
        """That of no rows."""
        return cls(np.zeros((columns, columns)), np.zeros(columns))

    def add(self, rows: Array) -> None:
        """Adds x[rows, columns]."""
        if not len(rows):
            return
        wide = rows.astype(np.float64)
        mean = wide.mean(axis=0)
        wide -= mean
        apart = mean - self.mean
        self.scatter += wide.T @ wide
        self.scatter += np.outer(apart, apart * (self.rows * len(rows) / (self.rows + len(rows))))
        self.mean = self.mean + apart * (len(rows) / (self.rows + len(rows)))
        self.rows += len(rows)

    def about_zero(self) -> npt.NDArray[np.float64]:
        """Sigma[columns, columns] = E[x x^T]."""
        return self.centred() + np.outer(self.mean, self.mean)

    def centred(self) -> npt.NDArray[np.float64]:
        """The covariance[columns, columns] E[(x - m)(x - m)^T]."""
        covariance: npt.NDArray[np.float64] = self.scatter / max(self.rows, 1)
        return covariance


def affordable(layers: Sequence[Layer], limit: int = MOMENT_BYTES) -> list[Layer]:
    """The layers whose moments fit into `limit` bytes together, the narrow ones first."""
    kept, spent = set(), 0
    for layer in sorted(layers, key=lambda layer: layer.geometry.columns):
        spent += 8 * layer.geometry.columns**2
        if spent > limit:
            break
        kept.add(layer.name)
    return [layer for layer in layers if layer.name in kept]


def observe_shapes(model: Model, names: Sequence[str], feeds: Feeds) -> dict[str, tuple[int, ...]]:
    """Runs the model once on the CPU and returns the shape of each named tensor.

    Raises:
        LoadError: ONNX Runtime cannot run the model.
    """
    given = {name: feeds[name].shape for name in names if name in feeds}
    wanted = [name for name in names if name not in feeds]
    if not wanted:
        return given
    return {**given, **{name: value.shape for name, value in next(run_batches(model, wanted, [feeds])).items()}}


def layer_bytes(model: Model, feeds: Feeds) -> int:
    """Bytes of what all layers read and give in one run on the CPU, as float32.

    Raises:
        LoadError: ONNX Runtime cannot run the model.
    """
    return 4 * sum(prod(shape) for shape in observe_shapes(model, mac_activations(model), feeds).values())


def observe_moments(
    model: Model, layers: Sequence[Layer], batches: Sequence[Feeds], seed: int = 0
) -> dict[str, Moment]:
    """Accumulates mean and second moment of every layer's input.

    Args:
        model: the model that the layers belong to.
        layers: the layers to look at.
        batches: feeds for the model, one batch at a time.
        seed: chooses the patches where a batch has more than `ROWS_PER_BATCH`, or than its part of `ROWS`; a batch of
            fewer samples has a smaller part.

    Raises:
        UsageError: an activation is NaN or infinite.
    """
    moments = {layer.name: Moment.of(layer.geometry.columns) for layer in layers}
    rng = np.random.default_rng(seed)
    most = min(ROWS_PER_BATCH, max(ROWS // max(len(batches), 1), 1))
    sizes = [samples_of(feeds) for feeds in batches]
    sources = list({layer.source.name: None for layer in layers})
    with one_blas_thread():
        for values, size in zip(run_batches(model, sources, batches), sizes, strict=True):
            limit = -(-most * size // max(sizes))  # a smaller batch counts less
            for layer in layers:
                rows = sample_columns(values[layer.source.name], layer.geometry, limit, rng)
                if not np.isfinite(rows).all():
                    raise UsageError(f"expected finite activations, but the input of {layer.name!r} is NaN or infinite")
                moments[layer.name].add(rows)
    return moments


def sample_columns(values: Array, geometry: Geometry, limit: int, rng: np.random.Generator) -> Array:
    """Up to `limit` of the columns that the folded weight multiplies, as x[rows, columns].

    Args:
        values: the layer's input: values[batch, channels, *spatial], or values[..., channels].
        geometry: the layer's geometry; its spatial extents are not used.
        limit: most rows returned.
        rng: draws which rows, without repetition, when there are more.
    """
    if not geometry.kernel_shape:
        flat = values.reshape(-1, geometry.in_channels)
        return flat if len(flat) <= limit else flat[np.sort(rng.choice(len(flat), limit, replace=False))]
    axes = len(geometry.kernel_shape)
    begin, end = resolve_pads(geometry, values.shape[2:])
    padded = np.pad(values, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    extents = [
        (kernel - 1) * dilation + 1 for kernel, dilation in zip(geometry.kernel_shape, geometry.dilations, strict=True)
    ]
    windows = np.lib.stride_tricks.sliding_window_view(padded, extents, axis=tuple(range(2, 2 + axes)))
    steps = tuple(slice(None, None, stride) for stride in geometry.strides)
    taps = tuple(slice(None, None, dilation) for dilation in geometry.dilations)
    windows = windows[slice(None), slice(None), *steps, *taps]  # [batch, channels, *out, *kernel]
    out = (windows.shape[0], *windows.shape[2 : 2 + axes])
    count = prod(out)
    chosen = np.arange(count) if count <= limit else np.sort(rng.choice(count, limit, replace=False))
    batch, *positions = np.unravel_index(chosen, out)
    index: tuple[Any, ...] = (batch, slice(None), *positions)
    rows: Array = windows[index].reshape(len(chosen), -1)
    return rows


def resolve_pads(geometry: Geometry, spatial: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding (begin per axis, end per axis) of a convolution on inputs of `spatial` extent."""
    axes = len(geometry.kernel_shape)
    if geometry.auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return geometry.pads[:axes], geometry.pads[axes:]
    begin, end = [], []
    for size, kernel, stride, dilation in zip(
        spatial, geometry.kernel_shape, geometry.strides, geometry.dilations, strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if geometry.auto_pad == "SAME_UPPER" else large)
        end.append(large if geometry.auto_pad == "SAME_UPPER" else small)
    return tuple(begin), tuple(end)


def run_batches(model: Model, names: Sequence[str], batches: Iterable[Feeds]) -> Iterator[Mapping[str, Array]]:
    """The named tensors for each batch, from a copy of the graph that gives them out."""
    proto = model.to_proto()
    known = {value.name for value in (*proto.graph.output, *proto.graph.input)}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = open_session(proto.SerializeToString(), ProviderRequest())
    for feeds in batches:
        wanted = [name for name in names if name not in feeds]
        yield {**{name: feeds[name] for name in names if name in feeds}, **_named(session, wanted, feeds)}


def _named(session: Any, names: Sequence[str], feeds: Feeds) -> dict[str, Array]:
    return dict(zip(names, run_session(session, feeds, names), strict=True)) if names else {}
