"""`lissom lower`: lets the layers with sparse weights run on the runtime's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import rich.markup
import rich.table
import typer
from lissom_runtime.errors import GoalMissed

from lissom.cli import flags
from lissom.cli.console import Console, progress, require_json, write_json
from lissom.cli.render import add_latency, render_refusals
from lissom.lowering.lower import lower as lower_model
from lissom.lowering.report import ChainEntry, LoweredLayer, Lowering


def lower(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model with sparse weights.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.onnx", help="Where to write.")],
    shape: flags.Shape = [],  # noqa: B006  typer copies the default
    ep: flags.Ep = [],  # noqa: B006
    ep_option: flags.EpOption = [],  # noqa: B006
    ep_library: flags.EpLibrary = [],  # noqa: B006
    custom_op_library: flags.CustomOpLibrary = [],  # noqa: B006
    threads: flags.Threads = 1,
    max_density: Annotated[
        float | None, typer.Option(help="Largest density of a weight that is lowered. Default: by operator and block.")
    ] = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Choose layers by density; do not time them.")
    ] = False,
    include: flags.Include = None,
    exclude: flags.Exclude = None,
    convert_opset: flags.ConvertOpset = None,
    seed: flags.Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT.onnx if it exists.")] = False,
    json: flags.Json = None,
    verbose: flags.Verbose = 0,
    quiet: flags.Quiet = False,
    no_color: flags.NoColor = False,
) -> None:
    """Turn layers with sparse weights into operators of the runtime, prove the result and write it."""
    Console.configure(verbose, quiet, not no_color, json == "-")
    require_json(json, model, output)
    result = lower_model(
        model,
        output,
        shapes=flags.parse_shapes(shape),
        provider=flags.parse_provider(ep, ep_option, ep_library, custom_op_library, threads),
        max_density=max_density,
        measured=not no_measure,
        include=include,
        exclude=exclude,
        convert_opset=convert_opset,
        seed=seed,
        overwrite=overwrite,
        progress=progress,
    )
    write_json(result.report, json)
    _render(result.report, verbose)
    if result.missed:
        raise GoalMissed(f"{result.missed}; nothing was written")
    Console.out().print(f"written: {output}")


def _render(report: Lowering, verbose: int) -> None:
    out = Console.out()
    for remark in report.remarks:
        out.print(f"note: {rich.markup.escape(remark)}")
    if report.layers:
        out.print(_layer_table(report.layers))
    render_refusals(report.refusals, verbose)
    table = rich.table.Table("", "before", "after", "ratio", box=None)
    table.add_row(
        "bytes",
        f"{report.bytes_before:,}",
        f"{report.bytes_after:,}",
        f"{report.bytes_after / report.bytes_before:.3f}",
    )
    if report.latency is not None:
        add_latency(table, report.latency)
    out.print(table)


def _layer_table(layers: Sequence[LoweredLayer]) -> rich.table.Table:
    """One row a layer that was looked at."""
    table = rich.table.Table("layer", "weight", "density", "block", "becomes", "bytes", "latency", box=None)
    for layer in layers:
        table.add_row(
            rich.markup.escape(layer.site),
            "x".join(map(str, layer.weight_shape)),
            f"{layer.density:.3f}",
            str(layer.block) if layer.orientation == "output" else f"{layer.block} {layer.orientation}",
            _becomes(layer),
            f"{layer.bytes_before:,} → {layer.bytes_after:,}",
            _latency(layer),
        )
    return table


def _becomes(layer: LoweredLayer) -> str:
    """The operator; of a chain its shape, and which of its layers this is."""
    if layer.decision != "lowered":
        return "dense"
    chain = _chain(layer)
    if chain is None:
        return layer.operator
    return f"{chain.shape} {chain.layers.index(layer.site) + 1}/{len(chain.layers)}"


def _latency(layer: LoweredLayer) -> str:
    """Dense latency and ratio, of the whole chain where the layer is part of one."""
    chain = _chain(layer)
    speed = layer.speed if chain is None else chain.speed
    if speed is None:
        return ""
    return f"{'' if chain is None else 'chain: '}{speed.dense_us:,.0f} µs × {speed.ratio:.2f}"


def _chain(layer: LoweredLayer) -> ChainEntry | None:
    """What the layer is part of in the file."""
    return None if layer.chain is None or layer.chain.node is None else layer.chain
