"""`lissom inspect`: what lissom sees in a model, before anything is changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import rich.markup
import rich.table
import typer
from lissom_runtime.errors import UsageError
from pydantic import BaseModel

from lissom.activations.judge import Read
from lissom.activations.look import look
from lissom.canonical import canonicalise
from lissom.cli import flags
from lissom.cli.console import Console, progress, require_json, write_json
from lissom.cli.render import render_account, render_refusals
from lissom.data import first_feeds, input_specs, open_dataset
from lissom.graph.load import load
from lissom.job import CALIBRATION_SAMPLES
from lissom.recipe_tables import Winners
from lissom.report.activations import account_entry, curve_entry
from lissom.report.schema import AccountEntry, CurveEntry, RefusalEntry, Size, StepEntry
from lissom.scoring import batch_size


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
    sensitivity: Sequence[CurveEntry] | None = None
    account: AccountEntry | None = None


def inspect(
    model: Annotated[Path, typer.Argument(metavar="IN.onnx", help="The model to look at.")],
    data: flags.Data = None,
    sensitivity: Annotated[
        bool, typer.Option("--sensitivity", help="Sweep the winner rate of each activation (needs --calibration).")
    ] = False,
    calibration: flags.Calibration = None,
    validation: flags.Validation = None,
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
    if sensitivity and calibration is None:
        raise UsageError("expected --calibration data for --sensitivity, but got none")
    loaded = load(model, convert_opset)
    specs = input_specs(loaded.inputs)
    feeds = first_feeds(specs, data or calibration, flags.parse_shapes(shape), seed)
    canonical = canonicalise(loaded, feeds)
    looked = None
    if sensitivity and calibration is not None:
        samples = list(open_dataset(calibration, specs).batches(batch_size(specs), CALIBRATION_SAMPLES))
        judges = samples if validation is None else Read(open_dataset(validation, specs), batch_size(specs))
        looked = look(canonical, Winners(), samples, judges, progress)
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
        refusals=[
            RefusalEntry(site=r.site, kind=r.kind, reason=r.reason)
            for r in (*canonical.refusals, *(() if looked is None else looked.refusals))
        ],
        sensitivity=None if looked is None else [curve_entry(curve, looked.metric) for curve in looked.curves],
        account=None if looked is None else account_entry(looked.account),
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
    if inspection.sensitivity is not None:
        out.print(_curves(inspection.sensitivity))
    if inspection.account is not None:
        render_account(inspection.account, verbose=1)
    render_refusals(inspection.refusals, verbose)


def _curves(curves: Sequence[CurveEntry]) -> rich.table.Table:
    """One row a group of activations: the rate that is accepted, and the score without masks and at each rate."""
    rates = [point.rate for point in curves[0].points] if curves else []
    metric = curves[0].metric if curves else ""
    table = rich.table.Table("activations", "rate", metric, *(f"{rate:g}" for rate in rates), box=None)
    for curve in curves:
        name = curve.tensors[0] + (f" and {len(curve.tensors) - 1} more" if len(curve.tensors) > 1 else "")
        scores = [curve.before["score"], *(point.score for point in curve.points)]
        table.add_row(rich.markup.escape(name), f"{curve.rate:g}", *(f"{score:.3f}" for score in scores))
    return table
