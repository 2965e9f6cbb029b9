"""Which layers are lowered, and into what: each candidate is timed where that is possible, and lowered when it pays.

1. Each chain is timed against its layers dense and its sparse layers lowered one by one. It is taken when it is
   significantly faster than dense, and not slower than single layers by more than `MARGIN`.
2. Each sparse layer that is left is timed by itself, and lowered when that is significantly faster.

Both look at the layers in topological order: of two that could take in one sum a chain does, else the first. Where
nothing is timed, every chain and every layer is lowered. Where things are timed, a chain that the kernel library lacks
is none. Layers that become sparse again without being asked for (`Site.before`) are not timed, and are in a chain only
with those of the operator that they were in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from lissom_runtime.providers import ProviderRequest

from lissom.graph.model import Model
from lissom.lowering.apply import apply, apply_chain, apply_each
from lissom.lowering.chains import ChainSite, Link, find_chain
from lissom.lowering.fuse import Shapes, tail
from lissom.lowering.price import Speed, measure, operators
from lissom.lowering.propose import KIND, Proposal, Site
from lissom.lowering.report import ChainEntry, LoweredLayer, SpeedEntry
from lissom.options import Refusal
from lissom.progress import Progress, silent

MARGIN = 0.05
"""What a chain's measured ratio may be above that of single layers: as much as runs differ on a busy machine."""


@dataclass(frozen=True)
class Decisions:
    """What became of the layers of a proposal, and what was declined."""

    layers: Sequence[LoweredLayer]
    refusals: Sequence[Refusal]


def decide(
    model: Model, proposal: Proposal, shapes: Shapes, timed: ProviderRequest | None, progress: Progress = silent
) -> Decisions:
    """Lowers what pays, in place.

    Args:
        model: the model that the proposal is of.
        proposal: the layers.
        shapes: the observed shapes of the tensors that `propose.sources` names.
        timed: where latency is measured, with the kernel library; None measures nothing.
        progress: shows the layers as they are done.
    """
    position = {id(node): number for number, node in enumerate(model.graph.nodes)}
    sites = sorted((*proposal.sites, *proposal.depthwise), key=lambda site: position[id(site.node)])
    free = {id(site.node): site for site in sites}
    layers: dict[str, LoweredLayer] = {}
    chains: dict[str, ChainEntry] = {}
    refusals: list[Refusal] = []
    for first in progress(sites, "looking for chains"):
        alike = {node: site for node, site in free.items() if site.before == first.before}
        chain = find_chain(model, first, alike, shapes) if id(first.node) in free else None
        judge = timed if first.before is None else None
        if chain is None or (judge is not None and chain.signature.name not in operators()):
            continue
        told, reason = _decide_chain(model, chain, judge)
        if reason is not None:
            refusals.append(Refusal(chain.name, KIND, reason))
        for link in chain.links:
            del free[id(link.site.node)]
            chains[link.site.name] = told
            if reason is None and link.packed is not None:
                layers[link.site.name] = _entry(link, None, told.operator)
    for site in progress([site for site in proposal.sites if site.name not in layers], "lowering"):
        layers[site.name] = _decide_layer(model, site, shapes, timed if site.before is None else None)
    declined = [r for r in proposal.refusals if r.site not in chains or chains[r.site].node is None]
    in_order = [layers[site.name].model_copy(update={"chain": chains.get(site.name)}) for site in proposal.sites]
    return Decisions(in_order, [*declined, *refusals, *_kept_dense(in_order)])


def _decide_chain(model: Model, chain: ChainSite, timed: ProviderRequest | None) -> tuple[ChainEntry, str | None]:
    """Makes a chain of its layers, unless that is measured to be no faster; then the other result says so."""
    singly, speed = None, None
    if timed is not None:

        def whole(copy: Model, links: Sequence[Link]) -> None:
            apply_chain(copy, replace(chain, links=links))

        singly, speed = measure(model, chain.links, (apply_each, whole), timed)
    reason = _no_gain(speed, singly)
    told = ChainEntry(
        shape=chain.signature.shape,
        layers=[link.site.name for link in chain.links],
        operator=chain.signature.name,
        node=apply_chain(model, chain).name if reason is None else None,
        speed=_speed_entry(speed),
        singly=_speed_entry(singly),
    )
    return told, reason


def _no_gain(speed: Speed | None, singly: Speed | None) -> str | None:
    """Why a chain of this speed does not pay, or None."""
    if speed is None or singly is None:
        return None
    if speed.verdict != "faster":
        return f"measured as a chain against the dense layers: {speed.verdict}"
    if speed.ratio > (1 + MARGIN) * singly.ratio:
        return "measured as a chain against its layers lowered one by one: slower"
    return None


def _decide_layer(model: Model, site: Site, shapes: Shapes, timed: ProviderRequest | None) -> LoweredLayer:
    """Lowers one layer, unless it is measured to be no faster."""
    packed = site.packed()
    link = Link(site, tail(model, site.node, len(site.weight), shapes), packed)
    speed = None if timed is None else measure(model, [link], [apply_each], timed)[0]
    if speed is not None and speed.verdict != "faster":
        return _entry(link, speed, None)
    return _entry(link, speed, apply(model, site, packed, link.behind).op)


def _entry(link: Link, speed: Speed | None, operator: str | None) -> LoweredLayer:
    """A layer with a packed weight, and what it became; None leaves it dense."""
    site, packed = link.site, link.packed
    assert packed is not None
    return LoweredLayer(
        site=site.name,
        op=site.node.op,
        weight_shape=list(site.weight.shape),
        density=packed.density,
        block=packed.block,
        orientation=packed.orientation,
        columns=packed.format,
        fused=[node.name for node in link.behind.nodes],
        asked=site.before is None,
        decision="dense" if operator is None else "lowered",
        operator=operator or site.node.op,
        bytes_before=site.weight.nbytes,
        bytes_after=packed.nbytes + 8 * len(packed.shape),
        speed=_speed_entry(speed),
    )


def _speed_entry(speed: Speed | None) -> SpeedEntry | None:
    return None if speed is None else SpeedEntry(**asdict(speed))


def _kept_dense(layers: Sequence[LoweredLayer]) -> list[Refusal]:
    return [
        Refusal(layer.site, KIND, f"measured against the dense layer: {layer.speed.verdict}")
        for layer in layers
        if layer.decision == "dense" and layer.speed is not None
    ]
