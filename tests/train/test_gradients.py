"""Gradients are those of numerical differences, for every operator of the table that has any."""

from __future__ import annotations

import numpy as np
import pytest
from graph.onnx_text import parse

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train.table import OPERATORS
from lissom.train.torch_graph import TorchGraph

Shape = tuple[int, ...]

WITHOUT_GRADIENT = frozenset(
    {
        *("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or"),  # they give truth values
        "IsNaN",  # so does it
        *("ConstantOfShape", "Shape"),  # they look at shapes only
    }
)

SPACE: Shape = (2, 4, 5, 4)
ROWS: Shape = (3, 4)
STATISTICS: dict[str, Shape] = dict.fromkeys(("scale", "shift", "mean", "variance"), (4,))

CASES: dict[str, tuple[str, Shape, dict[str, Shape]]] = {
    "Abs": ("y = Abs(x)", ROWS, {}),
    "Add": ("y = Add(x, w)", ROWS, {"w": (4,)}),
    "AveragePool": ("y = AveragePool <kernel_shape = [2, 3], strides = [2, 1], pads = [1, 0, 0, 1]> (x)", SPACE, {}),
    "BatchNormalization": ("y = BatchNormalization(x, scale, shift, mean, variance)", SPACE, STATISTICS),
    "Cast": ("y = Cast <to = 1> (x)", ROWS, {}),
    "Ceil": ("y = Ceil(x)", ROWS, {}),
    "Clip": ("y = Clip(x, low, high)", ROWS, {"low": (), "high": ()}),
    "Concat": ("y = Concat <axis = 1> (x, w, x)", ROWS, {"w": (3, 2)}),
    "Conv": (
        "y = Conv <group = 2, strides = [2, 1], dilations = [1, 2], pads = [1, 1, 0, 2]> (x, w, b)",
        SPACE,
        {"w": (6, 2, 2, 2), "b": (6,)},
    ),
    "ConvTranspose": (
        "y = ConvTranspose <group = 2, strides = [2, 1], pads = [1, 0, 0, 1], output_padding = [1, 0]> (x, w, b)",
        SPACE,
        {"w": (4, 3, 2, 2), "b": (6,)},
    ),
    "DepthToSpace": ('y = DepthToSpace <blocksize = 2, mode = "CRD"> (x)', SPACE, {}),
    "Div": ("y = Div(x, w)", ROWS, {"w": (4,)}),
    "Dropout": ("y = Dropout(x)", ROWS, {}),
    "Elu": ("y = Elu <alpha = 0.7> (x)", ROWS, {}),
    "Erf": ("y = Erf(x)", ROWS, {}),
    "Exp": ("y = Exp(x)", ROWS, {}),
    "Expand": ("s = Shape(w) y = Expand(x, s)", (3, 1), {"w": (2, 1, 4)}),
    "Flatten": ("y = Flatten <axis = 2> (x)", SPACE, {}),
    "Floor": ("y = Floor(x)", ROWS, {}),
    "Gather": ("i = Constant <value_ints = [1, -1, 1]> () y = Gather <axis = 1> (x, i)", ROWS, {}),
    "Gelu": ('y = Gelu <approximate = "tanh"> (x)', ROWS, {}),
    "Gemm": ("y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (x, w, b)", ROWS, {"w": (5, 4), "b": (5,)}),
    "GlobalAveragePool": ("y = GlobalAveragePool(x)", SPACE, {}),
    "GlobalMaxPool": ("y = GlobalMaxPool(x)", SPACE, {}),
    "HardSigmoid": ("y = HardSigmoid(x)", ROWS, {}),
    "HardSwish": ("y = HardSwish(x)", ROWS, {}),
    "Identity": ("y = Identity(x)", ROWS, {}),
    "InstanceNormalization": ("y = InstanceNormalization(x, w, b)", SPACE, {"w": (4,), "b": (4,)}),
    "LRN": ("y = LRN <size = 3, alpha = 0.3> (x)", SPACE, {}),
    "LayerNormalization": ("y = LayerNormalization(x, w, b)", ROWS, {"w": (4,), "b": (4,)}),
    "LeakyRelu": ("y = LeakyRelu(x)", ROWS, {}),
    "Log": ("a = Abs(x) y = Log(a)", ROWS, {}),
    "LogSoftmax": ("y = LogSoftmax(x)", ROWS, {}),
    "MatMul": ("y = MatMul(x, w)", (2, 3, 4), {"w": (4, 5)}),
    "Max": ("y = Max(x, w)", ROWS, {"w": (4,)}),
    "MaxPool": ("y = MaxPool <kernel_shape = [2, 3], strides = [2, 1], pads = [1, 0, 0, 1]> (x)", SPACE, {}),
    "Min": ("y = Min(x, w)", ROWS, {"w": (4,)}),
    "Mish": ("y = Mish(x)", ROWS, {}),
    "Mul": ("y = Mul(x, w)", ROWS, {"w": (4,)}),
    "Neg": ("y = Neg(x)", ROWS, {}),
    "PRelu": ("y = PRelu(x, w)", SPACE, {"w": (4, 1, 1)}),
    "Pad": ('p = Constant <value_ints = [0, 1, 0, 2]> () y = Pad <mode = "reflect"> (x, p)', ROWS, {}),
    "Pow": ("a = Abs(x) y = Pow(a, w)", ROWS, {"w": (4,)}),
    "Reciprocal": ("y = Reciprocal(x)", ROWS, {}),
    "ReduceL2": ("i = Constant <value_ints = [1]> () y = ReduceL2 (x, i)", ROWS, {}),
    "ReduceMax": ("i = Constant <value_ints = [1]> () y = ReduceMax (x, i)", ROWS, {}),
    "ReduceMean": ("i = Constant <value_ints = [0]> () y = ReduceMean (x, i)", ROWS, {}),
    "ReduceMin": ("y = ReduceMin (x)", ROWS, {}),
    "ReduceSum": ("y = ReduceSum <keepdims = 0> (x)", ROWS, {}),
    "Relu": ("y = Relu(x)", ROWS, {}),
    "Reshape": ("s = Constant <value_ints = [0, 2, -1]> () y = Reshape(x, s)", ROWS, {}),
    "Resize": (
        'r = Constant <value_floats = [1.0, 1.0, 1.7, 0.6]> () y = Resize <mode = "linear"> (x, , r)',
        SPACE,
        {},
    ),
    "Round": ("y = Round(x)", ROWS, {}),
    "Shrink": ("y = Shrink <lambd = 0.6, bias = 0.2> (x)", ROWS, {}),
    "Sigmoid": ("y = Sigmoid(x)", ROWS, {}),
    "Slice": (
        "a = Constant <value_ints = [-1]> () b = Constant <value_ints = [-9]> () y = Slice(x, a, b, a, a)",
        ROWS,
        {},
    ),
    "Softmax": ("y = Softmax(x)", ROWS, {}),
    "Softplus": ("y = Softplus(x)", ROWS, {}),
    "SpaceToDepth": ("y = SpaceToDepth <blocksize = 2> (x)", (1, 2, 4, 6), {}),
    "Split": ("a, b = Split <axis = 1, num_outputs = 2> (x) c = Exp(a) y = Mul(c, b)", ROWS, {}),
    "Sqrt": ("a = Abs(x) y = Sqrt(a)", ROWS, {}),
    "Squeeze": ("y = Squeeze(x)", (3, 1, 2), {}),
    "Sub": ("y = Sub(x, w)", ROWS, {"w": (4,)}),
    "Sum": ("y = Sum(x, w, x)", ROWS, {"w": (4,)}),
    "Tanh": ("y = Tanh(x)", ROWS, {}),
    "ThresholdedRelu": ("y = ThresholdedRelu <alpha = 0.5> (x)", ROWS, {}),
    "TopK": ("k = Constant <value_ints = [2]> () y, i = TopK(x, k)", ROWS, {}),
    "Transpose": ("y = Transpose <perm = [1, 0]> (x)", ROWS, {}),
    "Unsqueeze": ("i = Constant <value_ints = [0, -1]> () y = Unsqueeze(x, i)", ROWS, {}),
    "Where": ("t = Greater(x, w) y = Where(t, x, w)", ROWS, {"w": (4,)}),
}
"""By operator: nodes that lead from x to y, the shape of x, and those of the constants."""


