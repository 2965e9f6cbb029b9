"""Flags that several subcommands share, and how their words become values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from lissom_runtime.errors import UsageError
from lissom_runtime.providers import ProviderRequest

Shape = Annotated[
    list[str],
    typer.Option(
        "--shape", metavar="NAME:1,3,224,224", help="Shape of an input at which work and latency are meant. Repeatable."
    ),
]
Ep = Annotated[
    list[str],
    typer.Option("--ep", metavar="NAME", help="Execution provider, alias or full name, in priority order. Repeatable."),
]
EpOption = Annotated[
    list[str], typer.Option("--ep-option", metavar="[EP:]KEY=VALUE", help="Option of a provider. Repeatable.")
]
EpLibrary = Annotated[
    list[str], typer.Option("--ep-library", metavar="NAME=PATH", help="Plugin provider to register. Repeatable.")
]
CustomOpLibrary = Annotated[
    list[Path], typer.Option("--custom-op-library", metavar="PATH", help="Custom operators to register. Repeatable.")
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="Threads within an operator.")]
Metric = Annotated[
    str | None,
    typer.Option("--metric", help="top1, top5, agreement, output or MODULE:FUNCTION. Default: by labels and outputs."),
]
Json = Annotated[str | None, typer.Option("--json", metavar="FILE|-", help="Write the report as JSON.")]
Verbose = Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; -vv shows tracebacks.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print errors only.")]
NoColor = Annotated[bool, typer.Option("--no-color", help="Plain text.")]
Jobs = Annotated[
    int | None,
    typer.Option("--jobs", metavar="N", min=1, help="Layers worked on at once. Default: one a core. Same result."),
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", metavar="ADDRESS", help="Dask scheduler whose workers look at the layers (tcp://…)."),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target", metavar="NAME|FILE", help="The processor: a preset, or a file that `lissom target` wrote."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of random inputs, samples and starts.")]
ConvertOpset = Annotated[
    int | None, typer.Option("--convert-opset", metavar="N", help="Convert the model up to opset N first.")
]
Include = Annotated[str | None, typer.Option("--include", metavar="REGEX", help="Only layers whose name this finds.")]
Exclude = Annotated[str | None, typer.Option("--exclude", metavar="REGEX", help="No layers whose name this finds.")]
Calibration = Annotated[
    str | None,
    typer.Option("--calibration", metavar="DATA", help="Samples for statistics, and for scores without --validation."),
]
Validation = Annotated[
    str | None, typer.Option("--validation", metavar="DATA", help="Samples for scores. Default: --calibration.")
]
Drop = Annotated[str, typer.Option("--drop", metavar="absolute|relative", help="How --max-drop counts.")]
KeepAnyway = Annotated[bool, typer.Option("--keep-anyway", help="Write a result that misses its goal.")]
KeepThresholds = Annotated[
    bool | None,
    typer.Option(
        "--keep-thresholds/--no-keep-thresholds",
        help="Whether masks stay that do not make the model faster. Default: as the recipe says.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="DATA", help="Samples: .npz, .npy, a folder of images or MODULE:FUNCTION."),
]


def parse_shapes(words: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by input, of words like "image:1,3,224,224".

    Raises:
        UsageError: a word has another form.
    """
    shapes = {}
    for word in words:
        name, _, extents = word.rpartition(":")
        try:
            shape = tuple(int(extent) for extent in extents.split(","))
        except ValueError:
            shape = ()
        if not name or not shape:
            raise UsageError(f"expected --shape NAME:1,3,224,224, but got {word!r}")
        shapes[name] = shape
    return shapes


def parse_provider(
    ep: list[str], ep_option: list[str], ep_library: list[str], custom_op_library: list[Path], threads: int
) -> ProviderRequest:
    """The execution provider that the flags ask for.

    Raises:
        UsageError: a flag has the wrong form.
    """
    return ProviderRequest.parse(ep, ep_option, ep_library, custom_op_library, threads)
