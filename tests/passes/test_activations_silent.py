"""Channels that never win are cut: nothing changes on the samples that say so, and what the graph needs stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from graph.onnx_text import floats, run
from lissom import applying
from lissom.activations import silent
from lissom.activations.finish import Masked
from lissom.applying import Candidate
from lissom.observe import observe_shapes
from lissom_runtime.errors import VerificationError
from passes.activation_cases import PLAIN, RESIDUAL, masked_of, planned, recipe, study_of

pytestmark = pytest.mark.ort

QUIET = np.array([0, 0, -60, 0], np.float32) + floats(1, 4)
"""Biases with which the third channel is never above zero."""

STORED = PLAIN.replace("Gemm <transB = 1> (f2, w3, b3)", "Gemm (f2, v3, b3)")
"""The classifier's weight is [in, out]."""

PRODUCT = PLAIN.replace("y = Gemm <transB = 1> (f2, w3, b3)", "m3 = MatMul (f2, v3) y = Add (m3, b3)")

INDICES = PLAIN.replace("p1 = MaxPool", "p1, i1 = MaxPool").replace("=> (", "=> (int64[N, 4, 4, 4] i1, ", 1)
"""Gives the indices of its pooling."""

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "indices": (INDICES, {}),
    "plain": (PLAIN, {}),
    "Gemm [in, out]": (STORED, {"v3": floats(9, 96, 5)}),
    "MatMul": (PRODUCT, {"v3": floats(9, 96, 5)}),
}


def made(
    net: str = "plain",
    words: str = "",
    removes: bool = True,
    rates: Sequence[float] = (0.6, 0.6),
    refit: bool = False,
    samples: int = 128,
    exclude: str | None = None,
    **weights: Any,
) -> Candidate:
    """A network finished with masks at some rates."""
    text, constants = NETS[net]
    asked = recipe(f"remove_silent = {'true' if removes else 'false'}\n{words}", refit)
    study = study_of(text, asked, exclude=exclude, samples=samples, **{"b1": QUIET, **constants, **weights})
    return applying.apply(study, planned(study, [0.9] * 6, rates))


def width(masked: Masked, tensor: str) -> int:
    """Channels of an activation."""
    return observe_shapes(masked.expected, [tensor], {"x": floats(0, 1, 3, 8, 8)})[tensor][1]


@pytest.mark.parametrize("net", ["plain", "Gemm [in, out]", "MatMul"])
@pytest.mark.parametrize(
    ("words", "refit"),
    [("", False), ("", True), ("per_channel = true", False)],
    ids=["as cut", "refitted", "thresholds of channels"],
)
def test_a_channel_that_never_wins_goes_and_the_outputs_stay(net: str, words: str, refit: bool) -> None:
    whole, less = (made(net, words, removes, refit=refit) for removes in (False, True))
    before, after = masked_of(whole), masked_of(less)
    assert (before.account.silent["a1"], before.account.removed) == (1, {})
    assert (after.account.silent["a1"], after.account.removed) == (0, {"a1": 1})
    assert (width(before, "a1"), width(after, "a1")) == (4, 3)
    for seed in range(40, 48):
        x = {"x": floats(seed, 16, 3, 8, 8)}
        np.testing.assert_allclose(run(after.edited, x)[0], run(before.edited, x)[0], rtol=1e-4, atol=1e-4)
    assert less.totals.params < whole.totals.params
    assert less.totals.macs <= whole.totals.macs


def test_what_is_left_is_counted_of_the_dense_network_and_stored_of_the_narrow_one() -> None:
    whole, less = (made(removes=removes) for removes in (False, True))
    before, after = masked_of(whole).account, masked_of(less).account
    assert [layer.macs for layer in after.layers] == [layer.macs for layer in before.layers]
    assert after.paper < before.paper
    assert after.counted < before.counted
    assert after.densities == before.densities
    first, second = after.layers[:2]
    assert first.weights <= 0.75
    assert second.weights <= 0.75
    for name in ("Conv_c1", "Conv_c2"):
        assert less.storage[name].dense == 0.75 * whole.storage[name].dense


def test_a_channel_that_is_heard_elsewhere_stays() -> None:
    """The third channel of the stem is silent in a1 and a2, and not where the block adds c3 to a1."""
    block = RESIDUAL.replace("(a1, w4, b1)", "(a1, v2, q2)").replace("(a2, w4, b1)", "(a2, v3, q3)")
    weights = {"v2": floats(2, 4, 4, 3, 3), "v3": floats(3, 4, 4, 3, 3)}
    biases = {"b1": 20 * QUIET, "q2": 20 * QUIET + 1, "q3": np.full(4, 9.0, np.float32)}
    study = study_of(block, recipe(), samples=128, **weights, **biases)
    masked = masked_of(applying.apply(study, planned(study, [0.9] * 6, [0.8, 0.8, 0.8])))
    assert (width(masked, "a1"), width(masked, "a2")) == (4, 3)
    assert masked.account.silent["a1"] >= 1
    assert masked.account.removed == {"a2": 1}


