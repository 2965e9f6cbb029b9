"""SparseConv in sessions: the kernels, the function body and the dense convolution give one answer."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lissom_runtime import library
from lissom_runtime.contract import COLUMNS, ORIENTATIONS, Columns, Orientation, Signature, signatures
from runtime.ops_models import (
    ROUNDED,
    Array,
    Node,
    dense_model,
    feeds,
    integers,
    random_floats,
    session,
    sparse_model,
    sparse_weight,
    y_shape,
)

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]

GEOMETRIES: Mapping[str, Node] = {
    "1x1": Node(sparse_weight(0, 16, 24, 1, 1)),
    "1x1, stride 2": Node(sparse_weight(1, 16, 24, 1, 1), strides=(2, 2)),
    "3x3": Node(sparse_weight(2, 16, 8, 3, 3), pads=(1, 1, 1, 1)),
    "3x3, strides 2 and 1, pads all different": Node(sparse_weight(3, 16, 8, 3, 3), strides=(2, 1), pads=(0, 1, 2, 3)),
    "3x3, dilation 2": Node(sparse_weight(4, 16, 8, 3, 3), dilations=(2, 2), pads=(2, 2, 2, 2)),
    "3x3, dilation 3 and 1, stride 2": Node(sparse_weight(5, 16, 8, 3, 3), dilations=(3, 1), strides=(2, 2)),
    "5x5, pads wider than the kernel": Node(sparse_weight(6, 16, 4, 5, 5), pads=(6, 7, 5, 6)),
    "1x7": Node(sparse_weight(7, 16, 4, 1, 7), pads=(0, 3, 0, 3)),
    "7x7, stride 2": Node(sparse_weight(8, 16, 3, 7, 7), strides=(2, 2), pads=(3, 3, 3, 3)),
    "2 groups": Node(sparse_weight(9, 16, 6, 3, 3), group=2, pads=(1, 1, 1, 1)),
    "depthwise": Node(sparse_weight(10, 12, 1, 3, 3, density=0.6), group=12, pads=(1, 1, 1, 1)),
    "all zero": Node(np.zeros((16, 8, 3, 3), np.float32)),
}


def agree(node: Node, inputs: list[Array], *, tolerance: float = 0.0) -> None:
    """Kernels, body and dense model give the same for all inputs, each in one session."""
    sparse = sparse_model(node)
    native, portable, dense = session(sparse, native=True), session(sparse), session(dense_model(node))
    for x in inputs:
        given = feeds(node, x)
        expected = dense.run(None, given)[0]
        assert expected.shape == y_shape(node, x.shape)
        for model in (native, portable):
            np.testing.assert_allclose(model.run(None, given)[0], expected, rtol=tolerance, atol=tolerance)


def input_of(node: Node, batch: int, height: int, width: int) -> Array:
    return integers(batch * height + width, batch, node.weight.shape[1] * node.group, height, width)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_geometry_batch_and_spatial_size_is_exact_in_one_session(name: str) -> None:
    node = GEOMETRIES[name]
    sizes = [(1, 8, 8), (2, 9, 13), (3, 17, 7), (1, 14, 14), (2, 9, 13)]
    agree(node, [input_of(node, *size) for size in sizes])


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 95, 96, 97, 191, 192, 193])
@pytest.mark.parametrize("kernel", [1, 3])
def test_sizes_around_the_edges_of_tiles_are_exact(width: int, kernel: int) -> None:
    node = Node(sparse_weight(width, 20, 5, kernel, kernel), block=1, pads=(kernel // 2,) * 4)
    agree(node, [input_of(node, 1, height, width) for height in (1, 2, 5)])


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("block", [1, 2, 4, 8, 16])
def test_every_block_orientation_and_format_is_exact(block: int, orientation: Orientation, columns: Columns) -> None:
    weight = sparse_weight(block, 48, 16, 3, 3, block=block, orientation=orientation)
    node = Node(weight, block, orientation, columns, "relu", pads=(1, 1, 1, 1))
    agree(node, [input_of(node, 2, 7, 9)])


@pytest.mark.parametrize("signature", [s for s in signatures() if s.operator == "SparseConv"], ids=lambda s: s.name)
def test_every_operator_runs_natively_and_agrees(signature: Signature) -> None:
    node = Node(
        sparse_weight(3, 16, 4, 3, 3, block=4, orientation=signature.orientation),
        4,
        signature.orientation,
        signature.columns,
        signature.activation,
        signature.residual,
        pads=(1, 1, 1, 1),
    )
    assert node.signature == signature
    given = feeds(node, input_of(node, 1, 5, 6))
    actual = session(sparse_model(node, body=False), native=True).run(None, given)[0]
    expected = session(dense_model(node)).run(None, given)[0]
    tolerance = 2e-6 if signature.activation in ROUNDED else 0.0
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_a_block_that_reaches_over_two_groups_is_exact() -> None:
    node = Node(sparse_weight(5, 24, 6, 3, 3, block=8), 8, group=2, pads=(1, 1, 1, 1))
    agree(node, [input_of(node, 2, 6, 6)])


def test_an_empty_batch_gives_an_empty_output() -> None:
    node = Node(sparse_weight(0, 16, 4, 3, 3), residual=True)
    given = {"x": np.zeros((0, 4, 8, 8), np.float32), "residual": np.zeros((0, 16, 6, 6), np.float32)}
    (y,) = session(sparse_model(node), native=True).run(None, given)
    assert y.shape == (0, 16, 6, 6)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
def test_an_image_of_padding_alone_is_that_of_dense_onnxruntime(
    size: tuple[int, int], strides: tuple[int, int]
) -> None:
    node = Node(sparse_weight(0, 16, 4, 3, 3), strides=strides, pads=(2, 3, 1, 2), x_shape=("N", 4, "H", "W"))
    agree(node, [input_of(node, 2, *size), input_of(node, 1, 4, 6)])


def test_a_residual_whose_memory_becomes_the_outputs_is_exact() -> None:
    node = Node(sparse_weight(0, 32, 16, 3, 3, block=4), 4, residual=True, activation="relu", pads=(1, 1, 1, 1))
    given = feeds(node, input_of(node, 2, 30, 30))
    sparse = sparse_model(node, residual_of_relu=True)
    actual = session(sparse, native=True).run(None, given)[0]
    given["residual"] = np.maximum(given["residual"], 0)
    np.testing.assert_array_equal(actual, session(dense_model(node)).run(None, given)[0])


def test_the_thread_count_does_not_change_a_bit() -> None:
    weight = np.where(sparse_weight(0, 64, 32, 3, 3, block=4) != 0, random_floats(1, 64, 32, 3, 3), 0)
    node = Node(weight, 4, activation="silu", pads=(1, 1, 1, 1))
    x = random_floats(2, 2, 32, 40, 40)
    one, two = (session(sparse_model(node), native=True, threads=threads).run(None, {"x": x})[0] for threads in (1, 2))
    np.testing.assert_array_equal(one.view(np.uint32), two.view(np.uint32))


def test_rounding_stays_within_the_bound_of_the_sum() -> None:
    weight = np.where(sparse_weight(0, 32, 64, 3, 3) != 0, random_floats(1, 32, 64, 3, 3), 0)
    node = Node(weight, pads=(1, 1, 1, 1))
    x = random_floats(2, 1, 64, 20, 20)
    actual = session(sparse_model(node), native=True).run(None, {"x": x})[0]
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    assert node.bias is not None
    bias = node.bias.astype(np.float64)[:, None, None]
    expected = np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64)) + bias
    magnitude = np.einsum("nchwij,ocij->nohw", np.abs(windows), np.abs(weight.astype(np.float64))) + np.abs(bias)
    terms = int((weight != 0).sum(axis=(1, 2, 3)).max()) + 1
    bound = terms * np.finfo(np.float32).eps / 2 * magnitude
    assert (np.abs(actual - expected) <= bound * 1.01).all()


def test_nan_and_infinity_pass_through_non_zero_weights_and_no_others() -> None:
    weight = sparse_weight(0, 16, 8, 3, 3, density=0.2)
    node = Node(weight, pads=(1, 1, 1, 1))
    x = integers(1, 1, 8, 12, 12)
    x[0, 2, 3, 4], x[0, 5, 8, 8], x[0, 1, 0, 11] = np.nan, np.inf, -np.inf
    actual = session(sparse_model(node), native=True).run(None, {"x": x})[0]
    # Dense, a zero weight times infinity is NaN; here a pruned weight contributes nothing. So each channel of the
    # reference sees only the inputs that its non-zero weights read.
    expected = np.stack([_without_zero_weights(weight, node, x, channel) for channel in range(16)], axis=1)
    np.testing.assert_array_equal(actual, expected)
    assert np.isnan(actual).any() and np.isposinf(actual).any() and np.isfinite(actual).any()


def _without_zero_weights(weight: Array, node: Node, x: Array, channel: int) -> Array:
    """One output channel, summed over its non-zero weights in float32 by onnxruntime's rules of arithmetic."""
    assert node.bias is not None
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    total = np.full(x.shape[:1] + x.shape[2:], node.bias[channel], np.float32)
    with np.errstate(invalid="ignore"):
        for c, i, j in np.argwhere(weight[channel]):
            total += weight[channel, c, i, j] * padded[:, c, i : i + x.shape[2], j : j + x.shape[3]]
    return total


