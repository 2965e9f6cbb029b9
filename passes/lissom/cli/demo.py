"""`lissom demo`: compresses a network that ships with lissom, and shows what came of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from lissom_runtime.errors import UsageError

from lissom.cli import flags
from lissom.cli.console import Console, progress
from lissom.cli.render import render_report
from lissom.driver import compress

NETWORK = "vgg-small"
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
    """Compress a shipped network as far as it loses at most one point of accuracy."""
    Console.configure(verbose, quiet, not no_color, False)
    import lissom_models

    if network not in lissom_models.NAMES:
        raise UsageError(f"expected one of the networks {', '.join(lissom_models.NAMES)}, but got {network!r}")
    out = Console.out()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"{network}.onnx" if output is None else output
        out.print(
            f"lissom compress {network}.onnx -o {target.name} --max-drop {MAX_DROP} "
            "--calibration fashion_mnist_calibration.npz --validation fashion_mnist_test.npz"
        )
        result = compress(
            lissom_models.path(network),
            target,
            bounds={"max_drop": MAX_DROP},
            calibration=str(lissom_models.calibration(network)),
            validation=str(lissom_models.test(network)),
            progress=progress,
        )
        render_report(result.report, verbose)
