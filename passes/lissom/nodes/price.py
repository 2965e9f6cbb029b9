"""The distortion of the network's outputs when a group keeps fewer channels, measured.

As for layers (`lissom.price.distortion`): a few counts of each group are put into the network one at a time, with what
reads the channels refitted, and the others lie on the curve through them. The whole network runs for each, on at most
`SAMPLES` samples and fewer where one count of every group would take more than `WORK` multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from lissom_runtime.session import open_session, run_session

from lissom.canonical import Canonical
from lissom.data import Feeds
from lissom.nodes.apply import refit
from lissom.nodes.groups import KIND
from lissom.nodes.widths import KEPT, Widths
from lissom.options import Menu
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
        self.classifies = classifies(proto)
        self._identity = {"of": content_of(proto, self.batches), "lissom": __version__, "kind": KIND}
        session = open_session(proto.SerializeToString())
        self._original = [run_session(session, feeds, self._outputs) for feeds in self.batches]

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
            known = max(distortion(zip(self._original, changed, strict=True), self.classifies), FLOOR)
            self.cache.put(key, known)
        return known


def price_widths(
    canonical: Canonical, widths: Widths, batches: Sequence[Feeds], cache: Cache, progress: Progress = silent
) -> list[Menu]:
    """The menus of the groups with measured distortions in the place of their errors.

    Args:
        canonical: the model.
        widths: its groups.
        batches: calibration samples, batch by batch.
        cache: where measurements are kept between runs.
        progress: shows the groups as they are done.

    Raises:
        UsageError: an output is NaN or infinite.
    """
    samples = WORK // max(canonical.totals.macs * len(widths.groups), 1)
    size = len(next(iter(batches[0].values())))
    most = max(min(max(samples, LEAST_SAMPLES), SAMPLES) // size, 1)
    measured = _Measured(canonical, widths, spread(batches, most), cache)
    metric = "output_kl" if measured.classifies else "output_error"
    priced = []
    for menu in progress([menu for menu in widths.menus if menu.site in widths.groups], "measuring distortion"):
        curves = {}
        probes = choose_probes(menu.ladders) if menu.ladders else []
        if probes:
            error = np.array([error for error, _ in probes])
            counts = [int(parameters[KEPT]) for _, parameters in probes]
            found = refine(error, partial(measured.probe, menu.site, counts))
            curves[KIND] = Curve(error[list(found)], np.array(list(found.values())))
        priced.append(with_distortions(menu, curves, metric))
    return priced
