"""The operators as a library: names, registration, shape inference, what is shared and what is not."""

import ctypes
from collections.abc import Sequence

import numpy as np
import onnx
import onnx.helper
import onnxruntime
import pytest
from lissom_runtime import contract, library, register
from lissom_runtime.contract import ChainSignature, operator_names
from runtime.chain_models import Chain, chain_model
from runtime.ops_models import Node, dense_model, integers, open_session, session, sparse_model, sparse_weight

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]


def test_the_library_and_the_contract_list_the_same_names_in_the_same_order() -> None:
    function = library.load().lissom_operator_names
    function.restype, function.argtypes = ctypes.POINTER(ctypes.c_char_p), [ctypes.POINTER(ctypes.c_int64)]
    count = ctypes.c_int64()
    names = [name.decode() for name in function(ctypes.byref(count))[: count.value] if name]
    assert names == operator_names()
    assert len(set(names)) == len(names)


def test_many_options_can_register_the_same_library() -> None:
    node = Node(sparse_weight(0, 16, 24))
    x = integers(0, 2, 24)
    sessions = [session(sparse_model(node), native=True) for _ in range(3)]
    first, *others = (opened.run(None, {"x": x})[0].tobytes() for opened in sessions)
    assert all(other == first for other in others)


def test_sessions_that_share_an_initializer_read_it_where_it_lies() -> None:
    node = Node(sparse_weight(0, 16, 24, block=4), 4, bias=np.zeros(16, np.float32))
    values = node.packed.values.copy()
    shared = onnxruntime.OrtValue.ortvalue_from_numpy(values)  # no copy on the CPU
    x = integers(0, 2, 24)

    def opened() -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        register(options)
        options.add_initializer("values", shared)
        content = sparse_model(node).SerializeToString()
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    sessions = [opened(), opened()]
    before = sessions[0].run(None, {"x": x})[0]
    values *= 2
    for each in sessions:
        np.testing.assert_array_equal(each.run(None, {"x": x})[0], 2 * before)


def test_a_model_without_sparse_operators_runs_as_before() -> None:
    node = Node(sparse_weight(0, 16, 24))
    (y,) = session(dense_model(node), native=True).run(None, {"x": integers(0, 2, 24)})
    assert y.shape == (2, 16)


def test_without_the_library_and_without_a_body_the_operator_is_unknown() -> None:
    with pytest.raises(Exception, match=contract.DOMAIN):
        session(sparse_model(Node(sparse_weight(0, 16, 24)), body=False))


def one_of(layer: Node | Chain, *, body: bool = True) -> onnx.ModelProto:
    """A model of the operator alone."""
    return sparse_model(layer, body=body) if isinstance(layer, Node) else chain_model(layer, body=body)


def undeclared(
    layer: Node | Chain, x: Sequence[int | str], residual: Sequence[int | str] | None = None
) -> onnxruntime.InferenceSession:
    """A session of a model that does not declare the output's shape."""
    model = one_of(layer, body=False)
    given = {"x": x, **({"residual": residual} if residual is not None else {})}
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.ClearField("shape")
        if value.name in given:
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, given[value.name]))
    return session(model, native=True)


def inferred(
    layer: Node | Chain, x: Sequence[int | str], residual: Sequence[int | str] | None = None
) -> list[int | str]:
    """Shape of the output that onnxruntime infers."""
    shape: list[int | str] = undeclared(layer, x, residual).get_outputs()[0].shape
    return shape


GEMM = Node(sparse_weight(0, 16, 24))
GEMM_ADD = Node(sparse_weight(0, 16, 24), residual=True)
CONV = Node(sparse_weight(0, 16, 8, 3, 3))
CONV_ADD = Node(sparse_weight(0, 16, 8, 3, 3), residual=True)
CHAIN = Chain(ChainSignature("expanded_depthwise", "bitmap", "hard_swish", "hard_swish"), (8, 16, 16))
CHAIN_ADD = Chain(ChainSignature("inverted_residual", "bitmap", "clip", "none", residual=True), (8, 24, 24, 16))


