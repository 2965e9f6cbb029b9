"""Networks with masks and sparse weights, lowered: any batch, any threads, the answer of the masked dense network."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import lissom
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from graph.onnx_text import floats
from lissom.activations.insert import Dynamic, Mask, insert
from lissom.activations.sensitivity import static_masks
from lissom.activations.thresholds import observe_magnitudes
from lissom_runtime import library
from lissom_runtime.latency import Runnable
from lissom_runtime.library import get_library_path
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import open_session
from passes.activation_cases import case

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.kernels.sparsity import block_mask

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]

Floats = npt.NDArray[np.float32]

NETWORK = """
net (float[N, 8, 9, 9] x) => (float[N, 8] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    a1 = Relu (c1)
    c2 = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (a1, w2, b2)
    a2 = Relu (c2)
    f2 = Flatten (a2)
    c3 = Gemm <transB = 1> (f2, w3, b3)
    a3 = Relu (c3)
    y = Gemm <transB = 1> (a3, w4, b4)
}
"""
WEIGHTS = {"w1": (16, 8, 3, 3), "w2": (16, 16, 3, 3), "w3": (256, 400), "w4": (8, 256)}
BLOCK, DENSITY, RATE = 4, 0.2, 0.2
IMAGE = (8, 9, 9)
BATCHES = (1, 2, 3, 4, 7)


@dataclass(frozen=True)
class Masked:
    """A network with masks behind all its activations.

    Attributes:
        lowered: the network with its sparse layers lowered.
        one, two: sessions of it with so many threads.
        dense: a session of it before, in ONNX Runtime alone; a dynamic mask runs as its function body.
    """

    lowered: onnx.ModelProto
    one: Runnable
    two: Runnable
    dense: Runnable


def run(session: Runnable, x: Floats) -> Floats:
    (y,) = session.run(None, {"x": x})
    return y


def whole_numbers(seed: int, *shape: int) -> Floats:
    """-1, 0 and 1, so that every sum of the network is exact."""
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)


def masked(whole: bool, is_dynamic: bool) -> Masked:
    """The network with weights in blocks; `whole`: of whole numbers, otherwise normally distributed."""
    rng = np.random.default_rng(0)
    draw = whole_numbers if whole else floats
    weights = {
        name: draw(seed, *shape) * block_mask(shape, DENSITY, BLOCK, rng)
        for seed, (name, shape) in enumerate(WEIGHTS.items())
    }
    biases = {f"b{name[1:]}": draw(9, shape[0]) for name, shape in WEIGHTS.items()}
    calibration = {"x": draw(10, 64, *IMAGE)}
    found = case(NETWORK, calibration, **weights, **biases)
    sites = found.sites.sites
    mask_at = static_masks(observe_magnitudes(found.model, sites, [calibration]))
    masks: dict[str, Mask] = {
        site.tensor: Dynamic(RATE, 1.0) if is_dynamic else mask_at(site.tensor, RATE) for site in sites
    }
    assert len(masks) == 3
    assert not insert(found.model, sites, masks, found.shapes)
    proto = found.model.to_proto()
    lowered = lissom.lower(proto, shapes={"x": (1, *IMAGE)}, measured=False).model
    file, libraries = lowered.SerializeToString(), (get_library_path(),)
    one, two = (open_session(file, ProviderRequest(custom_op_libraries=libraries, threads=n)) for n in (1, 2))
    return Masked(lowered, one, two, open_session(proto.SerializeToString()))


@pytest.fixture(scope="module", params=[False, True], ids=["static", "dynamic"])
def exact(request: pytest.FixtureRequest) -> Masked:
    return masked(whole=True, is_dynamic=request.param)


@pytest.fixture(scope="module", params=[False, True], ids=["static", "dynamic"])
def random(request: pytest.FixtureRequest) -> Masked:
    return masked(whole=False, is_dynamic=request.param)


def test_every_batch_gives_exactly_what_the_masked_dense_network_gives(exact: Masked) -> None:
    for batch in BATCHES:
        x = whole_numbers(batch, batch, *IMAGE)
        np.testing.assert_array_equal(run(exact.one, x), run(exact.dense, x))


def test_a_sample_gives_the_same_alone_and_in_a_batch(exact: Masked) -> None:
    x = whole_numbers(3, 5, *IMAGE)
    alone = np.concatenate([run(exact.one, sample[None]) for sample in x])
    np.testing.assert_array_equal(run(exact.one, x), alone)


def test_the_thread_count_does_not_change_a_bit(random: Masked) -> None:
    for batch in BATCHES:
        x = floats(batch, batch, *IMAGE)
        one, two = (run(session, x).view(np.uint32) for session in (random.one, random.two))
        np.testing.assert_array_equal(one, two)


def test_all_layers_become_sparse_and_static_masks_are_fused() -> None:
    names = [node.op_type for node in masked(whole=True, is_dynamic=False).lowered.graph.node]
    sparse = [name for name in names if name.startswith("Sparse")]
    assert [name.endswith("_thresholded_relu") for name in sparse] == [True, True, True, False]


def test_dynamic_masks_stay_operators_however_often_a_file_is_lowered() -> None:
    lowered = masked(whole=True, is_dynamic=True).lowered
    again = lissom.lower(lowered, shapes={"x": (1, *IMAGE)}, measured=False)
    for proto in (lowered, again.model):
        names = [node.op_type for node in proto.graph.node]
        assert names.count("WinnerMask") == 3
        assert [body.name for body in proto.functions].count("WinnerMask") == 1
        assert "TopK" not in names
    assert any("4 sparse operators were read as dense layers" in remark for remark in again.report.remarks)
    x = whole_numbers(1, 3, *IMAGE)
    once, twice = (open_session(proto.SerializeToString()) for proto in (lowered, again.model))
    np.testing.assert_array_equal(run(once, x), run(twice, x))


def test_a_mask_with_another_body_is_inlined_and_means_what_it_says() -> None:
    lowered = masked(whole=True, is_dynamic=True).lowered
    (body,) = [body for body in lowered.functions if body.name == "WinnerMask"]
    (last,) = [node for node in body.node if "y" in node.output]
    assert last.op_type == "Where"
    last.input[1], last.input[2] = last.input[2], last.input[1]
    x = whole_numbers(1, 3, *IMAGE)
    before = run(open_session(lowered.SerializeToString()), x)
    found = lissom.lower(lowered, shapes={"x": (1, *IMAGE)}, measured=False)
    again = found.model
    assert "WinnerMask" not in {node.op_type for node in again.graph.node}
    assert any("dynamic masks were inlined" in remark for remark in found.report.remarks)
    np.testing.assert_array_equal(run(open_session(again.SerializeToString()), x), before)


def test_a_conversion_to_the_opset_that_the_model_has_keeps_its_masks() -> None:
    lowered = masked(whole=True, is_dynamic=True).lowered
    (opset,) = [entry.version for entry in lowered.opset_import if entry.domain == ""]
    for target, stays in ((opset, True), (opset + 1, False)):
        found = lissom.lower(lowered, shapes={"x": (1, *IMAGE)}, measured=False, convert_opset=target)
        assert ("WinnerMask" in {node.op_type for node in found.model.graph.node}) == stays
        assert any("dynamic masks were inlined" in remark for remark in found.report.remarks) != stays
