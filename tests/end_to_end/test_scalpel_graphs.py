"""Channels and zeros in graphs that cannot be followed everywhere: what can be is cut; the rest stays, and is told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lissom
import numpy as np
import onnx
import pytest
from graph.onnx_text import Arrays, floats, parse, run

pytestmark = pytest.mark.ort

CONV = "Conv <pads = [1, 1, 1, 1]>"
TAIL = f"""
    r = {CONV} (z, v)
    u = Relu(r)
    e = {CONV} (u, x)
    o = GlobalAveragePool(e)
    f = Flatten(o)
    logits = Gemm <transB = 1> (f, m)
}}"""
GRAPHS: Mapping[str, tuple[str, str]] = {
    "control flow": (
        f"""net (float[N, 3, 8, 8] image) => (float[N, 10] logits) {{
            t = {CONV} (image, w)
            z = If (yes) <then_branch = one () => (float[N, 16, 8, 8] p) {{ p = Relu(t) }},
                          else_branch = two () => (float[N, 16, 8, 8] q) {{ q = Neg(t) }}>"""
        + TAIL,
        "reads them in the body of an operator If",
    ),
    "channels counted elsewhere": (
        f"""net (float[N, 3, 8, 8] image, float[N, C, 8, 8] other) => (float[N, 10] logits) {{
            t = {CONV} (image, w)
            g = Flatten(t)
            h = Shape(other)
            z = Reshape(g, h)"""
        + TAIL,
        "takes the number of channels from a shape that is computed",
    ),
}
"""A network, and why what its first convolution gives stays."""


def network(name: str) -> tuple[onnx.ModelProto, Arrays]:
    shapes = {"w": (16, 3, 3, 3), "v": (16, 16, 3, 3), "x": (16, 16, 3, 3), "m": (10, 16)}
    weights = {key: floats(seed, *shape) / 4 for seed, (key, shape) in enumerate(shapes.items())}
    proto = parse(GRAPHS[name][0], yes=np.array(True), **weights)
    feeds = {"image": floats(9, 8, 3, 8, 8), "other": floats(10, 8, 16, 8, 8)}
    return proto, {value.name: feeds[value.name] for value in proto.graph.input}


KINDS = {"low": {"block-sparse"}, "moderate": {"nodes", "block-sparse"}, "high": {"nodes"}}


def target(folder: Path, parallelism: str) -> str:
    """A target of a class, whose blocks are single weights and channels."""
    path = folder / "mine.toml"
    path.write_text(
        f"""version = 1
        parallelism = "{parallelism}"
        simd_width = 1
        channel_block = 1
        sparse.widths = [1]
        rates = {{stream_gbps = 10, gather_gbps = 1, gmacs = 5, busy_threads = 1}}
        """
    )
    return str(path)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("parallelism", KINDS)
def test_what_can_be_followed_is_cut_and_the_rest_is_told(name: str, parallelism: str, tmp_path: Path) -> None:
    proto, feeds = network(name)
    np.savez(tmp_path / "data.npz", **feeds)
    found = lissom.compress(
        proto,
        recipe="scalpel",
        bounds={"keep_params": 0.3},
        calibration=str(tmp_path / "data.npz"),
        target=target(tmp_path, parallelism),
    )
    report, model = found.report, found.model
    assert report.after is not None
    assert model is not None
    assert report.after.params <= 0.3 * report.before.params
    assert {layer.kind for layer in report.layers if layer.kind != "dense"} == KINDS[parallelism]
    assert GRAPHS[name][1] in " ".join(refusal.reason for refusal in report.refusals)
    convolutions = [tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert ((16, 3, 3, 3) in convolutions) or parallelism != "high"
    assert run(model, feeds)[0].shape == (8, 10)
