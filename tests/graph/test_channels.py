"""Which channels are one, which have to stay, and why."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from graph.channel_networks import Net, Value, analysed
from graph.cutting import deafen, some_roots
from graph.onnx_text import integers, parse, run
from hypothesis import given
from hypothesis import strategies as st
from lissom.graph.channels.atoms import Atoms, Pin
from lissom.graph.channels.coupling import Coupling
from lissom.graph.model import Model
from lissom.nodes.groups import Groups, find_groups

CONV = "Conv <pads = [1, 1, 1, 1]>"

WEIGHTS = {
    "w": integers(0, 8, 3, 3, 3),
    "b": integers(1, 8),
    "v": integers(2, 5, 8, 3, 3),
    "vv": integers(3, 5, 16, 1, 1),
    "d": integers(4, 8, 1, 3, 3),
    "g": integers(5, 8, 4, 1, 1),
    "f": integers(6, 8 * 16, 5),
    "m": integers(7, 8, 5),
    "s": integers(8, 1, 8, 1, 1),
    "c": integers(9, 8),
    "i8": np.array([8]),
    "i0": np.array([0]),
    "i1": np.array([1]),
    "i2": np.array([2]),
    "i3": np.array([3]),
    "i4": np.array([4]),
    "big": np.array([2**31 - 1]),
    "shuffled": np.array([-1, 2, 4, 4, 4]),
    "whole": np.array([0, 8, 4, 4]),
    "sized": np.array([0, 0, 8, 8]),
    "resized": np.array([1, 8, 8, 8]),
    "scales": np.array([1, 1, 2, 2], np.float32),
    "wide": np.array([1, 8, 4, 4]),
    "tokens": np.array([0, 8, 16]),
    "sums": np.array([2, 3]),
    "three": np.array([3, 5]),
    "merged": np.array([-1, 2, 64]),
    "none": np.zeros(0, np.float32),
    "yes": np.array([True]),
    "widths": np.array([0, 2, 0, 0, 0, 6, 0, 0]),
    "tied": np.array([4, 5, 6, 7, 0, 1, 2, 3]),
}


def net(body: str, opset: int = 17) -> tuple[Model, Coupling]:
    """A network from x[N, 3, 4, 4] to y: t[N, 8, 4, 4] is a convolution of x, and `body` goes on from it."""
    head = "" if re.search(r"\bt = ", body) else f"t = {CONV} (x, w, b) "
    text = f"net (float[N, 3, 4, 4] x) => (float y) {{ {head}{body} }}"
    used = {name: value for name, value in WEIGHTS.items() if re.search(rf"\b{name}\b", text)}
    proto = parse(text, opset, **used)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    rank = onnx.shape_inference.infer_shapes(proto).graph.output[0].type.tensor_type.shape.dim
    for number, _ in enumerate(rank):
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_param=f"d{number}")
    return analysed(proto, feeds(1))


def feeds(batch: int) -> Mapping[str, Any]:
    return {"x": integers(10, batch, 3, 4, 4)}


def first_rows(coupling: Coupling) -> np.ndarray[Any, Any]:
    """The roots of the first layer's output channels."""
    return next(iter(coupling.rows.values()))


def refused(coupling: Coupling, found: Groups) -> str:
    """Why the channels of the first layer have to stay."""
    first = next(iter({**coupling.declined, **coupling.rows}))
    return next((refusal.reason for refusal in found.refusals if refusal.site == first), "")


