"""What the nodes take that are no layers: read off a profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph.channel_networks import Net
from graph.onnx_text import floats, parse
from lissom.price import latency
from lissom.price.between import WARMUP, profiled, reorder, times
from lissom.price.cache import Cache
from lissom_runtime.providers import ProviderRequest


def event(name: str, us: int, op: str = "Add", **shapes: tuple[int, ...]) -> Mapping[str, Any]:
    told = {f"{side}_type_shape": [{"float": list(shape)}] for side, shape in shapes.items()}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": us, "args": {"op_name": op, **told}}


def test_a_node_takes_the_median_of_its_runs_less_what_any_takes() -> None:
    warm = [event("add", 900)] * WARMUP
    runs = [event("add", us) for us in (30, 10, 20)]
    other = [{"cat": "Session", "name": "model_run", "dur": 5}, {**event("add", 7), "name": "add_fence_before"}]
    assert times([*warm, *runs, *other], 4.0, {}) == {"add": 16.0}
    assert times([*warm, *runs], 40.0, {}) == {"add": 0.0}


def test_reorders_count_by_the_shape_of_the_plain_tensor() -> None:
    run = [
        event("a", 10, "ReorderInput", input=(1, 6, 4, 4), output=(1, 8, 4, 4)),
        event("b", 20, "ReorderOutput", input=(1, 8, 4, 4), output=(1, 6, 4, 4)),
        event("c", 40, "ReorderOutput", input=(1, 8, 2, 2), output=(1, 6, 2, 2)),
    ]
    assert times(run * (WARMUP + 1), 1.0, {}) == {reorder((1, 6, 4, 4)): 28.0, reorder((1, 6, 2, 2)): 39.0}


def test_a_node_is_known_by_its_output_in_blocks_and_by_what_stands_in_front_of_a_slash() -> None:
    run = [event("p_nchwc", 10), event("a/Mul/Fusion/", 20), event("a/Mul", 40), event("b/other", 80)]
    nodes = {"a": "x", "a/Mul": "m", "pool": "p"}
    assert times(run * (WARMUP + 1), 0.0, nodes) == {"pool": 10.0, "a/Mul": 60.0, "b/other": 80.0}


NET = """net (float[1, 8, 32, 32] x) => (float[1, 8, 32, 32] y) {
    c = Conv <pads = [1, 1, 1, 1]> (x, w)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c)
    s = Sigmoid (p)
    m = Mul (p, s)
    r = Resize <mode = "nearest"> (m, , scales)
    d = Conv <pads = [1, 1, 1, 1]> (r, w)
    t = ConvTranspose <pads = [1, 1, 1, 1]> (d, w)
    y = Softplus (t)
}"""


@pytest.mark.ort
def test_pooling_gates_resizing_and_transposed_layers_are_found_under_their_names() -> None:
    proto = parse(NET, w=floats(0, 8, 8, 3, 3), scales=np.array([1, 1, 2, 2], np.float32))
    for node in proto.graph.node:
        node.name = f"node_{node.output[0]}"
    found = profiled(proto, {"x": floats(1, 1, 8, 32, 32)}, ProviderRequest(), 0.0)
    assert {f"node_{output}" for output in "pmrty"} <= {name for name, us in found.items() if us > 0}


def test_what_was_profiled_is_not_profiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    monkeypatch.setattr(latency, "profiled", lambda *given: runs.append(given) or {"add": 3.0})
    monkeypatch.setattr(latency.LatencyTable, "node", lambda _: 1.0)
    net = Net(0, side=4)
    proto = net.classified(net.conv(net.image(), 4))
    wanted, image = {"add": 3.0, "fused away": latency.LEAST_US}, floats(1, 1, 3, 4, 4)
    for _ in range(2):
        table = latency.LatencyTable(ProviderRequest(), {}, 8, {}, Cache(tmp_path))
        assert table.between(proto, {"image": image}, list(wanted)) == wanted
    assert len(runs) == 1
    table.between(proto, {"image": np.repeat(image, 2, axis=0)}, list(wanted))  # another shape is another time
    assert len(runs) == 2