@pytest.mark.parametrize("left_out", ["Conv_c1", "Conv_c2"])
def test_layers_that_are_left_out_keep_their_channels(left_out: str) -> None:
    masked = masked_of(made(exclude=left_out, rates=[0.6]))
    assert masked.account.silent["a1"] == 1
    assert masked.account.removed == {}


@pytest.mark.parametrize(
    ("words", "samples"), [("", 112), ('form = "dynamic"', 128)], ids=["few samples", "dynamic masks"]
)
def test_nothing_goes_that_few_samples_say_or_a_dynamic_mask_looks_at(words: str, samples: int) -> None:
    masked = masked_of(made(words=words, samples=samples))
    assert masked.account.silent["a1"] == 1
    assert masked.account.removed == {}


@pytest.mark.parametrize("pattern", ["columns", "rows", "2:4"])
def test_only_whole_blocks_go_and_patterns_along_the_columns_stay(pattern: str) -> None:
    """Of eight channels the first two and the sixth are silent: a block of two, and half of one."""
    zeros = recipe().sparse.model_copy(update={"pattern": pattern, "widths": (1,) if pattern == "2:4" else (2,)})
    asked = recipe().model_copy(update={"sparse": zeros})
    text = PLAIN.replace("w1, b1", "v1, q1").replace("w2, b2", "v2, b2")
    quiet = np.where(np.isin(np.arange(8), [0, 1, 5]), -60, 0).astype(np.float32)
    weights = {"v1": floats(2, 8, 3, 3, 3), "v2": floats(3, 6, 8, 3, 3), "q1": quiet}
    study = study_of(text, asked, samples=128, **weights)
    masked = masked_of(applying.apply(study, planned(study, [0.5] * 3, [0.6, 0.6])))
    assert masked.account.removed == ({"a1": 2} if pattern == "columns" else {})


def test_channels_that_a_normalisation_over_channels_reads_stay() -> None:
    text = PLAIN.replace("p1 = MaxPool", "l1 = LRN <size = 3> (a1) p1 = MaxPool").replace("](a1)", "](l1)")
    text = text.replace("strides = [2, 2]> (a1)", "strides = [2, 2]> (l1)")
    study = study_of(text, recipe(), samples=128, b1=QUIET)
    masked = masked_of(applying.apply(study, planned(study, [0.9] * 3, [0.6, 0.6])))
    assert masked.account.removed == {}
    assert width(masked, "a1") == 4


def test_the_last_channel_stays() -> None:
    masked = masked_of(made(b1=np.full(4, -60, np.float32)))
    assert masked.account.removed["a1"] == 3
    assert width(masked, "a1") == 1


def test_a_mask_that_keeps_everything_is_declined_as_with_all_channels() -> None:
    whole, less = (masked_of(made("plain", "per_channel = true", removes, (0.8, 0.6))) for removes in (False, True))
    assert less.account.removed == {"a1": 1}
    assert whole.masks.keys() == less.masks.keys() == {"a2"}
    assert [refusal.site for refusal in whole.refusals] == [refusal.site for refusal in less.refusals]


def test_without_silent_channels_nothing_is_cut() -> None:
    one, other = (made(removes=removes, b1=floats(1, 4)) for removes in (False, True))
    assert masked_of(other).account.removed == {}
    assert one.model.to_proto().SerializeToString() == other.model.to_proto().SerializeToString()


def test_cutting_a_channel_that_wins_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = silent.silent_roots

    def wrong(*given: Any) -> silent.Bools:
        gone = right(*given)
        (first,) = np.flatnonzero(gone)
        gone[first - 1] = True
        return gone

    monkeypatch.setattr(silent, "silent_roots", wrong)
    monkeypatch.setattr(silent, "_without", lambda layer, *_: layer)
    with pytest.raises(VerificationError, match="never win"):
        made()


NHWC = """
net (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    t1 = Transpose <perm = [0, 2, 3, 1]> (c1)
    a1 = Relu (t1)
    n1 = Transpose <perm = [0, 3, 1, 2]> (a1)
    c2 = Conv <pads = [1, 1, 1, 1]> (n1, w2, b2)
    a2 = Relu (c2)
    g2 = GlobalAveragePool (a2)
    f2 = Flatten (g2)
    y = Gemm <transB = 1> (f2, w5, b3)
}
"""

DROPOUT = PLAIN.replace("p1 = MaxPool", "d1, k1 = Dropout (a1) p1 = MaxPool").replace("2]> (a1)", "2]> (d1)")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PLAIN.replace("p1 = MaxPool", "p1, places = MaxPool"), ""),
        (DROPOUT, ""),
        (NHWC, ""),
        (NHWC, "per_channel = true"),
    ],
    ids=["indices that nobody reads", "a Dropout's mask", "channels last", "channels last, thresholds of channels"],
)
def test_channels_go_wherever_they_are_and_whatever_else_nodes_give(text: str, words: str) -> None:
    outputs = []
    for removes in ("false", "true"):
        study = study_of(text, recipe(f"remove_silent = {removes}\n{words}"), samples=128, b1=QUIET)
        masked = masked_of(applying.apply(study, planned(study, [0.9] * 6, [0.6, 0.6])))
        weights = {node.name: node.inputs[1].shape for node in masked.expected.graph.nodes if node.op == "Conv"}
        assert weights["Conv_c1"][0] == (3 if removes == "true" else 4)
        outputs.append(run(masked.edited, {"x": floats(40, 16, 3, 8, 8)})[0])
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)


