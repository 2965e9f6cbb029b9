"""Which masks make a network faster where it is to run.

On a dense kernel a mask only costs time. So the finished network is timed with all masks and, group by group, without
those of one: what is measured of a group is in the company of the others. A group stays where the network with it is
faster by more than the measurement can mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lissom_runtime.latency import PairedLatency

from lissom.activations.insert import Mask
from lissom.activations.sites import KIND
from lissom.activations.survey import Found
from lissom.graph.model import Model
from lissom.options import Refusal

Compare = Callable[[Model, Model], PairedLatency]
"""Times two models in turn on the asked-for provider."""


def slow_groups(
    found: Found, masks: Mapping[str, Mask], finish: Callable[[Mapping[str, Mask]], Model], compare: Compare
) -> dict[str, Sequence[Refusal]]:
    """The groups whose masks do not make the network faster, by site, with the refusals that say so.

    Args:
        found: the activations.
        masks: the masks, by tensor.
        finish: makes the finished network with some masks.
        compare: times two models.
    """
    everything = finish(masks)
    slow: dict[str, Sequence[Refusal]] = {}
    for site, group in found.groups.items():
        own = [member.tensor for member in group if member.tensor in masks]
        if not own:
            continue
        paired = compare(finish({name: mask for name, mask in masks.items() if name not in own}), everything)
        if paired.verdict != "faster":
            interval = paired.interval
            reason = (
                f"the network takes {interval.ratio:.3f} [{interval.low:.3f}, {interval.high:.3f}] of the latency with "
                "its mask: not faster (--keep-thresholds keeps it)"
            )
            slow[site] = [Refusal(name, KIND, reason) for name in own]
    return slow
