"""`lissom inspect`: what lissom sees in a model, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import rich.markup
import rich.table
import typer
from pydantic import BaseModel

from lissom.canonical import canonicalise
from lissom.cli import flags
from lissom.cli.console import Console, require_json, write_json
from lissom.cli.render import render_refusals
from lissom.data import first_feeds, input_specs
from lissom.graph.load import load
from lissom.report.schema import RefusalEntry, Size, StepEntry


class InspectedLayer(BaseModel):
    """A layer that can become a site."""

    site: str
    op: str
    weight_shape: Sequence[int]
    params: int
    macs: int
    out_spatial: Sequence[int]


class Inspection(BaseModel):
    """What `lissom inspect --json` writes."""

    schema_version: int = 1
    model: str
    opset: int
    ir_version: int
    totals: Size
    remarks: Sequence[str]
    steps: Sequence[StepEntry]
    layers: Sequence[InspectedLayer]
    refusals: Sequence[RefusalEntry]


def inspect(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model to look at.")],
    data: flags.Data = None,
    shape: flags.Shape = [],  # noqa: B006  typer copies the default
    convert_opset: flags.ConvertOpset = None,
    seed: flags.Seed = 0,
    json: flags.Json = None,
    verbose: flags.Verbose = 0,
    quiet: flags.Quiet = False,
    no_color: flags.NoColor = False,
) -> None:
    """Show the layers of IN.onnx, what they cost, and what would be declined."""
    Console.configure(verbose, quiet, not no_color, json == "-")
    require_json(json, model)
    loaded = load(model, convert_opset)
    feeds = first_feeds(input_specs(loaded.inputs), data, flags.parse_shapes(shape), seed)
    canonical = canonicalise(loaded, feeds)
    inspection = Inspection(
        model=model.name,
        opset=loaded.opset,
        ir_version=loaded.ir_version,
        totals=Size(**vars(canonical.original)),
        remarks=loaded.remarks,
        steps=[StepEntry(name=name, changes=len(o.changes)) for name, o in canonical.outcomes.items()],
        layers=[
            InspectedLayer(
                site=layer.name,
                op=layer.op,
                weight_shape=list(layer.weight.shape),
                params=layer.geometry.weight_size,
                macs=layer.geometry.macs,
                out_spatial=list(layer.geometry.out_spatial),
            )
            for layer in canonical.layers
        ],
        refusals=[RefusalEntry(site=r.site, kind=r.kind, reason=r.reason) for r in canonical.refusals],
    )
    write_json(inspection, json)
    _render(inspection, verbose)


def _render(inspection: Inspection, verbose: int) -> None:
    out = Console.out()
    totals = inspection.totals
    out.print(
        f"{inspection.model}: opset {inspection.opset}, IR {inspection.ir_version}, {totals.params:,} non-zero "
        f"parameters, {totals.bytes:,} bytes, {totals.macs:,} multiply-accumulates"
    )
    for step in inspection.steps:
        out.print(f"{step.name}: {step.changes} changes")
    for remark in inspection.remarks:
        out.print(f"note: {rich.markup.escape(remark)}")
    table = rich.table.Table("layer", "op", "weight", "params", "MACs", "output", box=None)
    for layer in inspection.layers:
        table.add_row(
            rich.markup.escape(layer.site),
            layer.op,
            "x".join(map(str, layer.weight_shape)),
            f"{layer.params:,}",
            f"{layer.macs:,}",
            "x".join(map(str, layer.out_spatial)),
        )
    out.print(table)
    render_refusals(inspection.refusals, verbose)
