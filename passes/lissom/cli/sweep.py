"""`lissom sweep`: one study for each recipe, many bounds, and a table of what came of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import rich.markup
import rich.table
import typer
from lissom_runtime.errors import GoalMissed

from lissom.cli import flags
from lissom.cli.console import Console, progress, require_json, write_json
from lissom.report.schema import AccuracyEntry, Report
from lissom.report.sweep import RowEntry, Sweep
from lissom.sweeping import sweep as sweep_model


def sweep(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model to compress.")],
    recipe: Annotated[
        list[str], typer.Option("--recipe", metavar="NAME|FILE", help="A preset or a TOML file. Repeatable.")
    ] = ["minimax"],  # noqa: B006  typer copies the default
    keep_params: Annotated[
        list[float], typer.Option(help="Share of the non-zero parameters to keep at most. Repeatable.")
    ] = [],  # noqa: B006
    keep_macs: Annotated[
        list[float], typer.Option(help="Share of the multiply-accumulates to keep at most. Repeatable.")
    ] = [],  # noqa: B006
    max_bytes: Annotated[list[int], typer.Option(help="Bytes of the written file, at most. Repeatable.")] = [],  # noqa: B006
    latency_ratio: Annotated[
        list[float], typer.Option(help="Measured latency over the original's, at most. Repeatable.")
    ] = [],  # noqa: B006
    max_drop: Annotated[
        list[float], typer.Option(help="Goal: the smallest result that loses at most this. Repeatable.")
    ] = [],  # noqa: B006
    drop: flags.Drop = "absolute",
    calibration: flags.Calibration = None,
    validation: flags.Validation = None,
    test: Annotated[
        str | None, typer.Option("--test", metavar="DATA", help="Samples that no decision sees; results are scored.")
    ] = None,
    metric: flags.Metric = None,
    shape: flags.Shape = [],  # noqa: B006
    ep: flags.Ep = [],  # noqa: B006
    ep_option: flags.EpOption = [],  # noqa: B006
    ep_library: flags.EpLibrary = [],  # noqa: B006
    custom_op_library: flags.CustomOpLibrary = [],  # noqa: B006
    threads: flags.Threads = 1,
    include: flags.Include = None,
    exclude: flags.Exclude = None,
    target: flags.Target = None,
    convert_opset: flags.ConvertOpset = None,
    seed: flags.Seed = 0,
    jobs: flags.Jobs = None,
    cluster: flags.Cluster = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out-dir", metavar="DIR", help="Write each result to DIR as MODEL-RECIPE-BOUND.onnx."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files in DIR that exist.")] = False,
    keep_anyway: flags.KeepAnyway = False,
    json: flags.Json = None,
    verbose: flags.Verbose = 0,
    quiet: flags.Quiet = False,
    no_color: flags.NoColor = False,
) -> None:
    """Compress IN.onnx by each recipe within each bound, and mark the results worth a look."""
    Console.configure(verbose, quiet, not no_color, json == "-")
    require_json(json, model)
    flagged: dict[str, Sequence[Any]] = {
        "keep_params": keep_params,
        "keep_macs": keep_macs,
        "max_bytes": max_bytes,
        "latency_ratio": latency_ratio,
        "max_drop": max_drop,
    }
    bounds = [{name: value, "drop": drop} for name, values in flagged.items() for value in values]
    if not bounds:
        raise typer.BadParameter(
            f"expected a bound ({', '.join('--' + n.replace('_', '-') for n in flagged)}), got none"
        )
    swept = sweep_model(
        model,
        recipe,
        bounds,
        out_dir,
        calibration=calibration,
        validation=validation,
        test=test,
        shapes=flags.parse_shapes(shape),
        provider=flags.parse_provider(ep, ep_option, ep_library, custom_op_library, threads),
        metric=metric,
        include=include,
        exclude=exclude,
        target=target,
        convert_opset=convert_opset,
        seed=seed,
        overwrite=overwrite,
        keep_anyway=keep_anyway,
        jobs=jobs,
        cluster=cluster,
        progress=progress,
    )
    write_json(swept.report, json)
    _render(swept.report, verbose)
    if swept.missed:
        raise GoalMissed(swept.missed)


def _render(report: Sweep, verbose: int) -> None:
    out = Console.out()
    first = next((row for row in report.rows if row.report is not None), None)
    if first is not None and first.report is not None:
        for remark in first.report.remarks:
            out.print(f"note: {rich.markup.escape(remark)}")
        out.print(_original(report.model["name"], first.report, first.test))
    for study in report.studies:
        out.print(f"study of the recipe {rich.markup.escape(study.recipe)}: {study.seconds:.0f} s")
    out.print(_table(report.rows))
    out.print("* on the Pareto front of score, latency and bytes; params, bytes and MACs are shares of the original's")
    for row in report.rows:
        if row.reason:
            out.print(rich.markup.escape(f"missed: {row.recipe}, {row.bound}: {row.reason}"))
        if verbose and row.file is not None:
            out.print(rich.markup.escape(f"written: {row.file}"))


def _original(name: str, report: Report, test: Sequence[AccuracyEntry]) -> str:
    """What the rows are measured against."""
    before = report.before
    scores = "".join(
        f", {entry.metric} {entry.before:.4f} on {Path(entry.data).name} (n={entry.n})"
        for entry in (*report.accuracy[:1], *test[:1])
        if entry.metric != "output"
    )
    size = f"{before.params:,} parameters, {before.bytes:,} bytes, {before.macs:,} multiply-accumulates"
    return rich.markup.escape(f"{name}: {size}{scores}")


def _table(rows: Sequence[RowEntry]) -> rich.table.Table:
    """One row a recipe and bound."""
    tested = any(row.test for row in rows)
    names = ["", "recipe", "bound", "params", "bytes", "MACs", "latency", "validation"]
    table = rich.table.Table(*names, *(["test"] if tested else []), "distortion", "s", box=None, padding=(0, 1, 0, 0))
    for row in rows:
        cells = [f"{row.status}{' *' if row.on_front else ''}", rich.markup.escape(row.recipe), row.bound]
        report = row.report
        if report is None or report.after is None or report.latency is None:
            cells += [""] * (len(names) - 3 + tested + 1)
        else:
            before, after, latency = report.before, report.after, report.latency
            kept = [(before.params, after.params), (before.bytes, after.bytes), (before.macs, after.macs)]
            cells += [f"{new / old:.3f}" if old else "" for old, new in kept]
            cells.append(f"{latency.ratio:.3f} [{latency.low:.3f}, {latency.high:.3f}]")
            cells += [_score(report.accuracy), *([_score(row.test)] if tested else []), _distortion(report)]
        table.add_row(*cells, f"{row.seconds:.0f}")
    return table


def _score(scores: Sequence[AccuracyEntry]) -> str:
    """The first score after, and what changed."""
    if not scores:
        return ""
    score = scores[0]
    return f"{score.after:.1f} dB" if score.metric == "output" else f"{score.after:.4f} {-score.drop:+.4f}"


def _distortion(report: Report) -> str:
    """The summed distortion, and what no plan within the limits can be below."""
    if report.distortion is None:
        return ""
    return f"{report.distortion:.2g}" + ("" if report.bound is None else f" ≥ {report.bound:.2g}")
