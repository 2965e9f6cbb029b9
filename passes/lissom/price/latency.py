"""The latency of every option, measured where it pays to measure.

For a ladder a few *anchor* steps are timed as a ratio to the dense layer, in the same
rounds; between them the latency is interpolated, and made monotone along the ladder
because a larger rank is not faster (a dip is noise). A ladder without any step in the target's
channel block is timed step by step: one of its steps may take a fast path that its neighbours
miss, and nothing is interpolated. What is dropped from a menu:

1. steps beyond the target's channel block: not its multiples (a rank of 33 takes as
   long as one of 48) where they count channels and some are, or with more multiply-accumulates than the dense layer;
2. ladders whose groups have other than a multiple of that block of channels each:
   ONNX Runtime leaves its fast path for them;
3. ladders in the channel block whose smallest step is already no faster than dense
   (`LEAST_GAIN`): nothing larger is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime import plugins
from lissom_runtime.latency import Samples, Schedule, compare_many
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session

from lissom.data import Feeds
from lissom.graph.layers import Layer
from lissom.graph.model import Model
from lissom.options import FloatArray, Ladder, Menu, Parameters
from lissom.price.between import profiled
from lissom.price.cache import Cache, content_of
from lissom.price.chain import LEAST_CHANNELS, Emit, chain, groups_of, least_layer

ANCHORS = 4
"""Most steps of a ladder that are timed."""

UNALIGNED = frozenset({"blocks"})
"""Names of the steps that count no channels: their multiples are no faster than others."""

LEAST_GAIN = 0.02
"""A candidate must be faster than dense by this share to count as faster."""

LEAST_SIGNAL = 5.0
"""A difference of fewer standard errors is noise. A candidate then counts as that much slower, and is not cached."""

UNSURE = 1.0
"""The ratio of a candidate of a layer that could not be told from noise, and the largest of one that could not."""

AT_ONCE = 6
"""Candidates that are timed in the same rounds."""

ROUGH_MACS_PER_US = 15_000.0
"""Only decides how many copies make a measurement long enough (about `SPAN_US`)."""

SPAN_US = 400.0
MOST_COPIES = 8
MOST_WEIGHT_BYTES = 256e6

SCHEDULE = Schedule(warmup=3, min_pairs=20, max_pairs=100, max_seconds=1.0)

LEAST_US = 1e-6
"""What takes no time is remembered to take that."""

EmitOption = Callable[[Model, Layer, Parameters, np.random.Generator], None]
"""Puts an option, with random weights, in the place of a layer: each kind has one."""


class LatencyTable:
    """Measures and remembers latencies on one execution provider.

    Args:
        provider: where to measure.
        machine: what identifies the processor and the versions, part of every key.
        block: the target's channel block.
        emit: how an option of each kind is put into a network, by kind.
        cache: where measurements are kept between runs.
    """

    def __init__(
        self,
        provider: ProviderRequest,
        machine: Mapping[str, Any],
        block: int,
        emit: Mapping[str, EmitOption],
        cache: Cache,
    ) -> None:
        self._provider = provider
        self._block = block
        self._emit = emit
        self._cache = cache
        self._memory: dict[str, float] = {}
        self._base = {
            "providers": list(provider.names),
            "options": {name: dict(options) for name, options in provider.options.items()},
            "threads": provider.threads,
            "libraries": sorted(_file(path) for path in (*provider.libraries.values(), *provider.custom_op_libraries)),
            "plugins": {name: _version(plugins.PACKAGES.get(name)) for name in provider.names},
            "machine": dict(machine),
        }

    def price(self, layer: Layer, menu: Menu) -> Menu:
        """The menu with latencies: only the options that were priced and may be faster than dense.

        Args:
            layer: the layer that the menu is of.
            menu: its options, not priced.
        """
        dense_us = self.dense(layer)
        candidates = [self._usable(layer, ladder) for ladder in menu.ladders]
        ladders = [ladder for ladder in candidates if len(ladder)]
        smooth = {id(ladder): bool(self._aligned(ladder).all()) for ladder in ladders}
        first = self._ratios(layer, [(ladder, 0) for ladder in ladders])
        promising = [
            ladder
            for ladder, ratio in zip(ladders, first, strict=True)
            if ratio < 1 - LEAST_GAIN or not smooth[id(ladder)]
        ]
        anchors = {id(ladder): _anchors(len(ladder), smooth[id(ladder)]) for ladder in promising}
        wanted = [(ladder, index) for ladder in promising for index in anchors[id(ladder)]]
        ratios = dict(zip([(id(ladder), index) for ladder, index in wanted], self._ratios(layer, wanted), strict=True))
        priced = []
        for ladder in promising:
            indices = anchors[id(ladder)]
            values = np.array([ratios[id(ladder), index] for index in indices])
            values = np.maximum.accumulate(values) if smooth[id(ladder)] else values
            curve: FloatArray = np.interp(ladder.steps, ladder.steps[indices], values) * dense_us
            told = replace(ladder, latency_us=curve)
            priced.append(told.select(curve < (1 - LEAST_GAIN) * dense_us))
        dense = replace(menu.dense, cost=replace(menu.dense.cost, latency_us=dense_us))
        return Menu(menu.site, dense, tuple(ladder for ladder in priced if len(ladder)))

    def dense(self, layer: Layer) -> float:
        """Microseconds of a layer as it is, between neighbours; the only figure of one in groups."""
        return max(self._dense(layer), 0.0)

    def node(self) -> float:
        """Microseconds that a layer takes however few channels are left of it."""
        return self.dense(least_layer(max(self._block, LEAST_CHANNELS)))

    def between(self, network: onnx.ModelProto, feeds: Feeds, names: Collection[str]) -> dict[str, float]:
        """Microseconds of what is no layer in a network, by name, without what any node takes.

        Args:
            network: the network.
            feeds: its inputs; their shapes are what counts.
            names: what is wanted, as `lissom.price.between` names it; what has no time there takes none.
        """
        shapes = {name: list(values.shape) for name, values in feeds.items()}
        whole = {**self._base, "network": content_of(network, []), "shapes": shapes}
        keys = {name: {**whole, "node": name} for name in names}
        if any(self._recall(key) is None for key in keys.values()):
            found = profiled(network, feeds, self._provider, self.node())
            for name, key in keys.items():
                self._remember(key, max(found.get(name, 0.0), LEAST_US), sure=True)
        return {name: self._memory[_text(key)] for name, key in keys.items()}

    def _usable(self, layer: Layer, ladder: Ladder) -> Ladder:
        """The steps of `ladder` that are worth timing."""
        geometry, groups = layer.geometry, int(ladder.parameters.get("groups", 1))
        sliced = geometry.in_channels if ladder.parameters.get("side") == "input" else geometry.out_channels
        none = np.zeros(len(ladder), np.bool_)
        if groups > 1 and (sliced // groups) % self._block:
            return ladder.select(none)
        aligned = self._aligned(ladder)
        if not aligned.any():
            aligned = none if groups > 1 else ~none
        return ladder.select(aligned & (ladder.macs < geometry.macs))

    def _aligned(self, ladder: Ladder) -> npt.NDArray[np.bool_]:
        """Which steps are in the target's channel block, or count no channels."""
        found: npt.NDArray[np.bool_] = (ladder.steps % self._block == 0) | (ladder.step_name in UNALIGNED)
        return found

    def _dense(self, layer: Layer) -> float:
        """Microseconds of the dense layer between neighbours."""
        key = self._key(layer, "dense", {})
        known = self._recall(key)
        if known is None:
            self._measure(layer, [])
            known = self._recall(key)
        assert known is not None
        return known

    def _ratios(self, layer: Layer, wanted: Sequence[tuple[Ladder, int]]) -> list[float]:
        """Latency over the dense layer's, for each (ladder, index)."""
        options = [(ladder.kind, ladder.option(index).parameters) for ladder, index in wanted]
        missing = [option for option in options if self._recall(self._key(layer, *option)) is None]
        for start in range(0, len(missing), AT_ONCE):
            self._measure(layer, missing[start : start + AT_ONCE])
        return [self._memory[_text(self._key(layer, *option))] for option in options]

    def _measure(self, layer: Layer, options: Sequence[tuple[str, Parameters]]) -> None:
        """Times the dense layer and `options` in the same rounds and remembers the ratios."""
        copies = _copies(layer)
        networks = [chain(layer, 1, None), chain(layer, copies, None)]
        networks += [chain(layer, copies, self._candidate(kind, parameters)) for kind, parameters in options]
        runs = [(open_session(content, self._provider), feeds) for content, feeds in networks]
        base, dense, *others = compare_many(runs, schedule=SCHEDULE)
        span = dense.median - base.median
        dense_key = self._key(layer, "dense", {})
        shows = span > _noise(dense, base)
        if self._recall(dense_key) is None:
            self._remember(dense_key, span / (copies - 1), sure=shows)
        for (kind, parameters), samples in zip(options, others, strict=True):
            difference, noise = samples.median - base.median, _noise(samples, base)
            sure = shows and difference > noise
            most = min((max(difference, 0.0) + noise) / span, UNSURE) if shows else UNSURE
            self._remember(self._key(layer, kind, parameters), difference / span if sure else most, sure)

    def _candidate(self, kind: str, parameters: Parameters) -> Emit:
        emit = self._emit[kind]
        return lambda model, layer, rng: emit(model, layer, parameters, rng)

    def _key(self, layer: Layer, kind: str, parameters: Parameters) -> dict[str, Any]:
        groups = groups_of(layer)
        return {
            **self._base,
            **({"group": groups} if groups > 1 else {}),
            "op": layer.op,
            "geometry": asdict(layer.geometry),
            "source_rank": layer.source_rank,
            "kind": kind,
            "parameters": dict(parameters),
        }

    def _recall(self, key: Mapping[str, Any]) -> float | None:
        text = _text(key)
        if text not in self._memory:
            stored = self._cache.get(key)
            if stored is None:
                return None
            self._memory[text] = stored
        return self._memory[text]

    def _remember(self, key: Mapping[str, Any], value: float, sure: bool) -> None:
        """Keeps a measurement; one that noise may explain is kept for this run only."""
        self._memory[_text(key)] = value
        if sure:
            self._cache.put(key, value)


