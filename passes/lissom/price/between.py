"""What the nodes of a network take that are no layers to be timed by themselves: read off a profile of its runs.

ONNX Runtime says how long each node took, under the name that it has in the model, or one made of it: that of its
output and "_nchwc" in ONNX Runtime's own layout, and its own with something behind a slash where it was fused with the
node in front. Nodes that were fused into others have no time. Between that layout and the plain one stand reorders,
which have a name of no use; theirs is the shape of the plain tensor (`reorder`).

From the median over the runs goes what any node takes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session, run_session

from lissom.data import Feeds

WARMUP = 2

LEAST_RUNS, MOST_RUNS = 5, 50

SECONDS = 1.0
"""No run begins after this once there are `LEAST_RUNS`."""

_KERNEL = "_kernel_time"
_IN_BLOCKS = "_nchwc"
"""Behind the name of an output that ONNX Runtime gives in its own layout, in blocks of channels."""

_PLAIN = {"ReorderInput": "input_type_shape", "ReorderOutput": "output_type_shape"}
"""Which shape of a reorder is that of the plain tensor."""


def profiled(network: onnx.ModelProto, feeds: Feeds, provider: ProviderRequest, node_us: float) -> dict[str, float]:
    """Microseconds of each node, and of the reorders of each shape, without what any node takes.

    Args:
        network: the network.
        feeds: its inputs.
        provider: where it runs; what providers other than those of ONNX Runtime itself do may have other names.
        node_us: what a node takes however little it does.

    Raises:
        LoadError: the network does not run there.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(network.SerializeToString(), provider, Path(folder) / "profile")
        until = time.perf_counter() + SECONDS
        for number in range(WARMUP + MOST_RUNS):
            if number >= WARMUP + LEAST_RUNS and time.perf_counter() > until:
                break
            run_session(session, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return times(events, node_us, {node.name: node.output[0] for node in network.graph.node})


def times(events: Sequence[Mapping[str, Any]], node_us: float, outputs: Mapping[str, str]) -> dict[str, float]:
    """What `profiled` says of the events of a profile; `outputs` has the first output of each node by its name."""
    in_blocks = {f"{output}{_IN_BLOCKS}": name for name, output in outputs.items()}

    def owner(name: str) -> str:
        """The node of the model that runs under a name, or the name itself."""
        if name in outputs or name in in_blocks:
            return in_blocks.get(name, name)
        front = name
        while "/" in front:
            front = front.rpartition("/")[0]
            if front in outputs:
                return front
        return name

    runs: dict[str, list[float]] = defaultdict(list)
    shapes = {}
    for event in events:
        if event.get("cat") != "Node" or not event["name"].endswith(_KERNEL):
            continue
        name, told = event["name"].removesuffix(_KERNEL), event["args"]
        runs[name].append(event["dur"])
        plain = _PLAIN.get(told["op_name"])
        if plain is not None:
            shapes[name] = reorder(tuple(next(iter(told[plain][0].values()))))
    found: dict[str, float] = defaultdict(float)
    for name, us in runs.items():
        found[shapes.get(name) or owner(name)] += max(float(np.median(us[WARMUP:])) - node_us, 0.0)
    return dict(found)


def reorder(shape: tuple[int, ...]) -> str:
    """The name of what reorders tensors of one shape."""
    return f"reorder {'×'.join(map(str, shape))}"