@pytest.mark.parametrize(
    ("x", "expected"),
    [((3, 24), [3, 16]), (("N", 24), ["N", 16]), (("N", "M", 5, 24), ["N", "M", 5, 16]), (("N", "K"), ["N", 16])],
)
def test_the_shape_of_a_product_is_inferred(x: tuple[int | str, ...], expected: list[int | str]) -> None:
    assert inferred(GEMM, x) == expected


@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize("layer", [CONV, CHAIN], ids=["convolution", "chain"])
def test_batch_and_channels_of_a_convolution_or_chain_are_inferred(layer: Node | Chain, batch: int | str) -> None:
    shape = inferred(layer, (batch, 8, 10, 12))
    assert shape[:2] == [batch, 16]
    assert len(shape) == 4 and shape[2] != shape[3]


@pytest.mark.parametrize("residual", [(2, 16, 8, 10), ("N", 16, "H", "W")])
@pytest.mark.parametrize("layer", [CONV_ADD, CHAIN_ADD], ids=["convolution", "chain"])
def test_a_residual_tells_the_rest(layer: Node | Chain, residual: tuple[int | str, ...]) -> None:
    assert inferred(layer, ("N", 8, 10, 12), residual)[1:] == list(residual[1:])


@pytest.mark.parametrize(
    ("layer", "x", "residual", "message"),
    [
        (CONV, (2, 8, 10), None, r"expected x \[batch, 8, height, width\], but got \[2, 8, 10\]"),
        (GEMM, (24,), None, r"expected x of at least two axes, the last of 24, but got \[24\]"),
        (CONV_ADD, (2, 8, 10, 12), (2, 16, 8), "expected a residual of the output's shape"),
        (CHAIN, (8, 10, 12), None, r"expected x \[batch, 8, height, width\], but got \[8, 10, 12\]"),
        (GEMM_ADD, (2, 24), (16,), "expected a residual of the output's shape"),
        (CHAIN_ADD, (2, 8, 10, 12), (2, 16, 10), "expected a residual of the output's shape"),
    ],
    ids=[
        *("x of a convolution", "x of a product", "residual of a convolution", "x of a chain"),
        *("residual of a product", "residual of a chain"),
    ],
)
def test_ranks_that_do_not_fit_are_named_by_the_run(
    layer: Node | Chain, x: tuple[int, ...], residual: tuple[int, ...] | None, message: str
) -> None:
    opened = undeclared(layer, x, residual)
    given = {"x": integers(0, *x), **({"residual": integers(0, *residual)} if residual else {})}
    with pytest.raises(Exception, match=message):  # onnxruntime's errors have no narrower common base
        opened.run(None, given)


HALVES = [
    Node(sparse_weight(0, 8, 8, 3, 3), pads=(1, 1, 1, 1), strides=(2, 2)),
    Chain(ChainSignature("inverted_residual", "delta8", "clip", "clip"), (8, 16, 16, 8), strides=(2, 2)),
]


@pytest.mark.parametrize("half", HALVES, ids=["convolutions", "chains"])
def test_nodes_in_a_row_keep_free_extents_apart(half: Node | Chain) -> None:
    model = one_of(half)
    first = model.graph.node[0]
    first.output[0] = "middle"
    second = onnx.NodeProto()
    second.CopyFrom(first)
    second.name, second.input[0], second.output[0] = "second", "middle", "y"
    model.graph.node.append(second)
    x = integers(0, 1, 8, 30, 21)
    native, portable = open_session(model.SerializeToString(), native=True), session(model)
    for given in (x, x[:, :, :11, :13]):
        (actual,), (expected,) = native.run(None, {"x": given}), portable.run(None, {"x": given})
        assert actual.tobytes() == expected.tobytes()
