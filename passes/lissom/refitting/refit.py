"""Closed-form refit: least squares on the layers of a compressed network, one after another.

The layers are taken in topological order. x are the columns of a layer's input in the network as compressed so far,
t what the *original* network has where the layer's `Tail` ends, a what the compressed network adds on the way there
(the shortcut of a residual block), so that t - a is what the layer should give: each layer makes good what those before
it lost. `refitting.fit` has the algebra of one layer. Layers that stay dense are refitted too when they see a changed
tensor; the last layer's target is what the original network gives.

Conditions under which nothing is done:

1. a layer that shares its weight with another keeps it;
2. a layer keeps it when its bias is computed, or not the same in every row;
3. a layer of more than `WIDEST` columns, or beyond the memory for all moments, keeps it;
4. a layer keeps it when its error on the held-out samples does not fall;
5. all do when the distortion of the network's outputs on the held-out samples does not fall.

Last, batch normalisations that are still nodes get back the statistics that they had (`norms`).

The first of every eight batches is held out, here and from the moments that the options were made with; where there is
one batch only, every eighth of its rows, and of a single row nothing. Memory is bounded: fewer batches are used where
the tensors between two layers take more than `KEPT_BYTES`, and at most `ROWS` random rows of a layer are seen.

Source: Zhang et al., Accelerating Very Deep Convolutional Networks for Classification and Detection (2015), sections
3.2 (nonlinearity; here by majorisation) and 3.3 (asymmetric reconstruction).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime.errors import UsageError
from lissom_runtime.session import open_session, run_session

from lissom.data import Feeds
from lissom.graph.extract import dependants
from lissom.graph.geometry import Geometry
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.observe import affordable, sample_columns
from lissom.options import FloatArray, Option, Refusal
from lissom.parallel import one_blas_thread
from lissom.price.outputs import distortion
from lissom.price.probing import Approximate
from lissom.refitting.fit import RIDGE, Dense, Fit, Ridge, Rows, fit, joined
from lissom.refitting.norms import Norm, corrections, normalisations
from lissom.refitting.tails import Tail, find_tails
from lissom.rewrite import in_copy, own_bias, replace_bias, replace_weight, stored_weight
from lissom.stream import Stream, affordable_batches

KEPT_BYTES = 512 * 2**20
"""Memory for the tensors that are kept between two layers, of the original and the compressed network together."""

ROWS = 32768
"""Most rows of a layer's input that its weight is fitted to."""

ROW_BYTES = 256 * 2**20
"""Memory for those rows."""

