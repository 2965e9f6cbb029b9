"""How many zeros of activations a convolution could pass over: shares of zero elements, vectors and channels.

    python benchmarks/zero_vectors.py --cifar ../shared/data/cifar10-jpeg [--only vgg] [--samples 512]
    python benchmarks/zero_vectors.py --fast

SparseConv multiplies stretches of consecutive outputs at once (`sparse_product`), each by the elements of its input
that one channel and one tap of the kernel reach. Such a vector may be passed over where all of it is zero. For each
convolution but the first, of all vectors of its panel (channels, taps and stretches of 8, 16, 24 or 96 outputs), the
share that is zero; the share of zero elements of its input; and that of the channels of a sample that are zero all
over. A last stretch that is short counts by its length.

Networks are as they are, and with masks on all activations at winner rates of 0.4 and 0.2: one threshold a tensor, one
a channel, or whole channels, which keeps those of each sample that have the largest sums of magnitudes. The accuracy is
that of the network with these masks, nothing recovered: it says which of the zeros may be had.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from lissom.activations.insert import Static, insert
from lissom.activations.sites import ActivationSite, find_sites
from lissom.activations.thresholds import observe_magnitudes
from lissom.canonical import Canonical
from lissom.data import Feeds, input_specs, open_dataset
from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Model, constant, make_node, variable
from lissom.observe import observe_shapes, resolve_pads, run_batches
from lissom_runtime.providers import ProviderRequest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.results import Case
from benchmarks.subjects import arguments_of, chosen_cases, command, markdown, open_canonical, write_results

NETWORKS = ("resnet20 (CIFAR-10 JPEG)", "vgg-small")
STRETCHES = (8, 16, 24, 96)
"""Outputs that are multiplied at once: a vector of AVX2 and of AVX-512, and the tiles of 4 rows and of one."""

RATES = (0.4, 0.2)
BATCH = 128

Grain = Literal["none", "tensor", "channel", "whole channels"]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Zeros:
    """The zeros that one convolution reads; shares are from 0 to 1.

    Attributes:
        layer: its name.
        shape: of the layer, for a table.
        macs: multiply-accumulates of the dense layer, one sample.
        elements: share of its input's elements.
        vectors: by length of the stretch, share of the panel's vectors.
        channels: share of the input's channels, each of one sample.
    """

    layer: str
    shape: str
    macs: int
    elements: float
    vectors: Mapping[int, float]
    channels: float


@dataclass(frozen=True)
class Found:
    """One network with one kind of mask at one winner rate (1: none).

    Attributes:
        accuracy: share of samples whose label is the best class.
        layers: its convolutions but the first.
    """

    network: str
    grain: Grain
    rate: float
    accuracy: float
    layers: Sequence[Zeros]

    def mean(self, figure: str, stretch: int = 0) -> float:
        """A share of all layers, weighted by their multiply-accumulates."""
        values = [layer.vectors[stretch] if figure == "vectors" else getattr(layer, figure) for layer in self.layers]
        return float(np.average(values, weights=[layer.macs for layer in self.layers]))


def taps(nonzero: BoolArray, geometry: Geometry) -> Iterator[BoolArray]:
    """What each tap of the kernel reads for all outputs, reads[batch, channels, outputs], tap by tap.

    Args:
        nonzero: the layer's input, nonzero[batch, channels, height, width]; padding is zero.
        geometry: of the convolution, two-dimensional.
    """
    begin, end = resolve_pads(geometry, nonzero.shape[2:])
    padded = np.pad(nonzero, [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    axes = list(zip(padded.shape[2:], geometry.kernel_shape, geometry.strides, geometry.dilations, strict=True))
    for tap in np.ndindex(*geometry.kernel_shape):
        windows = tuple(
            slice(at * dilation, size - (kernel - 1 - at) * dilation, stride)
            for at, (size, kernel, stride, dilation) in zip(tap, axes, strict=True)
        )
        yield padded[(slice(None), slice(None), *windows)].reshape(*nonzero.shape[:2], -1)


def zero_vectors(nonzero: BoolArray, geometry: Geometry, stretch: int) -> float:
    """The share of outputs, over all channels and taps, that lie in a zero vector of `stretch` consecutive ones."""
    zero = total = 0
    for reads in taps(nonzero, geometry):
        short = -reads.shape[-1] % stretch
        vectors = np.pad(reads, [(0, 0), (0, 0), (0, short)]).reshape(*reads.shape[:2], -1, stretch).any(axis=-1)
        lengths = np.full(vectors.shape[-1], stretch)
        lengths[-1] -= short
        zero += int(((~vectors) * lengths).sum())
        total += reads.size
    return zero / total


def masked(
    canonical: Canonical, sites: Sequence[ActivationSite], grain: Grain, rate: float, batches: Sequence[Feeds]
) -> Model:
    """A copy of a network with masks on all sites.

    Args:
        canonical: the network.
        sites: its sites.
        grain: what loses as one.
        rate: share of the elements, or of the channels, that stay.
        batches: calibration data.
    """
    model = canonical.model.copy()
    shapes = observe_shapes(model, [site.tensor for site in sites], canonical.feeds)
    if grain == "whole channels":
        for site in sites:
            if len(shapes[site.tensor]) == 4:
                _keep_channels(model, site.tensor, shapes[site.tensor][1], rate)
    elif grain != "none":
        found = observe_magnitudes(model, sites, batches, per_channel=grain == "channel")
        insert(model, sites, {name: Static(one.thresholds(rate)) for name, one in found.items()}, shapes)
    return model


def _keep_channels(model: Model, name: str, channels: int, rate: float) -> None:
    """Keeps of a tensor[batch, channels, height, width] the channels of the largest sums of magnitudes, in place."""
    tensor = model.graph.tensors()[name]
    producer, readers = tensor.inputs[0], list(tensor.outputs)
    kept = variable(f"{name}/kept", like=tensor)
    for reader in readers:
        for index, read in enumerate(reader.inputs):
            if read is tensor:
                reader.inputs[index] = kept
    sizes, means, largest, least, loses = (
        variable(f"{name}/{part}") for part in ("sizes", "means", "largest", "least", "loses")
    )
    count = max(1, round(rate * channels))
    count_of, last = (constant(f"{name}/{part}", np.array([n])) for part, n in (("count", count), ("last", count - 1)))
    nodes = [
        make_node("Abs", f"{name}/abs", [tensor], [sizes]),
        make_node("GlobalAveragePool", f"{name}/means", [sizes], [means]),
        make_node("TopK", f"{name}/top", [means, count_of], [largest, variable(f"{name}/places")], {"axis": 1}),
        make_node("Gather", f"{name}/least", [largest, last], [least], {"axis": 1}),
        make_node("Less", f"{name}/loses", [means, least], [loses]),
        make_node("Where", f"{name}/where", [loses, constant(f"{name}/zero", np.array(0, np.float32)), tensor], [kept]),
    ]
    position = next(index for index, node in enumerate(model.graph.nodes) if node is producer) + 1
    model.graph.nodes[position:position] = nodes


def count(model: Model, layers: Sequence[Layer], batches: Sequence[tuple[Feeds, Any]]) -> tuple[float, list[Zeros]]:
    """The accuracy of a network, and the zeros that each of `layers` reads.

    Args:
        model: the network; its first output has the scores of the classes.
        layers: convolutions of it.
        batches: feeds and labels.
    """
    scores = model.outputs[0].name
    elements: dict[str, list[float]] = defaultdict(list)
    channels: dict[str, list[float]] = defaultdict(list)
    vectors: dict[tuple[str, int], list[float]] = defaultdict(list)
    right = total = 0
    names = [scores, *dict.fromkeys(layer.node.inputs[0].name for layer in layers)]
    for values, (_, labels) in zip(run_batches(model, names, [feeds for feeds, _ in batches]), batches, strict=True):
        right += int(np.count_nonzero(values[scores].argmax(axis=1) == labels))
        total += len(labels)
        for layer in layers:
            nonzero = values[layer.node.inputs[0].name] != 0
            elements[layer.name].append(1 - float(nonzero.mean()))
            channels[layer.name].append(1 - float(nonzero.any(axis=(2, 3)).mean()))
            for stretch in STRETCHES:
                vectors[layer.name, stretch].append(zero_vectors(nonzero, layer.geometry, stretch))
    return right / total, [
        Zeros(
            layer.name,
            label(layer.geometry),
            layer.geometry.macs,
            float(np.mean(elements[layer.name])),
            {stretch: float(np.mean(vectors[layer.name, stretch])) for stretch in STRETCHES},
            float(np.mean(channels[layer.name])),
        )
        for layer in layers
    ]


def label(geometry: Geometry) -> str:
    """For a table: "16→32 3×3/2 @16", with the extent of the output."""
    kernel, stride = geometry.kernel_shape, geometry.strides[0]
    told = f"/{stride}" if stride > 1 else ""
    sizes = f"{geometry.in_channels}→{geometry.out_channels} {kernel[0]}×{kernel[1]}"
    return f"{sizes}{told} @{geometry.out_spatial[0]}"


def measure(case: Case, arguments: argparse.Namespace) -> Iterator[Found]:
    """One network, as it is and with all masks."""
    canonical = open_canonical(case)
    specs = input_specs(canonical.model.inputs)
    calibration = [feeds for feeds, _ in open_dataset(case.calibration, specs).batches(BATCH, arguments.samples)]
    held_out = list(open_dataset(case.validation, specs).batches(BATCH, arguments.held_out))
    sites = find_sites(canonical.model, canonical.layers).sites
    masks: list[tuple[Grain, float]] = [("none", 1.0)]
    masks += [(grain, rate) for grain in ("tensor", "channel", "whole channels") for rate in RATES]
    for grain, rate in masks:
        model = masked(canonical, sites, grain, rate, calibration)
        nodes = {node.name: node for node in model.graph.nodes}
        layers = [
            Layer(layer.name, layer.op, nodes[layer.name], layer.weight, layer.geometry, layer.source_rank)
            for layer in canonical.layers[1:]
            if len(layer.geometry.kernel_shape) == 2
        ]
        accuracy, zeros = count(model, layers, held_out)
        yield Found(case.name, grain, rate, accuracy, zeros)


def table(found: Sequence[Found]) -> str:
    """Markdown: a line for each mask, shares weighted by the multiply-accumulates of the layers, percent."""
    columns = ["masks", "rate", "accuracy", "elements", *(f"vectors of {n}" for n in STRETCHES), "channels"]
    rows = [
        [
            *(one.grain, f"{one.rate:g}", f"{100 * one.accuracy:.1f}", f"{100 * one.mean('elements'):.1f}"),
            *(f"{100 * one.mean('vectors', stretch):.1f}" for stretch in STRETCHES),
            f"{100 * one.mean('channels'):.1f}",
        ]
        for one in found
    ]
    return markdown(columns, rows)


def layer_table(found: Found) -> str:
    """Markdown: a line for each layer, percent."""
    rows = [
        [
            *(f"{layer.layer} {layer.shape}", f"{100 * layer.elements:.1f}"),
            *(f"{100 * layer.vectors[stretch]:.1f}" for stretch in STRETCHES),
            f"{100 * layer.channels:.1f}",
        ]
        for layer in found.layers
    ]
    return markdown(["layer", "elements", *(f"vectors of {n}" for n in STRETCHES), "channels"], rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Counts, prints the tables and writes build/results/zero_vectors.json."""
    arguments = arguments_of(command(__doc__), argv)
    everything = []
    for case in chosen_cases(arguments, NETWORKS):
        found = []
        for one in measure(case, arguments):
            print(f"\n{case.name}, masks: {one.grain} {one.rate:g}\n\n{layer_table(one)}", flush=True)
            found.append(one)
        print(f"\n{case.name}\n\n{table(found)}", flush=True)
        everything += [asdict(one) for one in found]
    write_results("zero_vectors", ProviderRequest(), arguments, {"networks": everything})


if __name__ == "__main__":
    main()