def test_denormals_are_kept_as_dense_onnxruntime_keeps_them() -> None:
    weight = np.zeros((16, 4, 1, 1), np.float32)
    weight[np.arange(16), np.arange(16) % 4] = 1
    node = Node(weight, bias=np.zeros(16, np.float32))
    x = np.full((1, 4, 5, 5), np.float32(1e-40))
    actual = session(sparse_model(node), native=True).run(None, {"x": x})[0]
    assert (actual != 0).all()
    np.testing.assert_array_equal(actual, session(dense_model(node)).run(None, {"x": x})[0])


def test_concurrent_runs_of_two_sessions_do_not_disturb_each_other() -> None:
    nodes = [
        Node(sparse_weight(0, 32, 16, 3, 3, block=4), 4, pads=(1, 1, 1, 1)),
        Node(sparse_weight(1, 48, 24, 1, 1), activation="relu"),
    ]
    inputs = [input_of(nodes[0], 1, 40, 40), input_of(nodes[1], 2, 33, 35)]
    sessions = [session(sparse_model(node), native=True, threads=2) for node in nodes]
    expected = [session(dense_model(node)).run(None, {"x": x})[0] for node, x in zip(nodes, inputs, strict=True)]

    def differences(worker: int) -> int:
        which = worker % 2
        runs = (sessions[which].run(None, {"x": inputs[which]})[0] for _ in range(25))
        return sum(int((run != expected[which]).sum()) for run in runs)

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(differences, range(4))) == [0] * 4