def away_from_kinks(seed: int, shape: Shape) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Numbers of either sign whose absolute values lie between 0.25 and 1.4 and differ by 0.001 at least."""
    rng = np.random.default_rng(seed)
    count = max(int(np.prod(shape)), 1)
    sizes = rng.permutation(np.linspace(0.25, 1.4, count + 1))[:count]
    return (sizes * rng.choice([-1.0, 1.0], count)).reshape(shape)


def test_every_operator_of_the_table_is_checked_or_has_no_gradient() -> None:
    assert CASES.keys() | WITHOUT_GRADIENT == OPERATORS.keys()
    assert not CASES.keys() & WITHOUT_GRADIENT


@pytest.mark.parametrize("operator", CASES)
def test_the_gradient_is_that_of_numerical_differences(operator: str) -> None:
    body, shape, constants = CASES[operator]
    assert f" {operator}" in body
    values = {name: away_from_kinks(seed, size) for seed, (name, size) in enumerate(constants.items(), 1)}
    if operator == "Clip":
        values = {"low": np.array(-0.631), "high": np.array(0.713)}
    if operator == "BatchNormalization":
        values["variance"] = np.abs(values["variance"])
    stored = {name: value.astype(np.float32) for name, value in values.items()}
    proto = parse(f"g (float[{', '.join(map(str, shape))}] x) => (float[] y) {{ {body} }}", 20, 9, **stored)
    trained = constants.keys() - {"mean", "variance"}
    graph = TorchGraph(proto, trained=lambda weight: weight.name in trained, dtype=torch.float64)
    slots = dict(graph.named_parameters())
    assert len(slots) == len(trained)
    x = torch.from_numpy(away_from_kinks(0, shape)).requires_grad_()

    def y(x: object, *parameters: object) -> object:
        return torch.func.functional_call(graph, dict(zip(slots, parameters, strict=True)), ({"x": x},))["y"]

    assert y(x, *slots.values()).dtype == torch.float64
    assert torch.autograd.gradcheck(y, (x, *slots.values()))


def test_a_constant_that_two_nodes_read_has_the_sum_of_both_gradients() -> None:
    text = "g (float[2, 3] x) => (float[2, 3] y) { a = MatMul(x, w) y = MatMul(a, w) }"
    weight = away_from_kinks(1, (3, 3)).astype(np.float32)
    graph = TorchGraph(parse(text, w=weight), dtype=torch.float64)
    x = torch.from_numpy(away_from_kinks(2, (2, 3)))
    graph({"x": x})["y"].sum().backward()
    w = torch.from_numpy(weight).double().requires_grad_()
    (x @ w @ w).sum().backward()
    (parameter,) = graph.trained().values()
    torch.testing.assert_close(parameter.grad, w.grad)