WIDEST = 8192
"""Layers of more columns keep their weight: the normal equations grow with the square."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Judged:
    """What came of the refit of one layer.

    Attributes:
        before, after: relative squared error of the layer on held-out samples, without and with it.
        kept: whether the layer got the refitted numbers.
    """

    before: float
    after: float
    kept: bool


@dataclass(frozen=True)
class Refitted:
    """What a refit did.

    Attributes:
        fits: the layers that get other numbers, by name.
        norms: the batch normalisations that do, by the name of their output.
        judged: every layer that was tried.
        refusals: what keeps its numbers, and why.
    """

    fits: Mapping[str, Fit] = field(default_factory=dict)
    judged: Mapping[str, Judged] = field(default_factory=dict)
    refusals: Sequence[Refusal] = ()
    norms: Mapping[str, Norm] = field(default_factory=dict)


def refit(
    model: Model,
    layers: Sequence[Layer],
    options: Mapping[str, Option],
    start: Mapping[str, Dense],
    batches: Sequence[Feeds],
    approximate: Mapping[str, Approximate],
    rounds: int = 3,
    ridge: Ridge = RIDGE,
    base: Model | None = None,
    elsewhere: Sequence[str] = (),
) -> Refitted:
    """Refits a compressed network to what the original one computes.

    Args:
        model: the original, canonical model.
        layers: its layers, in topological order.
        options: what was chosen for each site; other layers are left alone.
        start: what each changed layer computes without refit.
        batches: calibration samples, batch by batch.
        approximate: the dense weight that an option stands for, by kind. Options of other kinds are weights with zeros,
            which stay.
        rounds: how often the bound is renewed where a layer's tail clips.
        ridge: how much a weight is held to the original one, in units of the mean variance of its input columns; or
            "held-out", for what is best on the held-out samples.
        base: the model whose other nodes the compressed network has, with the shapes of `model`; None: `model`.
        elsewhere: outputs of nodes that `base` changes and that are none of the layers.

    Returns:
        What the layers should hold instead.

    Raises:
        LoadError: ONNX Runtime cannot run the model.
        UsageError: there are no samples, or an activation or output is NaN or infinite.
    """
    if not start and not elsewhere:
        return Refitted()
    if not batches:
        raise UsageError("expected calibration samples for the refit, but got none")
    with one_blas_thread():
        return _Refit(model, layers, options, start, approximate, rounds, ridge, base or model, elsewhere).run(batches)


class _Refit:
    """One refit: the original and the compressed network side by side, and which layers are fitted."""

    def __init__(
        self,
        model: Model,
        layers: Sequence[Layer],
        options: Mapping[str, Option],
        start: Mapping[str, Dense],
        approximate: Mapping[str, Approximate],
        rounds: int,
        ridge: Ridge,
        base: Model,
        elsewhere: Sequence[str],
    ) -> None:
        self._elsewhere = elsewhere
        self._original = model.to_proto()
        self._options, self._start = options, start
        self._approximate, self._rounds, self._ridge = approximate, rounds, ridge
        self._refusals: list[Refusal] = []
        self._compressed = _Compressed(base, [layer for layer in layers if layer.name in options], start)
        self._model, self._layers = model, self._behind(layers)
        self._changed = [layer for layer in layers if layer.name in start]

    def _behind(self, layers: Sequence[Layer]) -> list[Layer]:
        """The sites that are changed or see a changed tensor, and can be refitted."""
        outputs = [layer.node.outputs[0].name for layer in layers if layer.name in self._start]
        changed = dependants(self._original, [*outputs, *self._elsewhere])
        sites = [layer for layer in layers if layer.name in self._options]
        sites = [layer for layer in sites if layer.node.outputs[0].name in changed]
        wide = {layer.name for layer in sites} - {layer.name for layer in affordable(sites)}
        kept = []
        for layer in sites:
            columns, reason = layer.geometry.columns, ""
            if layer.readers > 1:
                reason = f"{layer.readers} layers share its weight"
            elif layer.bias is not None and own_bias(layer) is None:
                reason = f"its bias {layer.bias.name!r} is computed or differs between rows; expected a constant"
            elif columns > WIDEST or layer.name in wide:
                reason = f"its {columns} columns squared are beyond the memory for normal equations"
            if reason:
                self._refusals.append(Refusal(layer.name, "refit", reason))
            else:
                kept.append(layer)
        return kept

    def run(self, batches: Sequence[Feeds]) -> Refitted:
        """Fits the layers, and corrects the batch normalisations that are left."""
        done = self._fit_layers(batches) if self._layers else Refitted(refusals=self._refusals)
        nodes = normalisations(
            self._original, [*(layer.node.outputs[0].name for layer in self._changed), *self._elsewhere]
        )
        return self._correct(done, nodes, batches) if nodes else done

    def _fit_layers(self, batches: Sequence[Feeds]) -> Refitted:
        """Fits one layer after another, and compares the outputs."""
        tails = find_tails(self._model, self._layers, batches[0])
        stops = [tails[layer.name].target for layer in self._layers]
        asked = [{layer.source.name, *tails[layer.name].computed} for layer in self._layers]
        batches = self._affordable(batches, stops)
        original = Stream(self._original, batches)
        if self._elsewhere:
            compressed = Stream(self._compressed.proto, batches)
        else:
            original.advance([self._changed[0].source.name], stops)
            compressed = original.fork(self._compressed.proto)
        fits: dict[str, Fit] = {}
        judged: dict[str, Judged] = {}
        for number, layer in enumerate(self._layers):
            tail = tails[layer.name]
            original.advance([tail.target], stops[number + 1 :])
            compressed.advance(asked[number], set().union(*asked[number + 1 :]))
            found = self._fit(layer, tail, *_split(_gather(layer, tail, original, compressed, number)))
            judged[layer.name] = Judged(found.before, found.after, found.after < found.before)
            if judged[layer.name].kept:
                fits[layer.name] = found
                self._compressed.put(layer.name, found.result)
            else:
                reason = f"its held-out error would go from {found.before:.3g} to {found.after:.3g}"
                self._refusals.append(Refusal(layer.name, "refit", reason))
        before, after = self._distortions(self._compressed.unfitted, batches, original, compressed)
        if fits and not after < before:
            reason = _would_go(before, after)
            dropped = {name: replace(verdict, kept=False) for name, verdict in judged.items()}
            return Refitted({}, dropped, [*self._refusals, *(Refusal(name, "refit", reason) for name in fits)])
        return Refitted(fits, judged, self._refusals)

    def _correct(self, done: Refitted, nodes: Sequence[onnx.NodeProto], batches: Sequence[Feeds]) -> Refitted:
        """Corrects batch normalisations behind fitted layers, and compares the outputs."""
        proto = self._compressed.proto if done.fits else self._compressed.unfitted
        batches = self._affordable(batches, [node.output[0] for node in nodes])
        original, compressed = Stream(self._original, batches), Stream(proto, batches)
        held = held_out(len(batches))
        norms = corrections(nodes, original, compressed, set(range(len(batches))) - set(held))
        before, after = self._distortions(proto, batches, original, compressed)
        if after < before:
            return replace(done, norms=norms)
        refused = [Refusal(node.name, "refit", _would_go(before, after)) for node in nodes]
        return replace(done, refusals=[*done.refusals, *refused])

    def _affordable(self, batches: Sequence[Feeds], stops: Sequence[str]) -> Sequence[Feeds]:
        """As many batches as two networks have room for."""
        asked = [[stop] for stop in stops]
        return batches[: affordable_batches(self._original, batches[0], asked, len(batches), KEPT_BYTES // 2)]

    def _distortions(
        self, unchanged: onnx.ModelProto, batches: Sequence[Feeds], original: Stream, compressed: Stream
    ) -> tuple[float, float]:
        """The distortion of the outputs on the held-out samples, without and with what was changed."""
        names = [value.name for value in self._original.graph.output]
        held = held_out(len(batches)) or [0]
        session = open_session(unchanged.SerializeToString())
        without = [run_session(session, batches[i], names) for i in held]
        for stream in (original, compressed):
            stream.advance(names)
        reference, fitted = ([[s.batches[i][name] for name in names] for i in held] for s in (original, compressed))
        classifies = reference[0][0].ndim == 2 and reference[0][0].shape[1] > 1
        return (
            distortion(zip(reference, without, strict=True), classifies),
            distortion(zip(reference, fitted, strict=True), classifies),
        )

    def _fit(self, layer: Layer, tail: Tail, rows: Rows, held: Rows) -> Fit:
        """Fits one layer to `rows`, and measures it on `held`."""
        option, known = self._options[layer.name], self._compressed.numbers[layer.name]
        rule = self._approximate.get(option.kind)
        if rule is None:
            return fit(known, known.weight, tail, rows, held, None, self._rounds, self._ridge)

        def approximate(weight: Array, moment: FloatArray) -> Array:
            return rule(replace(layer, weight=weight), option.parameters, moment)

        return fit(known, layer.weight, tail, rows, held, approximate, self._rounds, self._ridge)


class _Compressed:
    """The compressed network as dense layers, whose numbers may still be changed.

    Attributes:
        proto: the network.
        unfitted: the same before any change.
        numbers: what each layer computes without refit; its bias is None where it is not there, or not free.
    """

    def __init__(self, model: Model, layers: Sequence[Layer], start: Mapping[str, Dense]) -> None:
        copy = model.copy()
        self._stored: dict[str, tuple[Layer, Sequence[str]]] = {}
        self.numbers: dict[str, Dense] = {}
        for layer in layers:
            twin = in_copy(copy, layer)
            numbers = start.get(layer.name, Dense(layer.weight, None))
            if numbers.bias is None and (layer.bias is not None or layer.name in start):
                numbers = replace(numbers, bias=own_bias(twin))
            replace_weight(twin, numbers.weight)
            if numbers.bias is not None:
                replace_bias(twin, numbers.bias)
            self._stored[layer.name] = layer, [tensor.name for tensor in twin.node.inputs[1:]]
            self.numbers[layer.name] = numbers
        self.proto = copy.to_proto()
        self.unfitted = onnx.ModelProto()
        self.unfitted.CopyFrom(self.proto)
        self._tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}

    def put(self, site: str, numbers: Dense) -> None:
        """Gives a layer other numbers."""
        layer, names = self._stored[site]
        self._set(names[0], stored_weight(layer, numbers.weight))
        if numbers.bias is not None:
            self._set(names[1], numbers.bias)

    def _set(self, name: str, values: Array) -> None:
        self._tensors[name].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))


def _gather(layer: Layer, tail: Tail, original: Stream, compressed: Stream, key: int) -> list[Rows]:
    """The same random rows of input, target and addends, batch by batch.

    Raises:
        UsageError: an activation is NaN or infinite.
    """
    geometry, found = layer.geometry, []
    most = min(ROWS, ROW_BYTES // (4 * geometry.columns)) // len(original.batches)
    axes = len(geometry.kernel_shape)
    ones = (1,) * axes
    out = Geometry(geometry.out_channels, geometry.out_channels, ones, ones, ones, (0,) * (2 * axes))
    for number, (reference, values) in enumerate(zip(original.batches, compressed.batches, strict=True)):
        wanted = reference[tail.target]

        def rows(tensor: Array, seen: Geometry, draw: tuple[int, int] = (key, number)) -> Array:
            return sample_columns(tensor, seen, max(most, 1), np.random.default_rng(draw))

        addend = np.zeros((), np.float32)
        for name in tail.addends:
            addend = addend + (tail.constants[name] if name in tail.constants else values[name])
        entry = Rows(
            rows(values[layer.source.name], geometry),
            rows(wanted, out),
            rows(np.broadcast_to(addend, wanted.shape), out),
        )
        if not all(np.isfinite(part).all() for part in (entry.x, entry.wanted, entry.addend)):
            raise UsageError(f"expected finite activations, but those around {layer.name!r} are NaN or infinite")
        found.append(entry)
    return found


def _split(batches: Sequence[Rows]) -> tuple[Rows, Rows]:
    """The rows to fit and the rows to judge by (see the module)."""
    if len(batches) > 1:
        held = set(held_out(len(batches)))
        return (
            joined([rows for i, rows in enumerate(batches) if i not in held]),
            joined([batches[i] for i in sorted(held)]),
        )
    (rows,) = batches
    if len(rows.x) == 1:
        return rows, rows
    judged = np.zeros(len(rows.x), bool)
    judged[7::8] = True
    judged[-1] = True
    return rows.select(~judged), rows.select(judged)


def _would_go(before: float, after: float) -> str:
    """Why a change of the whole network is declined."""
    return f"the held-out distortion of the outputs would go from {before:.3g} to {after:.3g}"


def fitted(batches: Sequence[Feeds]) -> list[Feeds]:
    """The batches that options and numbers are made from: those that are not held out to judge them."""
    judges = held_out(len(batches))
    return [batch for number, batch in enumerate(batches) if number not in judges]


def held_out(batches: int) -> list[int]:
    """Which of several batches are held out: the first of every eight; of a single one none."""
    return [] if batches == 1 else list(range(0, batches, 8))
