"""Runs of layers that can be one SparseChain become one, compute the same, and stay apart where a condition fails."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from graph.onnx_text import Arrays, floats, model, run
from lissom.graph.model import PROVENANCE_KEY, Model
from lissom.graph.naming import name_nodes
from lissom.graph.shapes import infer_shapes
from lissom.lowering.chains import find_chain
from lissom.lowering.decide import Decisions, decide
from lissom.lowering.propose import propose, sources
from lissom.observe import observe_shapes
from lissom_runtime.contract import CHAIN_ACTIVATIONS, CHAIN_SHAPES, CHAIN_STAGES, ChainShape
from lissom_runtime.packing import pack, unpack

pytestmark = pytest.mark.ort

EXPAND, PROJECT = "{0} = Conv({1}, we, be)", "{0} = Conv({1}, wp, bp)"
DEPTHWISE = "{0} = Conv<pads = [1, 1, 1, 1], group = 24>({1}, wd, bd)"
SPATIAL = "{0} = Conv<pads = [1, 1, 1, 1]>({1}, ws, bs)"
LAYERS = {"expand": EXPAND, "depthwise": DEPTHWISE, "spatial": SPATIAL, "project": PROJECT}

ACTIVATIONS: Mapping[str, Sequence[str]] = {
    "clip": ("Identity", "Relu", "Clip({0}, low, high)", "Clip({0}, low)", "Clip({0}, , high)"),
    "hard_swish": ("HardSwish",),
    "silu": ("Sigmoid",),
    "none": ("Identity",),
    "relu": ("Relu",),
}
"""The forms that each activation of a contract name has in a file."""


def sparse(seed: int, *shape: int, density: float = 0.25) -> npt.NDArray[np.float32]:
    """Four output channels share one pattern."""
    kept = np.random.default_rng(seed).random((shape[0] // 4, 1, *shape[1:])) < density
    return floats(seed, *shape) * kept.repeat(4, axis=1).reshape(shape)


CONSTANTS: Arrays = {
    "we": sparse(1, 24, 16, 1, 1),
    "be": floats(2, 24),
    "wd": floats(3, 24, 1, 3, 3) / 3,
    "bd": floats(4, 24),
    "ws": sparse(5, 24, 24, 3, 3),
    "bs": floats(6, 24),
    "wp": sparse(7, 16, 24, 1, 1),
    "bp": floats(8, 16),
    "low": np.array(-0.5, np.float32),
    "high": np.array(0.7, np.float32),
}


def net(body: str, ins: str = "", outs: str = "", channels: int = 16, **constants: npt.NDArray[np.float32]) -> Model:
    """A model of x[N, channels, 9, 7] with the constants above."""
    text = f"net (float[N, {channels}, 9, 7] x{ins}) => (float[N, C, H, W] y{outs}) {{ {body} }}"
    used = {name: values for name, values in (CONSTANTS | constants).items() if name in body}
    return model(text, **used)


def activated(form: str, source: str, target: str) -> str:
    """The nodes of one activation."""
    if form == "Sigmoid":
        return f"{target}g = Sigmoid({source}) {target} = Mul({source}, {target}g)"
    if form == "Identity":
        return ""
    return f"{target} = {form.format(source) if '(' in form else f'{form}({source})'}"


def chain_text(shape: ChainShape, inner: str, last: str, residual: bool) -> str:
    """The layers of a shape with their activations, from x to y; "s<n>" is the sum of layer n, "a<n>" activated."""
    stages, parts, source = CHAIN_STAGES[shape], [], "x"
    for number, stage in enumerate(stages):
        is_last = number + 1 == len(stages)
        form = last if is_last else inner
        total, result = f"s{number}", "y" if is_last else f"a{number}"
        plain = result if form == "Identity" else total
        if is_last and residual:
            parts += [LAYERS[stage].format("c", source), f"{plain} = Add(c, r)"]
        else:
            parts.append(LAYERS[stage].format(plain, source))
        parts.append(activated(form, total, result))
        source = result
    return " ".join(parts)


def feeds_of(loaded: Model, batch: int) -> Arrays:
    """Inputs of a model, drawn from their place."""
    shapes = {value.name: [d.dim_value or batch for d in value.type.tensor_type.shape.dim] for value in loaded.inputs}
    return {name: floats(number, *shape) for number, (name, shape) in enumerate(shapes.items())}


def lowered(loaded: Model, exclude: str | None = None) -> tuple[Model, Decisions]:
    """A copy with all that is sparse lowered, untimed."""
    edited = loaded.copy()
    name_nodes(edited)
    infer_shapes(edited)
    shapes = observe_shapes(edited, sources(edited), feeds_of(loaded, 1))
    return edited, decide(edited, propose(edited, shapes, exclude=exclude), shapes, None)


def operators(loaded: Model) -> list[str]:
    """What a model is lowered to, which computes the same at another batch."""
    edited, _ = lowered(loaded)
    feeds = feeds_of(loaded, 3)
    for got, wanted in zip(run(edited, feeds), run(loaded, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)
    return [node.op for node in edited.graph.nodes]


SIGNATURES = [
    (shape, inner, last, residual)
    for shape in CHAIN_SHAPES
    for inner, last, residual in CHAIN_ACTIVATIONS
    if not (residual and shape == "expanded_depthwise")
]


@pytest.mark.parametrize(("shape", "inner", "last", "residual"), SIGNATURES, ids=lambda value: str(value))
def test_layers_in_one_of_the_shapes_become_one_node(shape: ChainShape, inner: str, last: str, residual: bool) -> None:
    channels = 24 if shape == "depthwise_separable" else 16
    ins = ", float[N, 16, 9, 7] r" if residual else ""
    text = chain_text(shape, ACTIVATIONS[inner][-1], ACTIVATIONS[last][-1], residual)
    wanted = f"SparseChain_{shape}_bitmap_{inner}{'_add' if residual else ''}{'' if last == 'none' else '_' + last}"
    assert operators(net(text, ins, channels=channels)) == [wanted]


@pytest.mark.parametrize("last", ACTIVATIONS["clip"])
@pytest.mark.parametrize("inner", ACTIVATIONS["clip"])
def test_none_and_relu_and_every_clip_are_a_clip(inner: str, last: str) -> None:
    text = chain_text("inverted_residual", inner, last, residual=False)
    assert operators(net(text)) == ["SparseChain_inverted_residual_bitmap_clip_clip"]


def test_a_clip_behind_a_residual_is_left_where_it_is() -> None:
    text = chain_text("inverted_residual", "Relu", "Clip({0}, low, high)", residual=True)
    ops = operators(net(text, ", float[N, 16, 9, 7] r"))
    assert not any(op.startswith("SparseChain_inverted_residual") for op in ops)


def test_activations_of_different_layers_have_limits_of_their_own() -> None:
    text = (
        f"{EXPAND.format('e', 'x')} a = Clip(e, low, high) {DEPTHWISE.format('d', 'a')} b = Relu(d) "
        f"{PROJECT.format('y', 'b')}"
    )
    assert operators(net(text)) == ["SparseChain_inverted_residual_bitmap_clip_clip"]


def test_the_geometry_of_the_middle_layer_is_kept() -> None:
    strided = "d = Conv<strides = [2, 1], pads = [1, 0, 2, 3], dilations = [1, 2], group = 24>(e, wd)"
    assert operators(net(f"{EXPAND.format('e', 'x')} {strided} {PROJECT.format('y', 'd')}")) == [
        "SparseChain_inverted_residual_bitmap_clip_clip"
    ]
    for sparse_one in (
        's = Conv<auto_pad = "SAME_UPPER">(e, ws)',
        "s = Conv<strides = [2, 3], pads = [1, 0, 2, 3], dilations = [1, 2]>(e, ws)",
    ):
        assert operators(net(f"{EXPAND.format('e', 'x')} {sparse_one} {PROJECT.format('y', 's')}")) == [
            "SparseChain_bottleneck_bitmap_clip_clip"
        ]


E, S, P = EXPAND.format("e", "x"), SPATIAL.format("s", "e"), PROJECT.format("y", "s")
D, LAST_D, FIRST_D = DEPTHWISE.format("d", "e"), DEPTHWISE.format("y", "e"), DEPTHWISE.format("d", "x")
LAST_P, AFTER_A = PROJECT.format("y", "d"), DEPTHWISE.format("y", "a")

APART: Mapping[str, tuple[str, Arrays, int]] = {
    "expand is 3 × 3": (f"e = Conv(x, we) {LAST_D}", {"we": sparse(1, 24, 16, 3, 3)}, 1),
    "expand strides": (f"e = Conv<strides = [2, 1]>(x, we) {LAST_D}", {}, 1),
    "expand pads": (f"e = Conv<pads = [0, 0, 0, 1]>(x, we) {LAST_D}", {}, 1),
    "expand is grouped": (f"e = Conv<group = 2>(x, we) {LAST_D}", {"we": sparse(1, 24, 8, 1, 1)}, 1),
    "expand is dense": (f"{E} {LAST_D}", {"we": floats(1, 24, 16, 1, 1)}, 0),
    "expand has blocks along its columns": (f"{E} {LAST_D}", {"we": sparse(1, 16, 24, 1, 1).swapaxes(0, 1)}, 1),
    "two channels make one": (f"{E} y = Conv<group = 12>(e, wd)", {"wd": floats(3, 12, 2, 3, 3)}, 1),
    "one channel makes two": (f"{E} y = Conv<group = 24>(e, wd)", {"wd": floats(3, 48, 1, 3, 3)}, 1),
    "spatial is grouped": (f"{E} s = Conv<group = 2>(e, ws) {P}", {"ws": sparse(5, 24, 12, 3, 3)}, 3),
    "spatial is dense": (f"{E} {S} {P}", {"ws": floats(5, 24, 24, 3, 3)}, 2),
    "spatial is 1 × 1": (f"{E} s = Conv(e, ws) {P}", {"ws": sparse(5, 24, 24, 1, 1)}, 3),
    "there is no project": (f"{E} {SPATIAL.format('y', 'e')}", {}, 2),
    "something is between": (f"{E} a = Softplus(e) {AFTER_A}", {}, 1),
    "activations are no pair": (f"{E} a = Relu(e) {DEPTHWISE.format('d', 'a')} y = HardSwish(d)", {}, 1),
    "the first activation is in no name": (f"{E} a = LeakyRelu(e) {AFTER_A}", {}, 1),
    "the last activation is in no name": (f"{E} {D} y = LeakyRelu(d)", {}, 1),
    "limits depend on the input": (f"{E} n = ReduceMin<keepdims = 0>(x) a = Clip(e, n) {AFTER_A}", {}, 1),
    "a row does not fit into the scratch": (
        f"{E} y = Conv<pads = [1300000, 1, 1300000, 1], dilations = [1300000, 1], group = 24>(e, wd, bd)", {}, 1
    ),
    "a residual is added within": (f"{E} h = Concat<axis = 1>(x, k) a = Add(e, h) {AFTER_A}", {}, 1),
    "a residual is added to a depthwise layer": (f"h = Concat<axis = 1>(x, k) {E} {D} y = Add(d, h)", {}, 1),
}  # fmt: skip
FROM_DEPTHWISE: Mapping[str, tuple[str, Arrays, int]] = {
    "project is 3 × 3": (f"{FIRST_D} y = Conv(d, wp)", {"wp": sparse(7, 16, 24, 3, 3)}, 1),
    "project strides": (f"{FIRST_D} y = Conv<strides = [1, 2]>(d, wp)", {}, 1),
    "project pads": (f"{FIRST_D} y = Conv<pads = [1, 0, 0, 0]>(d, wp)", {}, 1),
    "project is grouped": (f"{FIRST_D} y = Conv<group = 2>(d, wp)", {"wp": sparse(7, 16, 12, 1, 1)}, 1),
    "project is dense": (f"{FIRST_D} {LAST_P}", {"wp": floats(7, 16, 24, 1, 1)}, 0),
    "project has blocks along its columns": (f"{FIRST_D} {LAST_P}", {"wp": sparse(7, 24, 16, 1, 1).swapaxes(0, 1)}, 1),
}  # fmt: skip


def require_apart(loaded: Model, singles: int) -> None:
    """No chain, and so many sparse layers by themselves."""
    ops = operators(loaded)
    assert not [op for op in ops if op.startswith("SparseChain")]
    assert sum(op.startswith("SparseConv") for op in ops) == singles


@pytest.mark.parametrize(("body", "constants", "singles"), APART.values(), ids=APART.keys())
def test_layers_stay_apart_where(body: str, constants: Arrays, singles: int) -> None:
    require_apart(net(body, ", float[N, 8, 9, 7] k" if " k)" in body else "", **constants), singles)


@pytest.mark.parametrize(("body", "constants", "singles"), FROM_DEPTHWISE.values(), ids=FROM_DEPTHWISE.keys())
def test_a_depthwise_layer_stays_alone_where(body: str, constants: Arrays, singles: int) -> None:
    require_apart(net(body, channels=24, **constants), singles)


@pytest.mark.parametrize("shape", CHAIN_SHAPES)
@pytest.mark.parametrize("other", ["z = Neg(a0)", "z = Identity(a0)"])
def test_a_tensor_that_is_read_elsewhere_stays(shape: ChainShape, other: str) -> None:
    body = chain_text(shape, "Relu", "Relu", residual=False) + f" {other}"
    ops = operators(net(body, outs=", float[N, K, H, W] z", channels=24 if shape == "depthwise_separable" else 16))
    assert not any(op.startswith(f"SparseChain_{shape}") for op in ops)


def test_an_output_of_the_graph_stays() -> None:
    body = chain_text("expanded_depthwise", "Relu", "Relu", residual=False)
    require_apart(net(body, outs=", float[N, 24, 9, 7] a0"), 1)


def test_a_tensor_that_a_branch_reads_stays() -> None:
    branch = "c = Greater(t, t) z = If(c)<then_branch = g () => (float[N, K, H, W] p) {{ p = Neg({0}) }}, "
    branch += "else_branch = h () => (float[N, K, H, W] q) {{ q = Identity(x) }}>"
    body = f"t = ReduceMax<keepdims = 0>(x) {branch.format('a0')} "
    first, rest = chain_text("expanded_depthwise", "Relu", "Relu", residual=False).split(" s1", 1)
    require_apart(net(f"{first} {body} s1{rest}", outs=", float[N, K, H, W] z"), 1)


def test_a_weight_that_is_no_constant_ends_a_chain() -> None:
    body = f"{E} y = Conv<pads = [1, 1, 1, 1], group = 24>(e, k)"
    require_apart(net(body, ", float[24, 1, 3, 3] k"), 1)
    body = f"{E} y = Conv<pads = [1, 1, 1, 1], group = 24>(e, wd, k)"
    require_apart(net(body, ", float[24] k"), 1)


def test_a_layer_that_is_excluded_is_in_no_chain() -> None:
    loaded = net(f"{E} {LAST_D}")
    edited, decisions = lowered(loaded, exclude="Conv_y")
    assert [node.op for node in edited.graph.nodes] == ["SparseConv_bitmap", "Conv"]
    assert [(refusal.site, "finds its name" in refusal.reason) for refusal in decisions.refusals] == [("Conv_y", True)]


def test_activations_that_end_one_shape_leave_another() -> None:
    unlike = f"{E} a = Relu(e) {DEPTHWISE.format('d', 'a')} b = HardSwish(d) {PROJECT.format('y', 'b')}"
    assert operators(net(unlike)) == [
        "SparseConv_bitmap_relu",
        "SparseChain_depthwise_separable_bitmap_hard_swish_clip",
    ]
    wide = f"{E} {D} {PROJECT.format('p', 'd')} y = HardSwish(p)"
    assert operators(net(wide)) == ["SparseChain_expanded_depthwise_bitmap_clip_clip", "SparseConv_bitmap_hard_swish"]
    gated = f"{E} {D} g = GlobalAveragePool(d) m = Mul(d, g) {PROJECT.format('y', 'm')}"
    assert operators(net(gated))[0] == "SparseChain_expanded_depthwise_bitmap_clip_clip"


def test_each_layer_is_in_at_most_one_chain_and_the_longest_wins() -> None:
    e2, d2, p2 = EXPAND.format("f", "p"), DEPTHWISE.format("h", "f"), PROJECT.format("y", "h")
    blocks = f"{E} {D} {PROJECT.format('p', 'd')} {e2} {d2} {p2}"
    assert operators(net(blocks)) == ["SparseChain_inverted_residual_bitmap_clip_clip"] * 2
    d2, p2 = "h = Conv<group = 16>(p, wq)", "y = Conv(h, we)"
    pairs = f"{FIRST_D} {PROJECT.format('p', 'd')} {d2} {p2}"
    loaded = net(pairs, channels=24, wq=floats(9, 16, 1, 3, 3))
    assert operators(loaded) == ["SparseChain_depthwise_separable_bitmap_clip_clip"] * 2


def test_of_two_chains_that_are_added_one_takes_the_sum_and_reads_the_other() -> None:
    second = f"{EXPAND.format('f', 'x')} {DEPTHWISE.format('h', 'f')} {PROJECT.format('q', 'h')}"
    body = f"{E} {D} {PROJECT.format('p', 'd')} {second} s = Add(p, q) y = Relu(s)"
    operator = "SparseChain_inverted_residual_bitmap_clip"
    assert operators(net(body)) == [f"{operator}_clip", f"{operator}_add_relu"]


@pytest.mark.parametrize("shortcut_is_first", [False, True])
def test_a_chain_takes_the_sum_with_a_single_layer(shortcut_is_first: bool) -> None:
    parts = [f"{E} {D} {PROJECT.format('p', 'd')}", "q = Conv(x, wq)"]
    body = " ".join(reversed(parts) if shortcut_is_first else parts)
    ops = operators(net(f"{body} s = Add(q, p) y = Relu(s)", wq=sparse(9, 16, 16, 1, 1)))
    assert ops == ["SparseConv_bitmap", "SparseChain_inverted_residual_bitmap_clip_add_relu"]


def test_a_residual_that_is_produced_behind_the_first_layer_is_read() -> None:
    body = f"{E} {D} r = Neg(x) {PROJECT.format('p', 'd')} y = Add(r, p)"
    assert operators(net(body)) == ["Neg", "SparseChain_inverted_residual_bitmap_clip_add"]


def found_columns(expand: npt.NDArray[np.float32], project: npt.NDArray[np.float32]) -> str:
    """The format of the weights of a chain, in which they all are and are what they were."""
    body = f"e = Conv(x, we) d = Conv<group = {len(expand)}>(e, wd) y = Conv(d, wp)"
    weights = {"we": expand, "wd": floats(3, len(expand), 1, 3, 3), "wp": project}
    loaded = net(body, channels=expand.shape[1], **weights)
    name_nodes(loaded)
    infer_shapes(loaded)
    shapes = observe_shapes(loaded, sources(loaded), feeds_of(loaded, 1))
    found = propose(loaded, shapes, max_density=1.0)
    chain = find_chain(loaded, found.sites[0], {id(s.node): s for s in (*found.sites, *found.depthwise)}, shapes)
    assert chain is not None
    packed = [link.packed for link in chain.links if link.packed is not None]
    assert {weight.format for weight in packed} == {chain.signature.columns}
    for weight, dense in zip(packed, (expand, project), strict=True):
        np.testing.assert_array_equal(unpack(weight), dense)
    return chain.signature.columns


def test_one_format_serves_all_weights_and_is_the_smallest_for_them_together() -> None:
    dense, few = sparse(1, 32, 16, 1, 1, density=0.4), sparse(2, 512, 32, 1, 1, density=0.02)
    assert (pack(dense, 4).format, pack(few, 4).format) == ("bitmap", "delta8")
    assert found_columns(dense, sparse(2, 16, 32, 1, 1, density=0.4)) == "bitmap"
    assert found_columns(dense, few) == "delta8"
    assert found_columns(few, sparse(3, 256, 512, 1, 1, density=0.4)) == "bitmap"


def test_gaps_that_delta8_cannot_express_leave_the_bitmap() -> None:
    wide = np.zeros((4, 600, 1, 1), np.float32)
    wide[:, 599] = 1
    assert pack(wide, 4).format == "u16"
    assert found_columns(wide, sparse(3, 8, 4, 1, 1, density=0.4)) == "bitmap"


@pytest.mark.parametrize("ir", [8, 10])
def test_the_node_is_named_after_the_first_layer_and_tells_all_that_it_was(ir: int) -> None:
    body = chain_text("inverted_residual", "Relu", "Relu", residual=True)
    text = f"net (float[N, 16, 9, 7] x, float[N, 16, 9, 7] r) => (float[N, 16, 9, 7] y) {{ {body} }}"
    loaded = model(text, ir=ir, **{name: values for name, values in CONSTANTS.items() if name in body})
    names = ["one", "two", "three", "four", "five", "six", "seven"]
    for node, name in zip(loaded.graph.nodes, names, strict=True):
        node.name = name
    proto = lowered(loaded)[0].to_proto()
    assert [node.name for node in proto.graph.node] == ["one/lissom_0"]
    (prop,) = [*proto.metadata_props, *proto.graph.node[0].metadata_props]
    assert prop.key == PROVENANCE_KEY
    told = json.loads(prop.value)
    told = told if ir >= 10 else told["one/lissom_0"]
    assert told["from"] == names
    assert told["parameters"] == {"chain": "inverted_residual", "blocks": [4, 4], "columns": "bitmap"}


def test_the_report_names_the_chain_beside_each_of_its_sparse_layers() -> None:
    loaded = net(chain_text("inverted_residual", "Relu", "Relu", residual=False))
    _, decisions = lowered(loaded)
    assert [layer.site for layer in decisions.layers] == ["Conv_s0", "Conv_s2"]
    for layer in decisions.layers:
        assert layer.decision == "lowered" and layer.speed is None and layer.chain is not None
        assert layer.operator == "SparseChain_inverted_residual_bitmap_clip_clip"
        assert (layer.chain.node, layer.chain.shape) == ("Conv_s0/lissom_0", "inverted_residual")
        assert layer.chain.layers == ["Conv_s0", "Conv_s1", "Conv_s2"]
    assert not decisions.refusals
