"""A report for a person: what was decided, what came of it, what was declined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import rich.markup
import rich.table

from lissom.cli.console import Console
from lissom.report.recovery import ScoreEntry
from lissom.report.schema import (
    ACTIVATIONS,
    CHANNELS,
    AccountEntry,
    AccuracyEntry,
    LatencyEntry,
    LayerEntry,
    RefusalEntry,
    Report,
    TrainedEntry,
    TrainingEntry,
)

SHOWN_REFUSALS = 5
"""Refusals that are printed without -v."""


def render_report(report: Report, verbose: int) -> None:
    """Prints a report of `compress`."""
    out = Console.out()
    for remark in report.remarks:
        out.print(f"note: {rich.markup.escape(remark)}")
    groups = [layer for layer in report.layers if layer.op == CHANNELS]
    masks = [layer for layer in report.layers if layer.op == ACTIVATIONS]
    layers = [layer for layer in report.layers if layer.op not in (CHANNELS, ACTIVATIONS)]
    told = [f"recipe {report.recipe['name']}"]
    if layers:
        told.append(f"{_changed(layers)} of {len(layers)} layers replaced")
    if groups:
        told.append(f"{_changed(groups)} of {len(groups)} channel groups cut")
    if masks:
        told.append(f"{_changed(masks)} of {len(masks)} groups of activations pruned")
    out.print(f"{report.model['name']}: {', '.join(told)}, {len(report.refusals)} refusals")
    if verbose or report.status == "dry-run":
        out.print(layer_table(report.layers))
    if report.activations is not None:
        render_account(report.activations.account, verbose)
    render_refusals(report.refusals, verbose)
    if report.distortion is not None and report.bound is not None:
        out.print(
            f"summed distortion {report.distortion:.4g}; no plan within the limits has less than {report.bound:.4g}"
        )
    if report.training is not None:
        out.print(_trained(report.training))
    out.print(_summary(report))
    if report.status == "dry-run" and report.bounds["max_drop"] is not None:
        out.print("This is the first plan that the search for the goal would try; nothing was built or scored.")
    environment = report.environment
    out.print(
        f"[dim]{environment.machine['cpu']}, {environment.threads} thread(s), {', '.join(environment.providers)}, "
        f"onnxruntime {environment.versions.onnxruntime}, lissom {environment.versions.lissom}[/dim]"
    )


def _trained(training: TrainedEntry) -> str:
    """What came of the training of a result."""
    found = f"distortion of held-out samples {training.distortion_before:.4g} → {training.distortion_after:.4g}"
    return f"{training_words(training)}; {found if training.kept else 'the result is the untrained model'}"


def training_words(training: TrainingEntry) -> str:
    """How long a model was trained."""
    return rich.markup.escape(
        f"trained: {training.epochs} epochs of {training.samples} samples, the best is {training.best_epoch}; "
        f"{training.seconds:.0f} s on {training.device}"
    )


def _changed(layers: Sequence[LayerEntry]) -> int:
    return sum(layer.kind != "dense" for layer in layers)


def layer_table(layers: Sequence[LayerEntry]) -> rich.table.Table:
    """One row a site."""
    table = rich.table.Table("layer", "weight", "option", "error", "params", "MACs", box=None)
    for layer in layers:
        words = " ".join(f"{key}={value}" for key, value in layer.parameters.items())
        table.add_row(
            rich.markup.escape(layer.site),
            "x".join(map(str, layer.weight_shape)),
            f"{layer.kind} {words}".strip(),
            f"{layer.error:.3g}" if layer.kind != "dense" else "",
            _change(layer.before.params, layer.after.params),
            _change(layer.before.macs, layer.after.macs),
        )
    return table


def render_refusals(refusals: Sequence[RefusalEntry], verbose: int) -> None:
    """Refusals, grouped by reason unless all are asked for."""
    out = Console.out()
    if verbose:
        for refusal in refusals:
            out.print(rich.markup.escape(f"declined: {refusal.site} ({refusal.kind}): {refusal.reason}"))
        return
    counts = Counter(refusal.reason for refusal in refusals)
    for reason, count in counts.most_common(SHOWN_REFUSALS):
        out.print(rich.markup.escape(f"declined: {count} layer(s): {reason}"))
    if len(counts) > SHOWN_REFUSALS:
        out.print(f"declined for {len(counts) - SHOWN_REFUSALS} more reasons (-v lists all)")


def render_account(account: AccountEntry, verbose: int) -> None:
    """What is left of activations, weights and multiply-accumulates; layer by layer if that is asked for."""
    out = Console.out()
    if verbose:
        table = rich.table.Table("layer", "acti %", "weight %", "MAC %", "MAC % counted", box=None)
        for layer in account.layers:
            figures = (layer.given, layer.weights, layer.paper, layer.counted)
            table.add_row(rich.markup.escape(layer.layer), *(f"{100 * share:.1f}" for share in figures))
        out.print(table)
    out.print(
        f"left: {account.activations:.1%} of the activations, {account.weights:.1%} of the weights, "
        f"{account.paper:.2%} of the layers' multiply-accumulates as the paper counts, {account.counted:.2%} as counted"
    )
    for counts, what in ((account.removed, "that no layer hears were removed"), (account.silent, "never win")):
        if total := sum(counts.values()):
            out.print(f"{total} channels {what}, in {sum(map(bool, counts.values()))} of the activations")


def _summary(report: Report) -> rich.table.Table:
    table = rich.table.Table("", "before", "after", "ratio", box=None)
    before, predicted = report.before, report.predicted
    after = report.after
    for name, what in (("params", "non-zero parameters"), ("bytes", "bytes"), ("macs", "multiply-accumulates")):
        old = getattr(before, name)
        new = getattr(predicted if after is None else after, name)
        label = what if after is not None else f"{what} (predicted)"
        table.add_row(label, f"{old:,}", f"{new:,.0f}", f"{new / old:.3f}" if old else "")
    if after is None and predicted.latency_us is not None:
        table.add_row("latency µs (predicted)", "", f"{predicted.latency_us:,.0f}", "")
    _add_scores(table, report.accuracy)
    if report.latency is not None:
        add_latency(table, report.latency)
    return table


def score_table(scores: Sequence[AccuracyEntry]) -> rich.table.Table:
    """One row a score."""
    table = rich.table.Table("", "before", "after", "change", box=None)
    _add_scores(table, scores)
    return table


def add_latency(table: rich.table.Table, latency: LatencyEntry) -> None:
    """A row for a paired measurement."""
    table.add_row(
        "latency, median",
        f"{latency.original['median_us']:,.0f} µs",
        f"{latency.compressed['median_us']:,.0f} µs",
        latency_change(latency),
    )


def latency_change(latency: LatencyEntry) -> str:
    """The ratio with its interval, and what that says."""
    return f"{latency.ratio:.3f} [{latency.low:.3f}, {latency.high:.3f}] {latency.verdict}"


def _add_scores(table: rich.table.Table, scores: Sequence[AccuracyEntry]) -> None:
    for score in scores:
        if score.metric == "output":
            before, after, change = "", f"{score.after:.1f} dB", "signal to noise against the original's outputs"
        else:
            before, after, change = f"{score.before:.4f}", f"{score.after:.4f}", f"{score.after - score.before:+.4f}"
        table.add_row(score_label(score), before, after, change)


def score_label(score: AccuracyEntry | ScoreEntry) -> str:
    """What a row of scores is called."""
    return f"{score.metric}, n={score.n}, {Path(score.data).name}"


def _change(before: float, after: float) -> str:
    return f"{before:,.0f} → {after:,.0f}" if after != before else f"{before:,.0f}"
