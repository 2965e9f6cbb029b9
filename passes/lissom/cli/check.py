"""`lissom check`: does B.onnx still do the work of A.onnx, and how fast?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import onnx
import typer
from lissom_runtime.errors import GoalMissed, VerificationError
from lissom_runtime.latency import compare
from lissom_runtime.session import open_session
from lissom_runtime.target import Machine
from pydantic import BaseModel

from lissom.cli import flags
from lissom.cli.console import Console, require_json, write_json
from lissom.cli.render import add_latency, score_table
from lissom.data import first_feeds, input_specs, open_dataset
from lissom.graph.load import read_proto
from lissom.graph.spec import require_valid
from lissom.lowering.price import provider_of
from lissom.report.build import accuracy_entries, environment, latency_entry
from lissom.report.schema import AccuracyEntry, Environment, LatencyEntry
from lissom.scoring import Scorer, batch_size, drop_of


class Check(BaseModel):
    """What `lissom check --json` writes."""

    schema_version: int = 1
    original: str
    compressed: str
    environment: Environment
    accuracy: Sequence[AccuracyEntry]
    latency: LatencyEntry


def check(
    original: Annotated[Path, typer.Argument(metavar="A.onnx", help="The model to compare with.")],
    compressed: Annotated[Path, typer.Argument(metavar="B.onnx", help="The model to check.")],
    data: flags.Data = None,
    metric: flags.Metric = None,
    max_drop: Annotated[float | None, typer.Option(help="Largest loss that passes (exit 1 above it).")] = None,
    drop: Annotated[str, typer.Option(metavar="absolute|relative", help="How --max-drop counts.")] = "absolute",
    max_latency_ratio: Annotated[
        float | None, typer.Option(help="Largest B/A latency that passes, by the interval's upper end (exit 1).")
    ] = None,
    shape: flags.Shape = [],  # noqa: B006  typer copies the default
    ep: flags.Ep = [],  # noqa: B006
    ep_option: flags.EpOption = [],  # noqa: B006
    ep_library: flags.EpLibrary = [],  # noqa: B006
    custom_op_library: flags.CustomOpLibrary = [],  # noqa: B006
    threads: flags.Threads = 1,
    seed: flags.Seed = 0,
    json: flags.Json = None,
    verbose: flags.Verbose = 0,
    quiet: flags.Quiet = False,
    no_color: flags.NoColor = False,
) -> None:
    """Compare B.onnx with A.onnx: interface, outputs and latency on an execution provider."""
    Console.configure(verbose, quiet, not no_color, json == "-")
    require_json(json, original, compressed)
    if drop not in ("absolute", "relative"):
        raise typer.BadParameter(f"expected --drop absolute or relative, but got {drop!r}")
    for name, limit in (("--max-drop", max_drop), ("--max-latency-ratio", max_latency_ratio)):
        if limit is not None and not limit >= 0:
            raise typer.BadParameter(f"expected {name} of at least 0, but got {limit}")
    provider = flags.parse_provider(ep, ep_option, ep_library, custom_op_library, threads)
    first, second = read_proto(original), read_proto(compressed)
    provider = provider_of((first, second), provider)
    require_valid(second, first)
    _require_same_interface(first, second)
    specs = input_specs(first.graph.input)
    specs = [spec for spec in specs if spec.name not in {tensor.name for tensor in first.graph.initializer}]
    dataset = None if data is None else open_dataset(data, specs)
    feeds = first_feeds(specs, dataset, flags.parse_shapes(shape), seed)
    scorer = Scorer(original, dataset, feeds, provider, metric, batch_size(specs))
    entries = accuracy_entries(scorer, compressed)
    paired = compare(open_session(original, provider), open_session(compressed, provider), feeds)
    report = Check(
        original=original.name,
        compressed=compressed.name,
        environment=environment(provider, Machine.here()),
        accuracy=entries,
        latency=latency_entry(paired, feeds),
    )
    write_json(report, json)
    _render(report)
    kind: Literal["absolute", "relative"] = "absolute" if drop == "absolute" else "relative"
    lost = drop_of(entries[0].before, entries[0].after, kind)
    if max_drop is not None and lost > max_drop:
        raise GoalMissed(
            f"expected to lose at most {max_drop:g} {entries[0].metric}, but {compressed} loses {lost:.4g}"
        )
    if max_latency_ratio is not None and report.latency.high > max_latency_ratio:
        raise GoalMissed(
            f"expected a latency ratio of at most {max_latency_ratio:g}, "
            f"but the interval reaches {report.latency.high:.4g}"
        )


def _require_same_interface(first: onnx.ModelProto, second: onnx.ModelProto) -> None:
    """Same inputs and outputs: names, order and element types."""
    for what in ("input", "output"):
        sides = []
        for proto in (first, second):
            constants = {tensor.name for tensor in proto.graph.initializer}
            values = getattr(proto.graph, what)
            sides.append([(v.name, v.type.tensor_type.elem_type) for v in values if v.name not in constants])
        if sides[0] != sides[1]:
            names = [[name for name, _ in side] for side in sides]
            raise VerificationError(
                f"expected the {what}s {names[0]} with their types, but the second model has {names[1]}"
            )


def _render(report: Check) -> None:
    table = score_table(report.accuracy)
    add_latency(table, report.latency)
    Console.out().print(table)