FOLLOWED = {
    "activations": ("u = HardSwish(t) k = Softplus(u) y = Conv(k, v)", 17),
    "sum with a constant": ("u = Add(t, s) y = Conv(u, v)", 17),
    "product with a constant on the left": ("u = Mul(s, t) y = Conv(u, v)", 17),
    "sum with itself in another order": ("k = Gather <axis = 1> (t, tied) u = Add(t, k) y = Conv(u, v)", 17),
    "choice": ("z = Greater(t, s) u = Where(z, t, s) y = Conv(u, v)", 17),
    "instance normalization": ("u = InstanceNormalization(t, c, b) y = Conv(u, v)", 17),
    "softmax over space": ("u = Softmax <axis = 3> (t) y = Conv(u, v)", 17),
    "layer normalization over space": ("u = LayerNormalization <axis = 2> (t, rows) y = Conv(u, v)", 17),
    "mean over space": ("u = ReduceMean <axes = [2, 3], keepdims = 0> (t) y = MatMul(u, m)", 17),
    "mean over space, axes as input": ("u = ReduceMean <keepdims = 0> (t, sums) y = MatMul(u, m)", 18),
    "squeeze": ("p = GlobalAveragePool(t) u = Squeeze(p, sums) y = MatMul(u, m)", 17),
    "unsqueeze": ("p = Unsqueeze(t, i2) u = Squeeze(p, i2) y = Conv(u, v)", 17),
    "flatten": ("u = Flatten(t) y = MatMul(u, f)", 17),
    "tokens": ("p = Reshape(t, tokens) q = Transpose <perm = [0, 2, 1]> (p) y = MatMul(q, m)", 17),
    "unflattened": ("p = Flatten(t) u = Reshape(p, whole) y = Conv(u, v)", 17),
    "a shape that is computed": ("h = Shape(t) r = Identity(t) p = Flatten(r) u = Reshape(p, h) y = Conv(u, v)", 17),
    "resize by scales": ("u = Resize(t, none, scales) y = Conv(u, v)", 17),
    "resize to a size": ("u = Resize(t, none, none, resized) y = Conv(u, v)", 17),
    "expand": ("p = GlobalAveragePool(t) u = Expand(p, wide) y = Conv(u, v)", 17),
    "split by an attribute": (
        "p, q = Split <axis = 1, split = [3, 5]> (t) u = Concat <axis = 1> (q, p) y = Conv(u, v)",
        12,
    ),
    "split by an input": ("p, q = Split <axis = 1> (t, three) u = Concat <axis = 1> (q, p) y = Conv(u, v)", 17),
    "split in equal parts": (
        "p, q = Split <axis = 1, num_outputs = 2> (t) u = Concat <axis = 1> (q, p) y = Conv(u, v)",
        18,
    ),
    "split over space": ("p, q = Split <axis = 2> (t) u = Mul(p, q) y = Conv <pads = [1, 1, 1, 1]> (u, v)", 17),
    "concat over space": ("u = Concat <axis = 3> (t, t) y = Conv(u, v)", 17),
    "slice of channels": ("p = Slice(t, i2, i8, i1) u = Pad(p, widths) y = Conv(u, fourteen)", 17),
    "space to depth": ("u = SpaceToDepth <blocksize = 2> (t) p = DepthToSpace <blocksize = 2> (u) y = Conv(p, v)", 17),
    "shuffle": (
        "p = Reshape(t, shuffled) q = Transpose <perm = [0, 2, 1, 3, 4]> (p) u = Reshape(q, whole) y = Conv(u, v)",
        17,
    ),
    "groups": ("u = Conv <group = 2> (t, g) y = Conv(u, v)", 17),
    "depthwise": ("u = Conv <group = 8, pads = [1, 1, 1, 1]> (t, d) y = Conv(u, v)", 17),
    "depthwise, transposed": ("u = ConvTranspose <group = 8> (t, d) y = Conv(u, v)", 17),
    "an image with one value a pixel": ("p = ReduceMean <axes = [1]> (x) u = Add(t, p) y = Conv(u, v)", 17),
}
WEIGHTS |= {"rows": integers(11, 4, 4), "fourteen": integers(12, 5, 14, 3, 3)}


@pytest.mark.ort
@pytest.mark.parametrize("case", list(FOLLOWED))
def test_what_follows_a_cut_computes_what_it_would_without_reading_the_channels(case: str) -> None:
    whole, coupling = net(*FOLLOWED[case])
    assert refused(coupling, find_groups(coupling)) == ""
    fed = feeds(1 if "resize to a size" in case else 3)
    for seed in range(4):
        gone, model, expected = some_roots(coupling, seed), whole.copy(), whole.copy()
        deafen(expected, coupling, gone)
        coupling.remove(model, gone)
        np.testing.assert_allclose(run(model, fed)[0], run(expected, fed)[0], rtol=1e-4, atol=1e-3)
        onnx.checker.check_model(model.to_proto(), full_check=True)