def test_a_tensor_without_channels_is_in_nobodys_way() -> None:
    text = PLAIN.replace(
        "p1 = MaxPool", "z1 = Slice (a1, start, start, axis) j1 = Concat <axis = 1> (a1, z1) p1 = MaxPool"
    )
    numbers = {"start": np.array([4]), "axis": np.array([1])}
    study = study_of(text.replace("2]> (a1)", "2]> (j1)"), recipe(), samples=128, b1=QUIET, **numbers)
    masked_of(applying.apply(study, planned(study, [0.9] * 6, [0.6, 0.6])))


@pytest.mark.parametrize("groups", [2, 4])
def test_convolutions_in_groups_that_are_left_out_keep_their_channels(groups: int) -> None:
    between = f"d1 = Conv <pads = [1, 1, 1, 1], group = {groups}> (a1, vd) e1 = Relu (d1) p1 = MaxPool"
    text = PLAIN.replace("p1 = MaxPool", between).replace("2]> (a1)", "2]> (e1)")
    weights = {"vd": floats(5, 4, 4 // groups, 3, 3), "w2": floats(6, 6, 4, 3, 3)}
    weights["w2"][:, [1, 3]] = 0
    widths = []
    for exclude in (None, "Conv_d1"):
        study = study_of(text, recipe(), samples=128, exclude=exclude, **weights)
        masked = masked_of(applying.apply(study, planned(study, [0.9] * 6, [0.6, 0.6])))
        widths.append(width(masked, "d1"))
    assert widths == [2, 4]


def test_what_is_cut_counts_as_zero_though_it_won() -> None:
    """The third channel always wins, and no layer has a weight for it."""
    unread = floats(3, 6, 4, 3, 3)
    unread[:, 2] = 0
    masked = masked_of(made(b1=np.array([-1, -1, 60, -1], np.float32), w2=unread, rates=(0.25, 0.6)))
    assert masked.account.removed["a1"] == 3
    assert masked.account.densities["a1"] == 0
    assert masked.account.layers[1].paper == 0


def test_blocks_do_not_grow_with_what_is_left() -> None:
    """Of twelve channels, in blocks of four, eight are left, which blocks of eight would divide."""
    asked = recipe().model_copy(update={"sparse": recipe().sparse.model_copy(update={"widths": (8,)})})
    quiet = np.where(np.arange(12) < 4, -60, 0).astype(np.float32)
    text = PLAIN.replace("w1, b1", "v1, q1").replace("w2, b2", "v2, b2")
    study = study_of(text, asked, samples=128, v1=floats(2, 12, 3, 3, 3), v2=floats(3, 6, 12, 3, 3), q1=quiet)
    candidate = applying.apply(study, planned(study, [0.3] * 3, [0.6, 0.6]))
    assert masked_of(candidate).account.removed == {"a1": 4}
    (first, *_) = [node for node in candidate.model.graph.nodes if node.op.startswith("SparseConv")]
    (values,) = [tensor.values for tensor in first.inputs if tensor.name.endswith("_values")]
    assert values.shape[1] == 4
    assert candidate.storage["Conv_c1"].grouped < candidate.storage["Conv_c1"].dense


def test_a_mask_whose_thresholds_went_with_the_channels_is_told_as_left_out() -> None:
    unread = floats(3, 6, 4, 3, 3)
    unread[:, 2] = 0
    biases = np.array([-4, -4, 60, -4], np.float32)
    masked = masked_of(made(words="per_channel = true", b1=biases, w2=unread, rates=(0.25, 0.6)))
    assert masked.account.removed == {"a1": 1}
    assert masked.masks.keys() == {"a2"}
    assert [refusal.site for refusal in masked.refusals if "keeps everything" in refusal.reason] == ["a1"]


def test_a_mask_of_one_channel_that_is_left_lets_nan_pass() -> None:
    biases = np.array([-60, -60, 0, -60], np.float32)
    masked = masked_of(made(words="per_channel = true", b1=biases, rates=(0.1, 0.6)))
    assert masked.account.removed == {"a1": 3}
    x = floats(1, 1, 3, 8, 8)
    x[0, 0, 0, 0] = np.nan
    assert np.isnan(run(masked.expected, {"x": x})[0]).any()


def test_channels_of_which_a_second_output_is_given_stay() -> None:
    masked = masked_of(made("indices"))
    assert masked.account.removed == {}
    assert masked.account.silent["a1"] == 1
