"""How much an option changes what the network computes, measured on calibration samples.

The error of a weight says little about the loss of a network: layers differ by orders of magnitude in how much of an
error they bear. So for each site a few options (*probes*) are put into the network one at a time, and the
distortion of its outputs is measured:

    classifier (first output [n, classes])   mean over n of Σ_c p log(p / q) in nats, p and q the classes'
                                             probabilities in the original and in the changed network
    anything else                            Σ (ŷ − y)² / Σ y² over all outputs

Both are squares of an error, so those of several sites add up as long as they are small and independent. Between probes
the distortion is interpolated over the error of the weight, both on a log scale, and made monotone; below the
least probe it falls with the square of the error.

Only what depends on the layer runs again: its input and whatever else the nodes behind it read is kept from one run of
the original (`graph.extract`). Weight and bias are inputs of that network, so that all probes share one session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from lissom_runtime.errors import UsageError
from lissom_runtime.session import open_session, run_session
from scipy.special import log_softmax

from lissom.data import Feeds
from lissom.graph.extract import border, part
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.options import FloatArray, Ladder, Menu, Parameters
from lissom.price.cache import Cache
from lissom.rewrite import corrected_bias, in_copy, own_bias, replace_bias, replace_weight, stored_weight
from lissom.version import __version__

PROBES = 8
"""Options of one kind that are measured at a site."""

LEAST_ERROR = 0.02
"""Probes of a smaller error are not worth a run: their distortion is that of rounding."""

KEPT_BYTES = 512 * 2**20
"""Memory for the tensors that are kept of the original; where all samples need more, fewer are used."""

FLOOR = 1e-12
"""A distortion below this is rounding."""

Array = npt.NDArray[Any]
Approximate = Callable[[Layer, Parameters, FloatArray | None], Array]
"""The dense weight that an option stands for; each kind has one."""


class DistortionTable:
    """Measures and remembers distortions.

    Args:
        model: the canonical model.
        batches: calibration samples, batch by batch.
        approximate: the weight that an option stands for, by kind.
        cache: where measurements are kept between runs.
    """

    def __init__(
        self, model: Model, batches: Sequence[Feeds], approximate: Mapping[str, Approximate], cache: Cache
    ) -> None:
        self._model = model
        self._proto = model.to_proto()
        self._outputs = [value.name for value in self._proto.graph.output]
        self._batches = batches
        self._approximate = approximate
        self._cache = cache
        content = hashlib.sha256(self._proto.SerializeToString(deterministic=True))
        for feeds in batches:
            for name in sorted(feeds):
                content.update(np.ascontiguousarray(feeds[name]).tobytes())
        self._identity = content.hexdigest()

    def price(self, layer: Layer, menu: Menu, moment: FloatArray | None = None, mean: FloatArray | None = None) -> Menu:
        """The menu with measured distortions in the place of the errors of the weights.

        Args:
            layer: the layer that the menu is of.
            menu: its options.
            moment: second moment[columns, columns] of the layer's input, for kinds that use it.
            mean: mean[columns] of the layer's input, for the bias that takes up the mean error.

        Raises:
            UsageError: an output is NaN or infinite.
        """
        ladders: list[Ladder] = []
        metric = ""
        for kind in dict.fromkeys(ladder.kind for ladder in menu.ladders):
            same = [ladder for ladder in menu.ladders if ladder.kind == kind]
            probes = _probes(same)
            distortions, metric = self._measure(layer, kind, [parameters for _, parameters in probes], moment, mean)
            curve = _Curve(np.array([error for error, _ in probes]), np.array(distortions))
            ladders += [
                replace(
                    ladder,
                    error=curve(ladder.error),
                    error_at_zero=float(curve(np.array([ladder.error_at_zero]))[0]),
                    metric=metric,
                )
                for ladder in same
            ]
        return Menu(menu.site, replace(menu.dense, metric=metric or menu.dense.metric), tuple(ladders))

    def _measure(
        self,
        layer: Layer,
        kind: str,
        probes: Sequence[Parameters],
        moment: FloatArray | None,
        mean: FloatArray | None,
    ) -> tuple[list[float], str]:
        """The distortion of each probe, and what it is called."""
        how = {"kind": kind, "moment": moment is not None, "mean": mean is not None, "lissom": __version__}
        where = {"of": self._identity, "site": layer.name}
        keys = [{**where, **how, "parameters": dict(parameters)} for parameters in probes]
        known = [self._cache.get(key) for key in keys]
        metric = "output_kl" if self._classifies else "output_error"
        if all(value is not None for value in known):
            return [value for value in known if value is not None], metric
        behind = _Behind(self._model, layer, self._outputs, self._batches)
        found = []
        for key, parameters, value in zip(keys, probes, known, strict=True):
            if value is None:
                changed = behind.run(self._approximate[kind](layer, parameters, moment), mean)
                value = max(distortion(behind.original, changed, self._classifies), FLOOR)
                self._cache.put(key, value)
            found.append(value)
        return found, metric

    @property
    def _classifies(self) -> bool:
        declared = self._proto.graph.output[0].type.tensor_type
        classes = declared.shape.dim[1].dim_value if len(declared.shape.dim) == 2 else 0
        return classes != 1 and len(declared.shape.dim) == 2


def distortion(original: Sequence[Array], changed: Sequence[Array], classifies: bool) -> float:
    """How far the outputs of a changed network are from the original's.

    Args:
        original: the outputs over all samples.
        changed: the same of the changed network.
        classifies: the first output is scores or probabilities [n, classes].

    Raises:
        UsageError: an output is NaN or infinite.
    """
    for values in (*original, *changed):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UsageError("expected finite outputs on the calibration data, but got a NaN or an infinity")
    if classifies:
        before, after = (_log_probabilities(outputs[0].astype(np.float64)) for outputs in (original, changed))
        return float((np.exp(before) * (before - after)).sum(axis=1).mean())
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(original, changed, strict=True)]
    scale = sum(float((a**2).sum()) for a, _ in pairs)
    return sum(float(((b - a) ** 2).sum()) for a, b in pairs) / scale if scale else 0.0


def _log_probabilities(scores: FloatArray) -> FloatArray:
    """Log probabilities[n, classes] of scores, or of what is a probability already."""
    if (scores >= 0).all() and np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(scores, FLOOR)))
    return np.asarray(log_softmax(scores, axis=1))


class _Behind:
    """The part of a network that depends on one layer, with weight and bias as inputs.

    Attributes:
        original: the network's outputs on the samples.
    """

    def __init__(self, model: Model, layer: Layer, outputs: Sequence[str], batches: Sequence[Feeds]) -> None:
        copy = model.copy()
        node = in_copy(copy, layer)
        replace_weight(node, layer.weight)
        self._layer, self._bias = layer, own_bias(layer)
        if self._bias is not None:
            replace_bias(node, self._bias)
        self._inputs = [tensor.name for tensor in node.node.inputs[1 : 2 if self._bias is None else 3]]
        proto = copy.to_proto()
        produced = layer.node.outputs[0].name
        kept = list(dict.fromkeys([layer.source.name, *border(proto, [produced])]))
        given = {name: values.dtype for name, values in batches[0].items()}
        whole = open_session(
            part(proto, given, [name for name in (*kept, *outputs) if name not in given]).SerializeToString()
        )
        self._batches: list[dict[str, Array]] = []
        before: list[Sequence[Array]] = []
        room = KEPT_BYTES
        for feeds in batches:
            names = [name for name in (*kept, *outputs) if name not in given]
            values = dict(zip(names, run_session(whole, feeds, names), strict=True)) | dict(feeds)
            self._batches.append({name: values[name] for name in kept})
            before.append([values[name] for name in outputs])
            room -= sum(values[name].nbytes for name in (*kept, *outputs))
            if room < 0:
                break
        self.original = [np.concatenate(parts) for parts in zip(*before, strict=True)]
        types = {name: values.dtype for name, values in self._batches[0].items()}
        types |= dict.fromkeys(self._inputs, np.dtype(np.float32))
        self._outputs = list(outputs)
        self._session = open_session(part(proto, types, outputs).SerializeToString())

    def run(self, weight: Array, mean: FloatArray | None) -> list[Array]:
        """The outputs with another weight[out, in, *kernel], and a bias that takes up the mean error."""
        given = {self._inputs[0]: stored_weight(self._layer, weight)}
        if self._bias is not None:
            corrected = corrected_bias(self._layer, weight, mean)
            given[self._inputs[1]] = self._bias if corrected is None else corrected
        runs = [run_session(self._session, {**feeds, **given}, self._outputs) for feeds in self._batches]
        return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


class _Curve:
    """Distortion over error, through some points."""

    def __init__(self, error: FloatArray, measured: FloatArray) -> None:
        order = np.argsort(error, kind="stable")
        self._error = np.log(error[order])
        self._measured = np.log(np.maximum.accumulate(measured[order]))

    def __call__(self, error: FloatArray) -> FloatArray:
        log = np.log(np.maximum(error, FLOOR))
        inside = np.interp(log, self._error, self._measured)
        below = self._measured[0] + 2 * (log - self._error[0])
        values: FloatArray = np.where(log < self._error[0], below, inside)
        return np.where(error > 0, np.exp(values), 0.0)


def _probes(ladders: Sequence[Ladder]) -> list[tuple[float, Parameters]]:
    """At most `PROBES` options as (error, parameters), their errors spread evenly on a log scale.

    Where several ladders have an option near an error, it is the one of fewest parameters: what an allocator takes.
    """
    found: dict[tuple[int, int], tuple[float, Parameters]] = {}
    largest = max(float(ladder.error.max()) for ladder in ladders)
    positive = [float(ladder.error[ladder.error > 0].min()) for ladder in ladders if (ladder.error > 0).any()]
    least = max(min(positive, default=LEAST_ERROR), LEAST_ERROR)
    for level in np.geomspace(min(least, largest), largest, PROBES) if largest > 0 else [0.0]:
        best: tuple[float, int, int] | None = None
        for number, ladder in enumerate(ladders):
            index = int(np.argmax(ladder.error <= level * (1 + 1e-9)))
            if ladder.error[index] <= level * (1 + 1e-9) and ladder.error[index] > 0:
                best = min(best or (np.inf, 0, 0), (float(ladder.params[index]), number, index))
        if best is not None:
            _, number, index = best
            found[number, index] = float(ladders[number].error[index]), ladders[number].option(index).parameters
    return sorted(found.values(), key=lambda probe: probe[0])
