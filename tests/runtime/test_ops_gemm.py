"""SparseGemm in sessions: the kernels, the function body and the dense product give one answer."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from lissom_runtime import library
from lissom_runtime.contract import (
    ACTIVATIONS,
    COLUMNS,
    ORIENTATIONS,
    Activation,
    Columns,
    Orientation,
    Signature,
    signatures,
)
from runtime.ops_models import (
    ROUNDED,
    Array,
    Node,
    dense_model,
    extremes,
    feeds,
    integers,
    random_floats,
    session,
    sparse_model,
    sparse_weight,
)

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]


def agree(node: Node, shapes: list[tuple[int, ...]]) -> None:
    """Kernels, body and dense model give the same for inputs of all shapes, each in one session."""
    sparse = sparse_model(node)
    native, portable, dense = session(sparse, native=True), session(sparse), session(dense_model(node))
    for shape in shapes:
        given = feeds(node, integers(sum(shape), *shape))
        expected = dense.run(None, given)[0]
        for model in (native, portable):
            np.testing.assert_array_equal(model.run(None, given)[0], expected)


@pytest.mark.parametrize("depth", [1, 15, 16, 17, 100, 513])
@pytest.mark.parametrize("rows", [1, 31, 64, 130])
def test_every_batch_is_exact_in_one_session(rows: int, depth: int) -> None:
    node = Node(sparse_weight(rows, rows, depth))
    agree(node, [(m, depth) for m in (1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 64, 97, 200)])


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("block", [1, 2, 4, 8, 16])
def test_every_block_orientation_and_format_is_exact(block: int, orientation: Orientation, columns: Columns) -> None:
    weight = sparse_weight(block, 80, 160, block=block, orientation=orientation)
    agree(Node(weight, block, orientation, columns, "relu"), [(1, 160), (9, 160)])


@pytest.mark.parametrize("shape", [(2, 3, 24), (1, 2, 3, 24), (5, 1, 1, 2, 24)])
@pytest.mark.parametrize("residual", [False, True])
def test_leading_axes_are_kept(shape: tuple[int, ...], residual: bool) -> None:
    free = tuple("ABCDE"[: len(shape) - 1])
    agree(Node(sparse_weight(1, 16, 24), residual=residual, x_shape=(*free, 24)), [shape])


@pytest.mark.parametrize("signature", [s for s in signatures() if s.operator == "SparseGemm"], ids=lambda s: s.name)
def test_every_operator_runs_natively_and_agrees(signature: Signature) -> None:
    weight = sparse_weight(3, 32, 40, block=4, orientation=signature.orientation)
    node = Node(weight, 4, signature.orientation, signature.columns, signature.activation, signature.residual)
    assert node.signature == signature
    given = feeds(node, integers(4, 6, 40))
    actual = session(sparse_model(node, body=False), native=True).run(None, given)[0]
    expected = session(dense_model(node)).run(None, given)[0]
    tolerance = 2e-6 if signature.activation in ROUNDED else 0.0
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("rows", [3, 15], ids=["rows as they lie", "rows in a panel"])
def test_activations_of_extreme_sums_are_those_of_dense_onnxruntime(activation: Activation, rows: int) -> None:
    node = Node(np.ones((17, 1), np.float32), activation=activation, bias=np.zeros(17, np.float32))
    native, dense = session(sparse_model(node), native=True), session(dense_model(node))
    tolerance = 2e-6 if activation in ROUNDED else 0.0
    for x in extremes().reshape(-1, rows, 1):
        expected = dense.run(None, {"x": x})[0]
        np.testing.assert_allclose(native.run(None, {"x": x})[0], expected, rtol=tolerance, atol=tolerance)


def test_an_empty_batch_gives_an_empty_output() -> None:
    node = Node(sparse_weight(0, 16, 24))
    (y,) = session(sparse_model(node), native=True).run(None, {"x": np.zeros((0, 24), np.float32)})
    assert y.shape == (0, 16)


@pytest.mark.parametrize("rows", [3, 70])
def test_a_residual_whose_memory_becomes_the_outputs_is_exact(rows: int) -> None:
    node = Node(sparse_weight(0, 64, 48, block=4), 4, residual=True)
    given = feeds(node, integers(1, rows, 48))
    actual = session(sparse_model(node, residual_of_relu=True), native=True).run(None, given)[0]
    given["residual"] = np.maximum(given["residual"], 0)
    np.testing.assert_array_equal(actual, session(dense_model(node)).run(None, given)[0])


@pytest.mark.parametrize("rows", [1, 64])
def test_the_thread_count_does_not_change_a_bit(rows: int) -> None:
    weight = np.where(sparse_weight(0, 1024, 1024, block=4) != 0, random_floats(1, 1024, 1024), 0)
    node = Node(weight, 4)
    x = random_floats(2, rows, 1024)
    one, two = (session(sparse_model(node), native=True, threads=threads).run(None, {"x": x})[0] for threads in (1, 2))
    np.testing.assert_array_equal(one.view(np.uint32), two.view(np.uint32))


@pytest.mark.parametrize("rows", [1, 40])
def test_rounding_stays_within_the_bound_of_the_sum(rows: int) -> None:
    weight = np.where(sparse_weight(0, 48, 700) != 0, random_floats(1, 48, 700), 0)
    node = Node(weight)
    x = random_floats(2, rows, 700)
    actual = session(sparse_model(node), native=True).run(None, {"x": x})[0]
    assert node.bias is not None
    wide_x, wide_weight, wide_bias = (array.astype(np.float64) for array in (x, weight, node.bias))
    magnitude = np.abs(wide_x) @ np.abs(wide_weight.T) + np.abs(wide_bias)
    terms = int((weight != 0).sum(axis=1).max()) + 1
    bound = terms * np.finfo(np.float32).eps / 2 * magnitude * 1.01
    assert (np.abs(actual - (wide_x @ wide_weight.T + wide_bias)) <= bound).all()


def mostly_zero(seed: int, *shape: int) -> Array:
    """Small integers as floats, four of five of them zero."""
    return integers(seed, *shape) * (np.random.default_rng(seed + 1).random(shape) < 0.2)


@pytest.mark.parametrize("block", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("residual", [False, True])
def test_vectors_of_many_zeros_are_exact_beside_others_in_one_session(block: int, residual: bool) -> None:
    node = Node(sparse_weight(block, 1024, 512, block=block), block, activation="relu", residual=residual)
    native, dense = session(sparse_model(node), native=True, threads=2), session(dense_model(node))
    rows = [mostly_zero(2, 1, 512), integers(3, 1, 512), np.zeros((1, 512), np.float32), mostly_zero(4, 1, 512)]
    for x in (*rows, np.concatenate(rows[:3]), np.concatenate(rows[2:]), np.concatenate(rows)):
        given = feeds(node, x.astype(np.float32))
        np.testing.assert_array_equal(native.run(None, given)[0], dense.run(None, given)[0])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.29, 0.31, 1.0])
def test_a_row_gives_the_same_bits_alone_and_beside_others_on_any_threads(share: float) -> None:
    weight = np.where(sparse_weight(0, 1024, 700, block=4) != 0, random_floats(1, 1024, 700), 0)
    node = Node(weight, 4)
    x = random_floats(2, 3, 700) * (np.random.default_rng(3).random((3, 700)) < share)
    one, two = (session(sparse_model(node), native=True, threads=threads) for threads in (1, 2))
    together = one.run(None, {"x": x.astype(np.float32)})[0]
    alone = np.concatenate([two.run(None, {"x": row[None].astype(np.float32)})[0] for row in x])
    np.testing.assert_array_equal(together.view(np.uint32), alone.view(np.uint32))


def test_nan_and_infinity_are_no_zeros() -> None:
    node = Node(sparse_weight(0, 64, 100))
    x = np.zeros((1, 100), np.float32)
    x[0, [3, 50]] = np.nan, np.inf
    actual, expected = (
        opened.run(None, {"x": x})[0]
        for opened in (session(sparse_model(node), native=True), session(sparse_model(node)))
    )
    assert node.bias is not None
    stored = node.weight[:, [3, 50]] != 0
    np.testing.assert_array_equal(np.isnan(actual[0]), stored[:, 0])
    np.testing.assert_array_equal(np.isinf(actual[0]), stored[:, 1] & ~stored[:, 0])
    np.testing.assert_array_equal(actual[0][~stored.any(axis=1)], node.bias[~stored.any(axis=1)])
    assert np.isnan(expected).all()


def test_concurrent_runs_that_meet_zeros_first_do_not_disturb_each_other() -> None:
    node = Node(sparse_weight(0, 1024, 512, block=4), 4)
    inputs = [mostly_zero(seed, 1, 512).astype(np.float32) for seed in range(4)]
    dense = session(dense_model(node))
    expected = [dense.run(None, {"x": x})[0] for x in inputs]
    for _ in range(5):
        native = session(sparse_model(node), native=True, threads=2)
        with ThreadPoolExecutor(4) as executor:
            results = list(executor.map(lambda x: native.run(None, {"x": x})[0], inputs))  # noqa: B023  run here
        np.testing.assert_array_equal(results, expected)


def test_concurrent_runs_of_one_session_do_not_disturb_each_other() -> None:
    node = Node(sparse_weight(0, 256, 128, block=4), 4)
    inputs = [integers(seed, rows, 128) for seed, rows in enumerate((1, 40, 90, 200))]
    native, dense = session(sparse_model(node), native=True, threads=2), session(dense_model(node))
    expected = [dense.run(None, {"x": x})[0] for x in inputs]

    def differences(worker: int) -> int:
        runs = (native.run(None, {"x": inputs[worker]})[0] for _ in range(25))
        return sum(int((run != expected[worker]).sum()) for run in runs)

    with ThreadPoolExecutor(4) as executor:
        assert list(executor.map(differences, range(4))) == [0] * 4


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ((3, 23), r"expected x of at least two axes, the last of 24, but got \[3, 23\]"),
        ((24,), "expected x of at least two axes"),
        ((1,) * 16 + (24,), "expected a tensor of at most 16 axes, but got 17"),
    ],
)
def test_tensors_that_do_not_fit_are_named(x: tuple[int, ...], message: str) -> None:
    model = sparse_model(Node(sparse_weight(0, 16, 24)), body=False)
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match=message):  # onnxruntime's errors have no narrower common base
        session(model, native=True).run(None, {"x": np.zeros(x, np.float32)})
