"""Channels that never win are cut, and nothing changes on the samples that say so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from graph.onnx_text import floats, run
from lissom import applying
from lissom.activations.finish import Masked
from lissom.applying import Candidate
from lissom.observe import observe_shapes
from passes.activation_cases import PLAIN, RESIDUAL, masked_of, planned, recipe, study_of

pytestmark = pytest.mark.ort

QUIET = np.array([0, 0, -60, 0], np.float32) + floats(1, 4)
"""Biases with which the third channel is never above zero."""


def made(text: str, words: str, removes: bool, rates: Sequence[float], refit: bool = False) -> Candidate:
    """A network finished with masks at some rates."""
    asked = recipe(f"remove_silent = {'true' if removes else 'false'}\n{words}", refit)
    study = study_of(text, asked, b1=QUIET)
    return applying.apply(study, planned(study, [0.9] * 6, rates))


def width(masked: Masked, tensor: str) -> int:
    """Channels of an activation."""
    return observe_shapes(masked.expected, [tensor], {"x": floats(0, 1, 3, 8, 8)})[tensor][1]


@pytest.mark.parametrize(
    ("words", "refit"),
    [("", False), ("", True), ("per_channel = true", False)],
    ids=["as cut", "refitted", "thresholds of channels"],
)
def test_a_channel_that_never_wins_goes_and_the_outputs_stay(words: str, refit: bool) -> None:
    whole, less = (made(PLAIN, words, removes, [0.6, 0.6], refit) for removes in (False, True))
    before, after = masked_of(whole), masked_of(less)
    assert before.account.silent["a1"] == 1
    assert after.account.silent["a1"] == 0
    assert (width(before, "a1"), width(after, "a1")) == (4, 3)
    for seed in range(40, 44):
        x = {"x": floats(seed, 16, 3, 8, 8)}
        np.testing.assert_allclose(run(after.edited, x)[0], run(before.edited, x)[0], rtol=1e-4, atol=1e-4)
    assert after.account.paper < before.account.paper
    assert [layer.macs for layer in after.account.layers] == [layer.macs for layer in before.account.layers]
    assert less.totals.params < whole.totals.params
    assert less.totals.macs <= whole.totals.macs


def test_a_channel_that_is_heard_elsewhere_stays() -> None:
    """The third channel of the stem is silent in a1 and a2, and not where the block adds c3 to a1."""
    block = RESIDUAL.replace("(a1, w4, b1)", "(a1, v2, q2)").replace("(a2, w4, b1)", "(a2, v3, q3)")
    weights = {"v2": floats(2, 4, 4, 3, 3), "v3": floats(3, 4, 4, 3, 3)}
    biases = {"b1": 20 * QUIET, "q2": 20 * QUIET + 1, "q3": np.full(4, 9.0, np.float32)}
    study = study_of(block, recipe("remove_silent = true"), **weights, **biases)
    masked = masked_of(applying.apply(study, planned(study, [0.9] * 6, [0.8, 0.8, 0.8])))
    assert width(masked, "a1") == 4
    assert width(masked, "a2") == 3
    assert masked.account.silent["a1"] >= 1
    assert masked.account.silent["a2"] == 0


def test_without_silent_channels_nothing_is_cut() -> None:
    plain, asked = (study_of(PLAIN, recipe(words)) for words in ("", "remove_silent = true"))
    plan = planned(plain, [0.9] * 3, [0.6, 0.6])
    assert masked_of(applying.apply(plain, plan)).account.silent == {"a1": 0, "a2": 0}
    one, other = (applying.apply(study, plan).model.to_proto() for study in (plain, asked))
    assert one.SerializeToString() == other.SerializeToString()
