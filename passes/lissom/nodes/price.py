"""The distortion of the network's outputs when a group keeps fewer channels, measured.

As for layers (`lissom.price.distortion`): a few counts of each group are put into the network one at a time, with what
reads the channels refitted, and the others lie on the curve through them. The whole network runs for each, on at most
`SAMPLES` samples and fewer where one count of every group would take more than `WORK` multiply-accumulates; groups are
measured side by side where the workers are threads of this process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from lissom_runtime.session import open_session, run_session

from lissom.canonical import Canonical
from lissom.data import Feeds, input_specs
from lissom.nodes.apply import refit
from lissom.nodes.groups import KIND
from lissom.nodes.widths import KEPT, Widths
from lissom.options import Menu
from lissom.parallel import SERIAL, Workers, map_in_parallel, within
from lissom.price.cache import Cache, content_of
from lissom.price.curve import Curve, choose_probes, with_distortions
from lissom.price.distortion import LEAST_SAMPLES, WORK
from lissom.price.outputs import FLOOR, classifies, distortion
from lissom.price.probing import refine
from lissom.progress import Progress, silent
from lissom.stream import spread
from lissom.version import __version__

SAMPLES = 128
"""Samples that a count sees, at most."""


@dataclass
class _Measured:
    """Runs the network with one group cut."""

    canonical: Canonical
    widths: Widths
    batches: Sequence[Feeds]
    cache: Cache

    def __post_init__(self) -> None:
        proto = self.canonical.model.to_proto()
        self._outputs = [value.name for value in proto.graph.output]
        self._classifies = classifies(proto)
        self._metric = "output_kl" if self._classifies else "output_error"
        self._identity = {"of": content_of(proto, self.batches), "lissom": __version__, "kind": KIND}
        session = open_session(proto.SerializeToString())
        self._original = [run_session(session, feeds, self._outputs) for feeds in self.batches]

    def price(self, menu: Menu) -> Menu:
        """A group's menu with measured distortions in the place of its errors."""
        curves = {}
        probes = choose_probes(menu.ladders) if menu.ladders else []
        if probes:
            error = np.array([error for error, _ in probes])
            counts = [int(parameters[KEPT]) for _, parameters in probes]
            found = refine(error, partial(self.probe, menu.site, counts))
            curves[KIND] = Curve(error[list(found)], np.array(list(found.values())))
        return with_distortions(menu, curves, self._metric)

    def probe(self, site: str, counts: Sequence[int], index: int) -> float:
        """What the outputs lose when a group keeps only its counts[index] most important indices."""
        kept, group, order = counts[index], self.widths.groups[site], self.widths.rankings[site].order
        gone = order[: len(order) - kept]
        key = {**self._identity, "site": site, "gone": np.sort(gone).tolist()}
        known = self.cache.get(key)
        if known is None:
            copy = self.canonical.model.copy()
            refit(copy, [group], {group.name: gone}, self.widths.readers, self.widths.moments)
            session = open_session(copy.to_proto().SerializeToString())
            changed = (run_session(session, feeds, self._outputs) for feeds in self.batches)
            known = max(distortion(zip(self._original, changed, strict=True), self._classifies), FLOOR)
            self.cache.put(key, known)
        return known


def price_widths(
    canonical: Canonical,
    widths: Widths,
    batches: Sequence[Feeds],
    cache: Cache,
    workers: Workers = SERIAL,
    progress: Progress = silent,
) -> list[Menu]:
    """The menus of the groups with measured distortions in the place of their errors.

    Args:
        canonical: the model.
        widths: its groups.
        batches: calibration samples, batch by batch.
        cache: where measurements are kept between runs.
        workers: who runs the network; the menus are the same whoever does.
        progress: shows the groups as they are done.

    Raises:
        UsageError: an output is NaN or infinite.
    """
    samples = WORK // max(canonical.totals.macs * len(widths.groups), 1)
    seen = _samples(canonical, batches, min(max(samples, LEAST_SAMPLES), SAMPLES))
    measured = _Measured(canonical, widths, seen, cache)
    menus = [menu for menu in widths.menus if menu.site in widths.groups]
    priced = map_in_parallel(measured.price, menus, within(workers))
    return [menu for _, menu in zip(progress(menus, "measuring distortion"), priced, strict=True)]


def _samples(canonical: Canonical, batches: Sequence[Feeds], most: int) -> list[Feeds]:
    """At most `most` samples: whole batches, evenly spaced, or the beginning of one that has more and may be cut."""
    size = len(next(iter(batches[0].values())))
    fixed = any(isinstance(spec.shape[0], int) for spec in input_specs(canonical.model.inputs) if spec.shape)
    if size <= most or fixed or any(len(values) != size for values in batches[0].values()):
        return spread(batches, max(most // size, 1))
    return [{name: values[:most] for name, values in batches[0].items()}]
