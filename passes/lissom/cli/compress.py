"""`lissom compress`: makes a model smaller or faster within bounds, or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from lissom_runtime.errors import GoalMissed

from lissom.cli import flags
from lissom.cli.console import Console, progress, require_json, write_json
from lissom.cli.render import render_report
from lissom.driver import compress as compress_model


def compress(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model to compress.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where to write.")] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", metavar="NAME|FILE", help="alds, minimax, fast, or a TOML file.")
    ] = "minimax",
    keep_params: Annotated[float | None, typer.Option(help="Share of the non-zero parameters to keep at most.")] = None,
    keep_macs: Annotated[float | None, typer.Option(help="Share of the multiply-accumulates to keep at most.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Bytes of the written file, at most.")] = None,
    latency_ratio: Annotated[float | None, typer.Option(help="Measured latency over the original's, at most.")] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="Goal: the smallest result that loses at most this; 0.01 is one point of top1.")
    ] = None,
    drop: flags.Drop = "absolute",
    calibration: flags.Calibration = None,
    validation: flags.Validation = None,
    metric: flags.Metric = None,
    shape: flags.Shape = [],  # noqa: B006  typer copies the default
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
    train: Annotated[
        float | None,
        typer.Option(metavar="MINUTES", help="Train the result for so long at most (needs lissom[recover])."),
    ] = None,
    keep_thresholds: flags.KeepThresholds = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop after the plan; write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.onnx if it exists.")] = False,
    keep_anyway: flags.KeepAnyway = False,
    json: flags.Json = None,
    verbose: flags.Verbose = 0,
    quiet: flags.Quiet = False,
    no_color: flags.NoColor = False,
) -> None:
    """Compress IN.onnx within bounds, prove the result and write it."""
    Console.configure(verbose, quiet, not no_color, json == "-")
    require_json(json, model, output)
    if output is None and not dry_run:
        raise typer.BadParameter("expected -o OUT.onnx (or --dry-run), but got neither")
    bounds: dict[str, Any] = {
        "keep_params": keep_params,
        "keep_macs": keep_macs,
        "max_bytes": max_bytes,
        "latency_ratio": latency_ratio,
        "max_drop": max_drop,
        "drop": drop,
    }
    result = compress_model(
        model,
        None if dry_run else output,
        recipe=recipe,
        bounds=bounds,
        calibration=calibration,
        validation=validation,
        shapes=flags.parse_shapes(shape),
        provider=flags.parse_provider(ep, ep_option, ep_library, custom_op_library, threads),
        metric=metric,
        include=include,
        exclude=exclude,
        target=target,
        convert_opset=convert_opset,
        seed=seed,
        train=train,
        keep_thresholds=keep_thresholds,
        dry_run=dry_run,
        overwrite=overwrite,
        keep_anyway=keep_anyway,
        jobs=jobs,
        cluster=cluster,
        progress=progress,
    )
    write_json(result.report, json)
    render_report(result.report, verbose)
    written = output is not None and not dry_run and (keep_anyway or not result.missed)
    if written:
        Console.out().print(f"written: {output}")
    if result.missed:
        raise GoalMissed(result.missed + ("" if written else "; nothing was written"))
