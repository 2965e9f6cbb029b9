"""How long it takes to propose and to allocate low-rank options for ResNet-50.

The layers have the shapes of ResNet-50 (53 convolutions and the classifier) and ResNet-20 and
random He-normal weights, seed 0; the time does not depend on the values. Layers are spread over two
threads with one BLAS thread each. `--peer` also runs numpy.linalg.svd on every slice, layer by
layer in turn with ours, which takes minutes.

    python benchmarks/allocate.py [--peer]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from lissom.allocate.alds import alds
from lissom.allocate.minimax import minimax
from lissom.graph.geometry import Geometry
from lissom.kinds import menu
from lissom.lowrank.errors import Metric
from lissom.lowrank.foldings import SIDES, Array, Scheme, Side, divisors, fold, slices
from lissom.lowrank.propose import ladders
from lissom.lowrank.spectra import spectrum
from lissom.options import Menu
from threadpoolctl import threadpool_limits

JOBS = 2
Network = Sequence[tuple[Geometry, Array]]


def convolution(f: int, c: int, kernel: int, extent: int, stride: int) -> Geometry:
    """A square convolution with "same" padding."""
    pads = (kernel // 2,) * 4
    after = (extent // stride,) * 2
    return Geometry(f, c, (kernel,) * 2, (stride,) * 2, (1, 1), pads, "NOTSET", (extent,) * 2, after)


def resnet50() -> list[Geometry]:
    """The layers of ResNet-50 at 224 × 224."""
    layers = [convolution(64, 3, 7, 224, 2)]
    channels, extent = 64, 56
    for width, blocks, first_stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            layers.append(convolution(width, channels, 1, extent, 1))
            layers.append(convolution(width, width, 3, extent, stride))
            layers.append(convolution(4 * width, width, 1, extent // stride, 1))
            if block == 0:
                layers.append(convolution(4 * width, channels, 1, extent, stride))
            channels, extent = 4 * width, extent // stride
    return [*layers, Geometry(1000, 2048)]


def resnet20() -> list[Geometry]:
    """The layers of ResNet-20 at 32 × 32."""
    layers = [convolution(16, 3, 3, 32, 1)]
    channels, extent = 16, 32
    for width in (16, 32, 64):
        for index in range(6):
            stride = 2 if index == 0 and width > 16 else 1
            layers.append(convolution(width, channels, 3, extent, stride))
            channels, extent = width, extent // stride
    return [*layers, Geometry(10, 64)]


def with_weights(layers: Sequence[Geometry]) -> Network:
    """He-normal weights, seed 0."""
    rng = np.random.default_rng(0)

    def draw(layer: Geometry) -> Array:
        shape = (layer.out_channels, layer.in_channels, *layer.kernel_shape)
        return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / layer.columns))

    return [(layer, draw(layer)) for layer in layers]


def propose(network: Network, metric: Metric, foldings: Sequence[int], sides: Sequence[Side]) -> list[Menu]:
    """The menus of all layers, the largest layers first."""

    def one(index: int) -> Menu:
        geometry, weight = network[index]
        name = f"layer{index}"
        return menu(name, weight, geometry, metric, ladders(name, weight, geometry, metric, foldings, sides))

    order = sorted(range(len(network)), key=lambda index: -network[index][0].weight_size)
    with ThreadPoolExecutor(JOBS) as executor:
        made = dict(zip(order, executor.map(one, order), strict=True))
    return [made[index] for index in range(len(network))]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleaved(works: Sequence[Callable[[], object]], repeats: int = 7) -> list[float]:
    """Median wall time of each, run in turn."""
    samples = [[seconds(work) for work in works] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*samples, strict=True)]


def line(what: str, value: float, unit: str) -> None:
    """Prints one figure."""
    print(f"{what:58s} {value:9.3f} {unit}", flush=True)


def report_proposals(network: Network) -> list[Menu]:
    """Prints the time of proposals; returns the menus of folding 0, input side."""
    everything = partial(propose, network, foldings=(0, 1, 2, 3), sides=SIDES)
    plain = partial(propose, network, "code", (0,), ("input",))
    line("propose: folding 0, input side, all groups, code", seconds(plain), "s")
    line("propose: all foldings, sides and groups, frobenius", seconds(partial(everything, "frobenius")), "s")
    line("propose: all foldings, sides and groups, code", seconds(partial(everything, "code")), "s")
    menus = everything("code")
    half = 0.5 * sum(m.dense.cost.params for m in menus)
    line("options of these menus", sum(len(ladder) for m in menus for ladder in m.ladders), "")
    line("minimax on them", interleaved([partial(minimax, menus, "params", half)])[0], "s")
    line("peak resident memory", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, "GiB")
    return plain()


def report_allocators(name: str, menus: Sequence[Menu]) -> None:
    """Prints the time of both allocators at half the weights, run in turn."""
    half = 0.5 * sum(m.dense.cost.params for m in menus)
    search, exact = partial(alds, menus, half), partial(minimax, menus, "params", half)
    times = interleaved([search, exact])
    line(f"{name}, folding 0, input side: alds", times[0], "s")
    line(f"{name}, folding 0, input side: minimax", times[1], "s")
    line(f"{name}: alds / minimax, time", times[0] / times[1], "")
    line(f"{name}: alds / minimax, error level", search().level / exact().level, "")


def report_peer(network: Network) -> None:
    """Prints our spectra beside numpy.linalg.svd on the same slices, layer by layer in turn."""

    def ours(weight: Array, schemes: Sequence[Scheme]) -> None:
        for scheme in schemes:
            spectrum(weight, scheme)

    def peer(weight: Array, schemes: Sequence[Scheme]) -> None:
        for scheme in schemes:
            np.linalg.svd(slices(fold(weight, 0), scheme.side, scheme.groups), compute_uv=False)

    spent = np.zeros(2)
    for geometry, weight in network:
        schemes = [Scheme(0, "input", groups) for groups in divisors(geometry.in_channels)]
        spent += seconds(partial(ours, weight, schemes)), seconds(partial(peer, weight, schemes))
    line("one thread: our spectra, float64", spent[0], "s")
    line("one thread: numpy.linalg.svd, float32", spent[1], "s")
    line("numpy.linalg.svd / ours, time", spent[1] / spent[0], "")


def main() -> None:
    """Runs everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", action="store_true", help="also time numpy.linalg.svd (minutes)")
    arguments = parser.parse_args()
    network = with_weights(resnet50())
    print(f"ResNet-50 shapes: {len(network)} layers, {sum(weight.size for _, weight in network)} weights")
    with threadpool_limits(1):
        report_allocators("ResNet-50", report_proposals(network))
        report_allocators("ResNet-20", propose(with_weights(resnet20()), "code", (0,), ("input",)))
        if arguments.peer:
            report_peer(network)


if __name__ == "__main__":
    main()
