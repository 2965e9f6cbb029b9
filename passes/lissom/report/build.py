"""Puts together the report of a run from what was decided and measured."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from lissom_runtime.latency import PairedLatency
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.target import Machine

from lissom.applying import Candidate
from lissom.canonical import Totals
from lissom.data import Feeds
from lissom.options import Cost, Plan
from lissom.pipeline import Study
from lissom.report.activations import activations_entry
from lissom.report.schema import (
    ACTIVATIONS,
    CHANNELS,
    AccuracyEntry,
    CostEntry,
    Environment,
    LatencyEntry,
    LayerEntry,
    RefitEntry,
    RefusalEntry,
    Report,
    Size,
    StepEntry,
    StorageEntry,
    TargetEntry,
    TrainedEntry,
    TryEntry,
    Versions,
)
from lissom.scoring import Scorer
from lissom.search import Search
from lissom.target.schema import Target
from lissom.version import __version__


def build_report(
    *,
    status: Literal["met", "missed", "dry-run"],
    model: Mapping[str, str],
    study: Study,
    search: Search,
    plan: Plan,
    bounds: Mapping[str, Any],
    provider: ProviderRequest,
    machine: Machine,
    target: Target | None,
    seed: int,
    remarks: Sequence[str],
    candidate: Candidate | None = None,
    accuracy: Sequence[AccuracyEntry] = (),
    latency: LatencyEntry | None = None,
    training: TrainedEntry | None = None,
) -> Report:
    """The report of one run; without a candidate it is that of a dry run."""
    return Report(
        status=status,
        model=model,
        environment=environment(provider, machine),
        recipe=study.recipe.model_dump(mode="json"),
        bounds=bounds,
        target=None if target is None else TargetEntry(name=target.name, parallelism=target.parallelism),
        seed=seed,
        input_shapes=_shapes(study.canonical.feeds),
        remarks=remarks,
        steps=[StepEntry(name=name, changes=len(o.changes)) for name, o in study.canonical.outcomes.items()],
        level=plan.level,
        distortion=plan.distortion,
        bound=plan.bound,
        resource=search.main.resource,
        least_share=search.least_share,
        before=_size(study.canonical.original),
        predicted=_predicted(study, search, plan),
        after=None if candidate is None else _size(candidate.totals),
        verified=None if candidate is None else candidate.max_difference,
        accuracy=accuracy,
        latency=latency,
        training=training,
        activations=None if candidate is None else activations_entry(study, plan, candidate.masked),
        layers=_layers(study, plan, candidate),
        refusals=[RefusalEntry(site=r.site, kind=r.kind, reason=r.reason) for r in plan.refusals],
        tries=[
            TryEntry(budget=search.main.resource, ratio=t.share, met=t.met, drop=t.drop, note=t.note)
            for t in search.tries
        ],
    )


def environment(provider: ProviderRequest, machine: Machine) -> Environment:
    """Versions, processor, execution provider and threads."""
    return Environment(
        versions=Versions(
            lissom=__version__,
            onnx=version("onnx"),
            onnxruntime=machine.onnxruntime,
            numpy=version("numpy"),
            python=platform.python_version(),
        ),
        machine=machine.to_json(),
        providers=list(provider.names),
        threads=provider.threads,
    )


def latency_entry(paired: PairedLatency, feeds: Feeds) -> LatencyEntry:
    """A paired measurement as report data."""
    interval = paired.interval
    return LatencyEntry(
        ratio=interval.ratio,
        low=interval.low,
        high=interval.high,
        confidence=interval.confidence,
        verdict=paired.verdict,
        input_shapes=_shapes(feeds),
        original=paired.a.to_json(),
        compressed=paired.b.to_json(),
    )


def accuracy_entries(scorer: Scorer, compressed: bytes | Path) -> list[AccuracyEntry]:
    """Every score of the original and of `compressed`."""
    return [
        AccuracyEntry(
            metric=after.name,
            n=after.n,
            data=scorer.source,
            before=before.value,
            after=after.value,
            drop=before.value - after.value,
        )
        for before, after in scorer.all(compressed)
    ]


def _shapes(feeds: Feeds) -> dict[str, list[int]]:
    return {name: list(values.shape) for name, values in feeds.items()}


def _size(totals: Totals) -> Size:
    return Size(params=totals.params, bytes=totals.bytes, macs=totals.macs)


def _cost(cost: Cost) -> CostEntry:
    return CostEntry(params=cost.params, bytes=cost.bytes, macs=cost.macs, latency_us=cost.latency_us)


def _predicted(study: Study, search: Search, plan: Plan) -> CostEntry:
    """What the whole model should have: its part outside the sites, and the plan."""
    canonical = study.canonical.totals
    dense = {name: sum(getattr(menu.dense.cost, name) for menu in study.menus) for name in ("params", "bytes", "macs")}
    timed = [search.outside(budget) for budget in search.budgets if budget.resource == "latency_us"]
    latency = timed[0] + plan.total("latency_us") if timed else None
    return CostEntry(
        params=canonical.params - dense["params"] + plan.total("params"),
        bytes=canonical.bytes - dense["bytes"] + plan.total("bytes"),
        macs=canonical.macs - dense["macs"] + plan.total("macs"),
        latency_us=latency,
    )


def _layers(study: Study, plan: Plan, candidate: Candidate | None) -> list[LayerEntry]:
    layers: dict[str, tuple[str, Sequence[int]]] = {
        layer.name: (layer.op, layer.weight.shape) for layer in study.canonical.layers
    }
    if study.widths is not None:
        layers |= {site: (CHANNELS, (len(group),)) for site, group in study.widths.groups.items()}
    slow: frozenset[str] = frozenset()
    if study.activations is not None:
        layers |= {site: (ACTIVATIONS, shape) for site, shape in study.activations.extents.items()}
        slow = frozenset() if candidate is None or candidate.masked is None else candidate.masked.slow
    entries = []
    for menu in study.menus:
        option = menu.dense if menu.site in slow else plan.options.get(menu.site)
        if option is None:
            continue
        op, shape = layers[menu.site]
        judged = None if candidate is None else candidate.judged.get(menu.site)
        stored = None if candidate is None else candidate.storage.get(menu.site)
        entries.append(
            LayerEntry(
                site=menu.site,
                op=op,
                weight_shape=list(shape),
                kind=option.kind,
                parameters=option.parameters,
                error=option.error,
                metric=option.metric,
                before=_cost(menu.dense.cost),
                after=_cost(option.cost),
                options=sum(len(ladder) for ladder in menu.ladders),
                refit=None
                if judged is None
                else RefitEntry(kept=judged.kept, error_before=judged.before, error_after=judged.after),
                storage=None if stored is None else StorageEntry(**asdict(stored)),
            )
        )
    return entries
