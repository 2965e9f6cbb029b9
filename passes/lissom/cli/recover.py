"""`lissom recover`: trains a compressed model to give what the original gives, on data that need no labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import rich.markup
import rich.table
import typer
from lissom_runtime.errors import GoalMissed

from lissom.cli import flags
from lissom.cli.console import Console, progress, require_json, say_error, write_json
from lissom.cli.render import latency_change, score_label, training_words
from lissom.recovering import recover as recover_model
from lissom.report.recovery import Recovery, ScoreEntry

INTERRUPTED = 130
"""Exit code after Ctrl-C."""


def recover(
    compressed: Annotated[Path, typer.Argument(metavar="COMPRESSED.onnx", help="The model to train.")],
    reference: Annotated[
        Path, typer.Option("--reference", metavar="ORIGINAL.onnx", help="The model that it learns from.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where to write.")],
    calibration: Annotated[
        str, typer.Option("--calibration", metavar="DATA", help="Samples to train on; they need no labels.")
    ],
    validation: flags.Validation = None,
    metric: flags.Metric = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the samples, at most. Default: 20.")] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Time that training takes at most; the rate falls over the steps that fit.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Samples of a step. Default: 64.")] = None,
    rate: Annotated[float | None, typer.Option(help="Highest learning rate of AdamW. Default: 0.001.")] = None,
    labels: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of the loss that is the labels' own, 0 to 1. Default: 0."),
    ] = None,
    blocks: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of the loss that is the error of inner blocks, 0 to 1. Default: 0."),
    ] = None,
    shift: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Shift images at random, by up to so many pixels. Default: 0.")
    ] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Flip half of the images from left to right.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", metavar="FILE", help="Where to keep the state of the run.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --checkpoint, if it exists.")] = False,
    device: Annotated[str, typer.Option("--device", metavar="cpu|cuda", help="Where to train.")] = "cpu",
    lower: Annotated[
        bool, typer.Option("--lower", help="Turn sparse layers into operators of the runtime again.")
    ] = False,
    ep: flags.Ep = [],  # noqa: B006  typer copies the default
    ep_option: flags.EpOption = [],  # noqa: B006
    ep_library: flags.EpLibrary = [],  # noqa: B006
    custom_op_library: flags.CustomOpLibrary = [],  # noqa: B006
    threads: flags.Threads = 1,
    seed: flags.Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.onnx, and FILE, if they exist.")] = False,
    keep_anyway: Annotated[bool, typer.Option("--keep-anyway", help="Write a result that is not better.")] = False,
    json: flags.Json = None,
    verbose: flags.Verbose = 0,
    quiet: flags.Quiet = False,
    no_color: flags.NoColor = False,
) -> None:
    """Train COMPRESSED.onnx to give the outputs of ORIGINAL.onnx, prove the result and write it."""
    Console.configure(verbose, quiet, not no_color, json == "-")
    require_json(json, compressed, reference, output, checkpoint)
    asked: dict[str, Any] = {
        "epochs": epochs,
        "minutes": minutes,
        "batch": batch,
        "rate": rate,
        "labels": labels,
        "blocks": blocks,
        "shift": shift,
        "flip": flip,
        "seed": seed,
    }
    try:
        result = recover_model(
            compressed,
            reference,
            output,
            calibration=calibration,
            validation=validation,
            metric=metric,
            training={name: value for name, value in asked.items() if value is not None},
            checkpoint=checkpoint,
            resume=resume,
            device=device,
            lower=lower,
            provider=flags.parse_provider(ep, ep_option, ep_library, custom_op_library, threads),
            overwrite=overwrite,
            keep_anyway=keep_anyway,
            progress=progress,
        )
    except KeyboardInterrupt:
        kept = checkpoint is not None and checkpoint.exists()
        say_error("interrupted; no model was written" + (f", --resume goes on from {checkpoint}" if kept else ""))
        raise typer.Exit(INTERRUPTED) from None
    write_json(result.report, json)
    _render(result.report)
    written = keep_anyway or not result.missed
    if written:
        Console.out().print(f"written: {output}")
    if result.missed:
        raise GoalMissed(result.missed + ("" if written else "; nothing was written"))


def _render(report: Recovery) -> None:
    out = Console.out()
    for remark in report.remarks:
        out.print(f"note: {rich.markup.escape(remark)}")
    training = report.training
    out.print(f"{rich.markup.escape(report.model['name'])}: {training_words(training)}")
    table = rich.table.Table("", "original", "compressed", "recovered", "change", box=None)
    for score in report.scores:
        table.add_row(*_cells(score))
    before, after = report.distortion_before, report.distortion_after
    kept = after / before if before else 1.0
    table.add_row("distortion, held-out samples", "", f"{before:.4g}", f"{after:.4g}", f"× {kept:.3f}")
    table.add_row("bytes", "", f"{report.bytes_before:,}", f"{report.bytes_after:,}")
    latency = report.latency
    table.add_row(
        "latency, median",
        "",
        f"{latency.original['median_us']:,.0f} µs",
        f"{latency.compressed['median_us']:,.0f} µs",
        latency_change(latency),
    )
    out.print(table)


def _cells(score: ScoreEntry) -> list[str]:
    """A row of scores: of the output there is none of the original against itself."""
    values = [score.original, score.compressed, score.recovered]
    change = f"{score.recovered - score.compressed:+.4g}"
    if score.metric == "output":
        return [score_label(score), "", *(f"{value:.1f} dB" for value in values[1:]), f"{change} dB"]
    return [score_label(score), *(f"{value:.4f}" for value in values), change]