def _noise(samples: Samples, base: Samples) -> float:
    """How much two medians may differ by chance: `LEAST_SIGNAL` of their standard errors, microseconds."""
    errors = [np.subtract(*np.percentile(s.us, [75, 25])) / np.sqrt(len(s.us)) for s in (samples, base)]
    return LEAST_SIGNAL * float(np.hypot(*errors))


def _file(path: Path) -> str:
    """A library as it is now: another build is another provider."""
    facts = path.stat() if path.exists() else None
    return f"{path.name} {facts.st_size} {facts.st_mtime_ns}" if facts else path.name


def _version(package: str | None) -> str:
    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        return ""


def _text(key: Mapping[str, Any]) -> str:
    return repr(sorted(key.items(), key=lambda item: item[0]))


def _copies(layer: Layer) -> int:
    """How many copies make the difference to one copy about `SPAN_US` long."""
    wanted = 1 + int(np.ceil(SPAN_US * ROUGH_MACS_PER_US / max(layer.geometry.macs, 1)))
    affordable = 1 + int(MOST_WEIGHT_BYTES // max(4 * layer.geometry.weight_size, 1))
    return max(2, min(wanted, affordable, MOST_COPIES))


def _anchors(count: int, smooth: bool) -> list[int]:
    """The indices of a ladder of `count` steps that are timed: all, or if smooth `ANCHORS`, geometric with the ends."""
    if not smooth:
        return list(range(count))
    spaced = np.rint(np.geomspace(1, count, min(ANCHORS, count))).astype(int) - 1
    return sorted({int(index) for index in spaced})