@pytest.mark.parametrize(
    ("x", "residual", "message"),
    [
        ((1, 5, 8, 8), (1, 16, 6, 6), r"expected x \[batch, 4, height, width\], but got \[1, 5, 8, 8\]"),
        ((1, 4, 2, 8), (1, 16, 6, 6), "expected at least 3 padded elements along spatial axis 0 .* but got 2"),
        ((1, 4, 0, 8), (1, 16, 6, 6), "expected at least 3 padded elements along spatial axis 0 .* but got 0"),
        ((1, 4, 8, 8), (1, 16, 6, 5), r"expected a residual of the output's shape \[1, 16, 6, 6\], but got"),
        ((2, 4, 8, 8), (1, 16, 6, 6), r"expected a residual of the output's shape \[2, 16, 6, 6\], but got"),
    ],
    ids=["channels", "smaller than the kernel", "no rows", "residual's width", "residual's batch"],
)
def test_tensors_that_do_not_fit_are_named(x: tuple[int, ...], residual: tuple[int, ...], message: str) -> None:
    node = Node(sparse_weight(0, 16, 4, 3, 3), residual=True, x_shape=("N", "C", "H", "W"))
    given = {"x": np.zeros(x, np.float32), "residual": np.zeros(residual, np.float32)}
    with pytest.raises(Exception, match=message):  # onnxruntime's errors have no narrower common base
        session(sparse_model(node, body=False), native=True).run(None, given)


def test_scratch_stays_bounded_and_is_reported() -> None:
    node = Node(sparse_weight(0, 16, 8, 3, 3), pads=(1, 1, 1, 1))
    opened = session(sparse_model(node), native=True)
    opened.run(None, {"x": input_of(node, 1, 64, 64)})
    scratch = library.load().lissom_scratch_bytes
    scratch.restype = np.ctypeslib.as_ctypes_type(np.int64)
    first = scratch()
    assert 0 < first < 2**24
    for batch in (1, 4):
        opened.run(None, {"x": input_of(node, batch, 64, 64)})
    assert scratch() == first