KEPT = {
    "an output": ("y = Relu(t)", "gives an output of the graph"),
    "softmax": ("u = Softmax <axis = 1> (t) y = Conv(u, v)", "works along the channels"),
    "layer normalization": (
        "u = LayerNormalization <axis = 1> (t, images) y = Conv(u, v)",
        "normalises over the channels",
    ),
    "mean": ("u = ReduceMean <axes = [1]> (t) y = Relu(u)", "reduces the channels"),
    "mean of everything": ("u = ReduceMean (t) y = Relu(u)", "reduces all axes, or axes that are computed"),
    "unknown operator": (
        "u = LRN <size = 3> (t) y = Conv(u, v)",
        "is an operator LRN, which channels are not followed",
    ),
    "the channels are counted": (
        "h = Shape(t) k = Gather(h, i1) l = Cast <to = 1> (k) u = Div(t, l) y = Conv(u, v)",
        "computes with the number of channels",
    ),
    "the count of other channels": (
        f"h = Shape(t) k = {CONV} (x, w, c) p = Flatten(k) u = Reshape(p, h) y = Conv(u, v)",
        "takes the number of channels from a shape that is computed",
    ),
    "spread": ("p = Slice(t, i0, i1, i1) u = Add(p, t) y = Conv(u, v)", "spreads one channel over many"),
    "every second channel": ("p = Slice(t, i0, big, i1, i2) y = Conv(p, g)", "takes every second channel"),
    "one channel": (
        "u = Gather <axis = 1> (t, one) y = Relu(u)",
        "picks channels by computed indices, or a single one",
    ),
    "an input": (
        "p = Concat <axis = 1> (x, x, x) k = Slice(p, i0, i8, i1) u = Add(t, k) y = Conv(u, v)",
        "meets k, whose channels cannot be cut",
    ),
    "channels joined with space": (
        "p = Transpose <perm = [0, 2, 1, 3]> (t) u = Add(p, plane) k = Conv(u, four) y = Relu(k)",
        "has the channels along axis 2; expected axis 1",
    ),
    "two axes": (
        "p = Transpose <perm = [0, 2, 3, 1]> (t) q = Reshape(p, merged) y = Relu(q)",
        "mixes the channels with other axes",
    ),
    "reflection": (
        'u = Pad <mode = "reflect"> (t, widths) y = Conv(u, sixteen)',
        "pads the channels by other channels",
    ),
}
WEIGHTS |= {
    "images": integers(13, 8, 4, 4),
    "one": np.array(2),
    "plane": integers(14, 1, 4, 8, 4),
    "four": integers(15, 5, 4, 1, 1),
    "sixteen": integers(16, 5, 16, 1, 1),
}


@pytest.mark.ort
@pytest.mark.parametrize("case", list(KEPT))
def test_channels_that_something_needs_are_kept_and_the_reason_names_it(case: str) -> None:
    body, reason = KEPT[case]
    model, coupling = net(body)
    assert reason in refused(coupling, find_groups(coupling))
    root = int(first_rows(coupling)[0])
    assert coupling.pins[root].node in {node.name for node in model.graph.nodes}
    with pytest.raises(ValueError, match="expected channels that can be cut"):
        coupling.remove(model, np.array([root]))


@pytest.mark.ort
def test_what_the_body_of_control_flow_captures_is_kept() -> None:
    text = f"""net (float[N, 3, 4, 4] x) => (float[N, 5, 2, 2] y) {{
        t = {CONV} (x, w, b)
        z = If (yes) <then_branch = one () => (float[N, 8, 4, 4] p) {{ p = Relu(t) }},
                      else_branch = two () => (float[N, 8, 4, 4] q) {{ q = Neg(t) }}>
        y = Conv(z, v)
    }}"""
    _, coupling = analysed(parse(text, **{name: WEIGHTS[name] for name in ("w", "b", "v", "yes")}), feeds(1))
    assert "reads them in the body of an operator If" in refused(coupling, find_groups(coupling))


@pytest.mark.ort
def test_a_tensor_keeps_at_least_one_channel() -> None:
    model, coupling = net("y = Conv(t, v)")
    with pytest.raises(ValueError, match="would have none"):
        coupling.remove(model, first_rows(coupling))


@pytest.mark.ort
def test_layers_that_bear_one_weight_are_cut_alike() -> None:
    text = f"""net (float[N, 3, 4, 4] x) => (float[N, 5, 4, 4] y) {{
        p = {CONV} (x, w, b)  q = Neg(x)  r = {CONV} (q, w, c)
        k = {CONV} (p, v)  l = {CONV} (r, v)  y = Mul(k, l)
    }}"""
    model, coupling = analysed(parse(text, **{name: WEIGHTS[name] for name in ("w", "b", "c", "v")}), feeds(1))
    one, other = list(coupling.rows.values())[:2]
    np.testing.assert_array_equal(one, other)
    coupling.remove(model, one[:3])
    weights = [node.inputs[1].values for node in model.graph.nodes if node.op == "Conv"]
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[2], weights[3])


@pytest.mark.ort
def test_groups_of_a_convolution_lose_equally_many_channels() -> None:
    model, coupling = net("u = Conv <group = 2> (t, g) y = Conv(u, v)")
    groups = {group.name: group for group in find_groups(coupling).groups}
    assert {group.width for group in groups.values()} == {2}
    assert [len(group) for group in groups.values()] == [4, 4]
    assert groups["Conv_t"].counts(4).tolist() == [2, 4]
    coupling.remove(model, groups["Conv_t"].roots[:1])
    grouped = model.graph.nodes[1]
    assert grouped.inputs[1].values.shape == (8, 3, 1, 1) and grouped.attrs["group"] == 2


@pytest.mark.ort
def test_a_channel_that_is_flattened_is_all_its_pixels() -> None:
    _, coupling = net("u = Flatten(t) y = MatMul(u, f)")
    (group,) = find_groups(coupling).groups
    assert group.columns["MatMul_y"].shape == (8, 16)
    np.testing.assert_array_equal(group.columns["MatMul_y"][2], np.arange(32, 48))


