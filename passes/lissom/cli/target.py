"""`lissom target`: measures a processor and writes what it found, for other calls to decide by."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import rich.markup
import rich.table
import typer

from lissom.cli import flags
from lissom.cli.console import Console, progress, require_json, write_json
from lissom.graph.save import require_writable
from lissom.target.measure import Asked, measure, measure_there
from lissom.target.schema import MeasuredShape, Target
from lissom.target.writing import write_target

LEAST_BUSY = 0.9
"""Share of the threads that run on a processor that is free."""


def target(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="TARGET.toml", help="Where to write.")],
    ep: flags.Ep = [],  # noqa: B006  typer copies the default
    ep_option: flags.EpOption = [],  # noqa: B006
    ep_library: flags.EpLibrary = [],  # noqa: B006
    custom_op_library: flags.CustomOpLibrary = [],  # noqa: B006
    threads: flags.Threads = 1,
    fast: Annotated[
        bool, typer.Option("--fast", help="A first look: two shapes, and blocks as wide as a vector.")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option("--cluster", metavar="ADDRESS", help="Dask scheduler with a worker on the processor (tcp://…)."),
    ] = None,
    resource: Annotated[
        str | None,
        typer.Option("--resource", metavar="NAME", help="Tag of that worker: dask worker --resources NAME=1"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace TARGET.toml if it exists.")] = False,
    json: flags.Json = None,
    verbose: flags.Verbose = 0,
    quiet: flags.Quiet = False,
    no_color: flags.NoColor = False,
) -> None:
    """Measure this processor, or that of a Dask worker, and write a target file."""
    Console.configure(verbose, quiet, not no_color, json == "-")
    require_writable(output, overwrite)
    require_json(json, output)
    asked = Asked(flags.parse_provider(ep, ep_option, ep_library, custom_op_library, threads), fast)
    found = _measure(asked, cluster, resource)
    found = found.model_copy(update={"name": output.stem})
    write_target(found, output)
    write_json(found, json)
    _render(found)
    Console.out().print(f"written: {output}")


def _measure(asked: Asked, cluster: str | None, resource: str | None) -> Target:
    if (cluster is None) != (resource is None):
        raise typer.BadParameter("expected --cluster and --resource together, but got one without the other")
    if cluster is None or resource is None:
        return measure(asked, progress)
    return measure_there(asked, cluster, resource)


def _render(found: Target) -> None:
    out = Console.out()
    out.print(_table(found))
    if found.description:
        out.print(f"note: {rich.markup.escape(found.description)}")
    rates, processor, provider = found.rates, found.processor, found.provider
    assert rates is not None and processor is not None and provider is not None
    if rates.busy_threads < LEAST_BUSY * provider.threads:
        out.print(
            f"note: {rates.busy_threads:.2f} of {provider.threads} thread(s) ran, because other programs ran too: "
            "latencies are too long"
        )
    out.print(
        f"streams {rates.stream_gbps:g} GB/s, gathers {rates.gather_gbps:g} GB/s, "
        f"{rates.gmacs:g} · 10⁹ multiply-accumulates a second"
    )
    out.print(f"{found.parallelism} parallelism: {_MEANINGS[found.parallelism]}")
    out.print(
        f"[dim]{rich.markup.escape(processor.cpu)}, vectors of {found.simd_width}, "
        f"kernels {found.kernels or 'do not run'}, onnxruntime {processor.onnxruntime}[/dim]"
    )


_MEANINGS = {
    "low": "zeros in blocks pay everywhere",
    "moderate": "zeros in blocks pay in memory-bound layers",
    "high": "only whole channels pay",
}
"""What each class says, for a person."""


def _table(found: Target) -> rich.table.Table:
    """One row a shape: its latency, and up to which density blocks of each width are faster."""
    widths = sorted({times.width for shape in found.shapes for times in shape.blocks})
    heads = [f"blocks of {width}" for width in widths]
    table = rich.table.Table("shape", "weight", "input", "dense", "bound by", *heads, box=None)
    for shape in found.shapes:
        table.add_row(
            shape.name,
            "x".join(map(str, shape.weight)),
            "x".join(map(str, shape.input)),
            f"{shape.dense_us:,.0f} µs",
            "memory" if shape.memory_bound else "arithmetic",
            *(_crossover(shape, width) for width in widths),
        )
    return table


def _crossover(shape: MeasuredShape, width: int) -> str:
    if not shape.blocks:
        return ""
    found = shape.crossover(width)
    return "never" if found is None else f"to {found:.2f}"
