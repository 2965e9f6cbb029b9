"""`lissom demo`: compresses a network that ships with lissom, and shows what came of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from lissom_runtime.errors import GoalMissed, UsageError
from lissom_runtime.providers import ProviderRequest

from lissom.cli import flags
from lissom.cli.console import Console, progress
from lissom.cli.render import render_report, score_table
from lissom.data import first_feeds, input_specs, open_dataset
from lissom.driver import compress
from lissom.graph.load import load
from lissom.report.build import accuracy_entries
from lissom.report.schema import AccuracyEntry
from lissom.scoring import Scorer, batch_size

NETWORK = "vgg-small"
RECIPE = "nodes"
MAX_DROP = 0.01


def demo(
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT.onnx", help="Where to write; default: a temporary file."),
    ] = None,
    network: Annotated[str, typer.Option(help="A network of lissom_models.")] = NETWORK,
    verbose: flags.Verbose = 0,
    quiet: flags.Quiet = False,
    no_color: flags.NoColor = False,
) -> None:
    """Remove channels of a shipped network while it loses at most a point, and score it on images not used for that."""
    Console.configure(verbose, quiet, not no_color, False)
    import lissom_models

    if network not in lissom_models.NAMES:
        raise UsageError(f"expected one of the networks {', '.join(lissom_models.NAMES)}, but got {network!r}")
    out = Console.out()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{network}-compressed.onnx" if output is None else output
        calibration, test = lissom_models.calibration(network), lissom_models.test(network)
        out.print(
            f"lissom compress {network}.onnx -o {target.name} --recipe {RECIPE} --max-drop {MAX_DROP} "
            f"--calibration {calibration.name}"
        )
        result = compress(
            lissom_models.path(network),
            target,
            recipe=RECIPE,
            bounds={"max_drop": MAX_DROP},
            calibration=str(calibration),
            progress=progress,
        )
        render_report(result.report, verbose)
        if result.missed:
            raise GoalMissed(result.missed)
        out.print(f"lissom check {network}.onnx {target.name} --data {test.name}")
        out.print(score_table(_scores(lissom_models.path(network), target, str(test))))
        out.print("the result was temporary; -o OUT.onnx keeps it" if output is None else f"written: {output}")


def _scores(original: Path, compressed: Path, data: str) -> list[AccuracyEntry]:
    """Scores of both on images that had no part in the compression."""
    specs = input_specs(load(original).inputs)
    dataset = open_dataset(data, specs)
    feeds = first_feeds(specs, dataset, {})
    return accuracy_entries(Scorer(original, dataset, feeds, ProviderRequest(), None, batch_size(specs)), compressed)