@pytest.mark.ort
@pytest.mark.parametrize("block", [1, 3, 4, 16])
def test_kept_counts_are_multiples_of_the_block_or_all(block: int) -> None:
    _, coupling = net("y = Conv(t, v)")
    (group,) = find_groups(coupling).groups
    counts = group.counts(block).tolist()
    assert counts[-1] == 8
    assert all(count % block == 0 for count in counts[:-1])
    with pytest.raises(ValueError, match="at least 1 channel"):
        group.counts(0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_atoms_are_one_exactly_if_a_chain_of_unions_joins_them(pairs: list[tuple[int, int]]) -> None:
    atoms, label = Atoms(), list(range(10))
    atoms.fresh(10)
    for one, other in pairs:
        atoms.unite(np.array([one]), np.array([other]))
        label = [label[one] if seen == label[other] else seen for seen in label]
    roots = atoms.roots(np.arange(10))
    for i in range(10):
        assert roots[i] == min(j for j in range(10) if label[j] == label[i])


def test_a_pin_reaches_all_that_is_one_with_its_atom_whenever_it_became_so() -> None:
    atoms = Atoms()
    found = atoms.fresh(3)
    atoms.pin(found[1:2], Pin("node", "needs it"))
    atoms.unite(found[:1], found[1:2])
    assert atoms.pins() == {0: Pin("node", "needs it")}


def resnet18(net: Net) -> onnx.ModelProto:
    x = net.conv(net.image(), 4, act="relu")
    for width in (4, 6, 8, 10):
        for block in range(2):
            stride = 2 if block == 0 and width > 4 else 1
            x = net.identity_block(x) if stride == 1 else net.projection_block(x, width, stride)
    return net.classified(x)


def mobilenetv2(net: Net) -> onnx.ModelProto:
    x = net.conv(net.image(), 4)
    for width, blocks in ((4, 2), (6, 3)):
        for block in range(blocks):
            inner = net.depthwise(net.conv(x, 3 * x.channels, 1))
            y = net.conv(inner, width, 1, act="none")
            x = net.add(x, y, "none") if block else y
    return net.classified(x)


def densenet(net: Net) -> onnx.ModelProto:
    x = net.conv(net.image(), 4)
    for _ in range(2):
        for _ in range(3):
            x = net.dense_block(net.norm(x), 3)
        x = net.max_pool(net.conv(x, x.channels // 2, 1))
    return net.classified(x)


def squeeze_excite(net: Net) -> onnx.ModelProto:
    x = net.conv(net.image(), 6)
    for _ in range(2):
        inner = net.squeeze_excite(net.depthwise(net.conv(x, 12, 1)), 4)
        x = net.add(x, net.conv(inner, 6, 1, act="none"), "none")
    return net.classified(x)


def padded_resnet(net: Net) -> onnx.ModelProto:
    x = net.conv(net.image(), 4)
    for extra in (2, 4):
        x = net.identity_block(net.padded_block(net.identity_block(x), extra))
    return net.classified(x)


@pytest.mark.ort
@pytest.mark.parametrize(
    ("build", "convolutions"),
    [(resnet18, 20), (mobilenetv2, 16), (densenet, 9), (squeeze_excite, 11), (padded_resnet, 11)],
)
def test_every_convolution_of_known_networks_can_be_cut(build: Any, convolutions: int) -> None:
    made = Net(side=8)
    model, coupling = analysed(build(made), made.feeds())
    found = find_groups(coupling)
    cuttable = {layer for group in found.groups for layer in (*group.rows, *group.through)}
    assert cuttable == {node.name for node in model.graph.nodes if node.op == "Conv"}
    assert len(cuttable) == convolutions
    (refusal,) = found.refusals
    assert refusal.reason == "5 of its 5 channels stay: node 'logits' gives an output of the graph"


@pytest.mark.ort
def test_a_narrow_tensor_is_tied_to_the_middle_of_the_one_it_is_padded_to() -> None:
    made = Net(side=8)
    x = made.padded_block(made.conv(made.image(), 4), 2)
    _, coupling = analysed(made.classified(x), made.feeds())
    narrow, wide = list(coupling.rows.values())[:2]
    np.testing.assert_array_equal(wide[2:6], narrow)
    assert sorted(len(group) for group in find_groups(coupling).groups) == [4, 4]


@pytest.mark.ort
def test_layers_before_and_after_a_value_of_unknown_channels_keep_what_touches_it() -> None:
    made = Net()
    x = made.conv(made.image(), 4)
    normal = Value(made.node("LRN", x.name, size=3), 4, x.side)
    _, coupling = analysed(made.classified(made.conv(normal, 6)), made.feeds())
    found = find_groups(coupling)
    assert [group.name for group in found.groups] == ["conv3"]
    assert "conv3" not in coupling.columns
