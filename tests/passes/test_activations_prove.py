"""What judges masks: a comparison that forgives a tipped decision and no defect, and scores of every kind of output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from graph.onnx_text import floats, run
from lissom.activations.judge import Judge, Read
from lissom.activations.prove import TRIES, like, on_some
from lissom.data import Dataset, Feeds
from lissom_runtime.errors import VerificationError
from passes.activation_cases import PLAIN, case

pytestmark = pytest.mark.ort

INPUTS = [{"x": np.full((2, 1), number, np.float32)} for number in range(20)]


def passing_on(number: int, seen: list[int]) -> Callable[[Feeds], int]:
    def check(feeds: Feeds) -> int:
        seen.append(int(feeds["x"][0, 0]))
        if seen[-1] < number:
            raise VerificationError(f"off on {seen[-1]}")
        return seen[-1]

    return check


def test_what_holds_on_one_input_of_several_holds_and_no_further_one_is_tried() -> None:
    seen: list[int] = []
    assert on_some(passing_on(3, seen), INPUTS) == 3
    assert seen == [0, 1, 2, 3]


def test_a_defect_on_all_inputs_is_told_as_it_is_on_the_first() -> None:
    seen: list[int] = []
    with pytest.raises(VerificationError, match="off on 0"):
        on_some(passing_on(99, seen), INPUTS)
    assert len(seen) == TRIES


def test_inputs_to_compare_on_are_as_large_as_the_first() -> None:
    found = list(like({"x": np.zeros((1, 1), np.float32)}, INPUTS[:3]))
    assert [feeds["x"].shape for feeds in found] == [(1, 1)] * 4
    assert [float(feeds["x"][0, 0]) for feeds in found] == [0, 0, 1, 2]


def test_scores_are_of_labels_then_of_the_original_and_distortions_of_all_outputs() -> None:
    network = case(PLAIN)
    batches = [{"x": floats(seed, 8, 3, 8, 8)} for seed in range(2)]
    named = [run(network.model, feeds)[0].argmax(axis=1) for feeds in batches]
    wrong = [(labels + 1) % 5 for labels in named]
    found = {
        "labels": Judge(network.model, list(zip(batches, named, strict=True))),
        "wrong": Judge(network.model, list(zip(batches, wrong, strict=True))),
        "none": Judge(network.model, [(feeds, None) for feeds in batches]),
        "words": Judge(network.model, [(feeds, np.array(["a"] * 8)) for feeds in batches]),
    }
    assert {name: judge.metric for name, judge in found.items()} == {
        "labels": "top1",
        "wrong": "top1",
        "none": "agreement",
        "words": "agreement",
    }
    scores = {name: judge(network.model).score for name, judge in found.items()}
    assert scores == {"labels": 1, "wrong": 0, "none": 1, "words": 1}
    assert all(judge(network.model).distortion == 0 for judge in found.values())


def test_a_network_without_classes_is_scored_by_its_distortion() -> None:
    body = "c1 = Conv <pads = [1, 1, 1, 1]> (x, w1, b1) y = Relu (c1)"
    text = f"net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y) {{ {body} }}"
    network, other = case(text), case(text, b1=floats(3, 4))
    judge = Judge(network.model, [(network.feeds, None)])
    assert judge.metric == "output"
    before, after = run(network.model, network.feeds)[0], run(other.model, network.feeds)[0]
    lost = ((before - after) ** 2).sum() / (before**2).sum()
    assert judge(other.model).score == -judge(other.model).distortion == pytest.approx(-lost)


def test_samples_that_are_read_anew_give_the_verdict_of_those_in_memory_a_batch_at_a_time() -> None:
    network, x = case(PLAIN), floats(3, 20, 3, 8, 8)
    other = case(PLAIN, b3=floats(4, 5)).model
    labels = run(other, {"x": x})[0].argmax(axis=1)
    asked: list[int] = []

    def read(start: int, stop: int) -> tuple[Feeds, np.ndarray]:
        asked.append(stop - start)
        return {"x": x[start:stop]}, labels[start:stop]

    anew = Judge(network.model, Read(Dataset("made up", len(x), read), 8))
    assert asked == [8, 8, 4]
    at_once = Judge(network.model, [({"x": x[k : k + 8]}, labels[k : k + 8]) for k in range(0, 20, 8)])
    assert anew.metric == at_once.metric == "top1"
    assert anew(other) == at_once(other)
    assert anew(other).score == 1
    assert asked == [8, 8, 4] * 3
