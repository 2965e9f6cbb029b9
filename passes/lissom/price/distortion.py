"""How much an option changes what the network computes, measured on calibration samples.

The error of a weight says little about the loss of a network: layers differ by orders of magnitude in how much of an
error they bear. So for each site a few options (*probes*) are put into the network one at a time, and the
distortion of its outputs is measured (`outputs` says what that is). It is the square of an error, so those of several
sites add up as long as they are small and independent. Between probes the distortion is interpolated over the error of
the weight, both on a log scale, and made monotone; below the least probe it falls with the square of the error.

What a probe costs is bounded:

1. samples: at most `SAMPLES`, and fewer (down to `LEAST_SAMPLES`) where one probe of every site would take more than
   `WORK` multiply-accumulates or the tensors kept between two layers more than `KEPT_BYTES`; whole batches, evenly
   spaced over those that are given;
2. options: at most `PROBES` of one kind at a site, fewer where the curve is straight (`probing`);
3. nodes: those behind the layer. The original runs once from layer to layer, and each site takes along what it reads.

Sites are measured side by side, by whoever does the work; the distortions are the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime.session import open_session, run_session

from lissom.data import Feeds
from lissom.graph.extract import border, dependants, part
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.options import FloatArray, Menu, Parameters
from lissom.parallel import SERIAL, Workers, map_in_parallel
from lissom.price.cache import Cache, content_of
from lissom.price.curve import Curve, choose_probes, with_distortions
from lissom.price.outputs import classifies
from lissom.price.probing import Apart, Approximate, Behind, Candidates, probe, refine
from lissom.rewrite import in_copy, own_bias, replace_bias, replace_weight
from lissom.stream import Stream, affordable_batches, spread
from lissom.version import __version__

SAMPLES = 256
"""Samples that a probe sees, at most."""

LEAST_SAMPLES = 16
"""Samples that a probe sees whatever it costs, where there are as many and they fit into the memory."""

WORK = 5 * 10**11
"""Multiply-accumulates of one probe of every site."""

KEPT_BYTES = 512 * 2**20
"""Memory for the tensors that are kept of the original; where all samples need more, fewer are used."""

Array = npt.NDArray[Any]


class DistortionTable:
    """Measures and remembers distortions.

    Args:
        model: the canonical model.
        batches: calibration samples, batch by batch.
        approximate: the weight that an option stands for, by kind; functions that other processes can import where
            those do the work.
        cache: where measurements are kept between runs.

    Attributes:
        batches, cache: as given.
    """

    def __init__(
        self, model: Model, batches: Sequence[Feeds], approximate: Mapping[str, Approximate], cache: Cache
    ) -> None:
        self._model = model
        self._proto = model.to_proto()
        self._outputs = [value.name for value in self._proto.graph.output]
        self._classifies = classifies(self._proto)
        self.batches = batches
        self._approximate = approximate
        self.cache = cache

    def price(
        self,
        sites: Sequence[tuple[Layer, Menu]],
        moments: Mapping[str, FloatArray] | None = None,
        means: Mapping[str, FloatArray] | None = None,
        workers: Workers = SERIAL,
    ) -> Iterator[Menu]:
        """The menus with measured distortions in the place of the errors of the weights, in turn.

        Args:
            sites: the layers with their menus, in topological order.
            moments: second moment[columns, columns] of each layer's input, for kinds that use it.
            means: mean[columns] of the input of each layer whose bias takes up the mean error.
            workers: who runs the probes.

        Raises:
            UsageError: an output is NaN or infinite.
        """
        batches = self._chosen([layer for layer, _ in sites])
        identity = content_of(self._proto, batches)
        asked = [
            _Asked(layer, menu, (moments or {}).get(layer.name), (means or {}).get(layer.name), identity, self.cache)
            for layer, menu in sites
        ]
        work = self._behind([site for site in asked if not site.known], batches)
        measured = map_in_parallel(partial(probe, self._approximate), work, workers)
        for site in asked:
            if not site.known:
                site.learn(next(measured))
            yield site.priced("output_kl" if self._classifies else "output_error")

    def _chosen(self, layers: Sequence[Layer]) -> Sequence[Feeds]:
        """The batches that probes see (see the module)."""
        first = self.batches[0]
        size = len(next(iter(first.values())))
        macs = {layer.node.outputs[0].name: layer.geometry.macs for layer in layers}
        behind = (dependants(self._proto, [name]) for name in macs)
        work = sum(macs[name] for names in behind for name in names if name in macs)
        samples = min(max(WORK // max(work, 1), LEAST_SAMPLES), SAMPLES)
        stops = [border(self._proto, [name]) for name in macs]
        most = min(max(samples // size, 1), len(self.batches))
        most = affordable_batches(self._proto, first, stops, most, KEPT_BYTES)
        return spread(self.batches, most)

    def _behind(self, sites: Sequence[_Asked], batches: Sequence[Feeds]) -> Iterator[Behind]:
        """What each site needs to be measured, while the original network runs from one to the next."""
        if not sites:
            return
        proto, numbers = self._bare([site.layer for site in sites])
        session = open_session(proto.SerializeToString())
        original = [run_session(session, feeds, self._outputs) for feeds in batches]
        produced = [site.layer.node.outputs[0].name for site in sites]
        stops = []
        for site, name in zip(sites, produced, strict=True):
            behind = dependants(proto, [name])
            elsewhere = (output for output in self._outputs if output not in behind)
            stops.append(list(dict.fromkeys([site.layer.source.name, *border(proto, [name]), *elsewhere])))
        stream = Stream(proto, batches)
        for number, site in enumerate(sites):
            stream.advance(stops[number], set().union(*stops[number + 1 :]))
            kept = [{name: values[name] for name in stops[number]} for values in stream.batches]
            types = {name: values.dtype for name, values in kept[0].items()}
            types |= dict.fromkeys(numbers[site.layer.name], np.dtype(np.float32))
            yield Behind(
                Apart.of(site.layer),
                part(proto, types, self._outputs).SerializeToString(),
                numbers[site.layer.name],
                kept,
                self._outputs,
                original,
                self._classifies,
                site.candidates,
                site.moment,
                site.mean,
            )

    def _bare(self, layers: Sequence[Layer]) -> tuple[onnx.ModelProto, dict[str, list[str]]]:
        """The network with weights and biases as `replace_weight` stores them, and their names by layer."""
        copy = self._model.copy()
        names = {}
        for layer in layers:
            twin, bias = in_copy(copy, layer), own_bias(layer)
            replace_weight(twin, layer.weight)
            if bias is not None:
                replace_bias(twin, bias)
            names[layer.name] = [tensor.name for tensor in twin.node.inputs[1 : 2 if bias is None else 3]]
        return copy.to_proto(), names


class _Asked:
    """One site: what may be probed, and what has been.

    Attributes:
        candidates: what may be probed, one a kind.
        known: whether nothing is left to measure.
    """

    def __init__(
        self,
        layer: Layer,
        menu: Menu,
        moment: FloatArray | None,
        mean: FloatArray | None,
        identity: str,
        cache: Cache,
    ) -> None:
        self.layer, self.moment, self.mean = layer, moment, mean
        self._menu, self._cache = menu, cache
        where = {"of": identity, "site": layer.name, "lissom": __version__}
        self._how = {**where, "moment": moment is not None, "mean": mean is not None}
        self.candidates: list[Candidates] = []
        for kind in dict.fromkeys(ladder.kind for ladder in menu.ladders):
            probes = choose_probes([ladder for ladder in menu.ladders if ladder.kind == kind])
            if probes:
                found = [cache.get(self._key(kind, parameters)) for _, parameters in probes]
                error, options = np.array([error for error, _ in probes]), [parameters for _, parameters in probes]
                known = {index: value for index, value in enumerate(found) if value is not None}
                self.candidates.append(Candidates(kind, error, options, known))
        self._found: list[dict[int, float]] = []
        try:
            self._found = [refine(asked.error, asked.known.__getitem__) for asked in self.candidates]
        except KeyError:
            self.known = False
        else:
            self.known = True

    def learn(self, found: Sequence[dict[int, float]]) -> None:
        """Takes in what was measured, one a kind, and keeps it."""
        self._found, self.known = list(found), True
        for asked, distortions in zip(self.candidates, found, strict=True):
            for index in distortions.keys() - asked.known.keys():
                self._cache.put(self._key(asked.kind, asked.parameters[index]), distortions[index])

    def priced(self, metric: str) -> Menu:
        """The menu with the distortions, under the name of `metric`."""
        curves = {
            asked.kind: Curve(asked.error[list(found)], np.array(list(found.values())))
            for asked, found in zip(self.candidates, self._found, strict=True)
        }
        return with_distortions(self._menu, curves, metric)

    def _key(self, kind: str, parameters: Parameters) -> dict[str, Any]:
        return {**self._how, "kind": kind, "parameters": dict(parameters)}
