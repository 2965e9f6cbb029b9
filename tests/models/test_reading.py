"""Metrics of reading: decoding, distances and boxes (needs numpy and scipy; no model, no font)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom_models import reading
from lissom_runtime.accuracy import evaluate

CLASSES = reading.alphabet("'\na\nb\n疗\n0\n.")
SIDE = 64

texts = st.lists(st.text(CLASSES[1:], max_size=8), min_size=1, max_size=5)
Floats = npt.NDArray[np.float32]


def spelled(lines: Sequence[str]) -> Floats:
    """Probabilities[n, steps, classes] of a reader that is sure of each letter: one blank after each."""
    steps = 2 * max(len(line) for line in lines) + 1
    sure = np.zeros((len(lines), steps, len(CLASSES)), np.float32)
    for row, line in zip(sure, lines, strict=True):
        path = [step for letter in line for step in (CLASSES.index(letter), reading.BLANK)]
        row[np.arange(steps), path + [reading.BLANK] * (steps - len(path))] = 1
    return sure


def at_steps(path: Sequence[int]) -> Floats:
    """Probabilities[1, steps, classes] with the best class of each step."""
    return np.eye(len(CLASSES), dtype=np.float32)[np.array(path, np.int64)][None]


def test_the_alphabet_begins_with_the_blank_and_ends_with_the_space() -> None:
    assert CLASSES == ("", "'", "a", "b", "疗", "0", ".", " ")


@given(lines=texts)
def test_encoded_lines_decode_to_themselves(lines: list[str]) -> None:
    labels = reading.encode(lines, CLASSES)
    assert labels.dtype == np.int32
    assert labels.shape == (len(lines), max(map(len, lines)))
    assert reading.decode(labels, CLASSES) == lines


def test_a_letter_outside_the_alphabet_is_refused_with_its_line() -> None:
    with pytest.raises(ValueError, match=r"characters of the alphabet in 'ab z', got 'z'"):
        reading.encode(["a", "ab z"], CLASSES)


@given(lines=texts)
def test_a_reader_that_is_sure_of_each_letter_reads_every_line(lines: list[str]) -> None:
    outputs, labels = {"p": spelled(lines)}, reading.encode(lines, CLASSES)
    assert reading.decode(reading.read_lines(outputs["p"]), CLASSES) == lines
    assert reading.line_accuracy(outputs, labels).tolist() == [1.0] * len(lines)
    assert reading.character_accuracy(outputs, labels).tolist() == [1.0] * len(lines)


@given(line=st.text(CLASSES[1:], min_size=1, max_size=8), data=st.data())
def test_one_wrong_letter_costs_the_line_and_one_character(line: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.sampled_from([letter for letter in CLASSES[1:] if letter != line[place]]))
    outputs = {"p": spelled([line[:place] + other + line[place + 1 :], line])}
    labels = reading.encode([line, line], CLASSES)
    assert reading.line_accuracy(outputs, labels).tolist() == [0.0, 1.0]
    np.testing.assert_allclose(reading.character_accuracy(outputs, labels), [1 - 1 / len(line), 1.0])


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ([0, 0, 0], ""),
        ([2, 2, 2], "a"),
        ([2, 0, 2], "aa"),
        ([0, 2, 2, 0, 0, 3, 3], "ab"),
        ([2, 3, 3, 2], "aba"),
        ([7, 7, 2, 0], " a"),
        ([2, 2, 0, 2, 2, 3], "aab"),
    ],
)
def test_repeats_are_one_letter_unless_a_blank_parts_them(path: list[int], line: str) -> None:
    assert reading.decode(reading.read_lines(at_steps(path)), CLASSES) == [line]


def test_nothing_read_of_a_line_scores_zero_and_of_an_empty_line_one() -> None:
    outputs = {"p": np.concatenate([at_steps([0, 0]), at_steps([0, 0]), at_steps([2, 3])])}
    labels = reading.encode(["ab", "", ""], CLASSES)
    assert reading.line_accuracy(outputs, labels).tolist() == [0.0, 1.0, 0.0]
    assert reading.character_accuracy(outputs, labels).tolist() == [0.0, 1.0, 0.0]


def levenshtein(first: str, second: str) -> int:
    """The textbook recursion, for short lines."""
    if not first or not second:
        return len(first) + len(second)
    changed = levenshtein(first[1:], second[1:]) + (first[0] != second[0])
    return min(changed, levenshtein(first[1:], second) + 1, levenshtein(first, second[1:]) + 1)


@given(pairs=st.lists(st.tuples(*[st.text("ab0", max_size=4)] * 2), min_size=1, max_size=4))
def test_distances_are_those_of_the_textbook(pairs: list[tuple[str, str]]) -> None:
    first, second = (reading.encode([pair[side] for pair in pairs], CLASSES) for side in (0, 1))
    assert reading.distances(first, second).tolist() == [levenshtein(*pair) for pair in pairs]


def drawn(boxes: Sequence[Sequence[int]]) -> Floats:
    """A map[1, 1, SIDE, SIDE] with 0.9 inside the boxes and 0.1 outside."""
    values = np.full((1, 1, SIDE, SIDE), 0.1, np.float32)
    for top, left, bottom, right in boxes:
        values[0, 0, top:bottom, left:right] = 0.9
    return values


@st.composite
def apart(draw: st.DrawFn) -> list[list[int]]:
    """Boxes of 16 pixels or more in rows, none of which touches another; from top to bottom."""
    edges = sorted(draw(st.sets(st.integers(0, SIDE), min_size=0, max_size=8)))
    rows = [(top, bottom) for top, bottom in pairwise(edges) if bottom - top >= 5][::2]
    found = []
    for top, bottom in rows:
        left = draw(st.integers(0, SIDE - 4))
        found.append([top, left, bottom - 1, draw(st.integers(left + 4, SIDE))])
    return found


@given(rectangles=apart())
def test_drawn_rectangles_are_found_and_agree_with_themselves(rectangles: list[list[int]]) -> None:
    values = drawn(rectangles)
    found = reading.boxes(values)
    assert found.dtype == np.int32
    assert found[0].tolist() == rectangles
    assert reading.box_agreement({"m": values}, found).tolist() == [1.0]


@given(rectangles=apart(), data=st.data())
def test_a_missing_rectangle_costs_its_share_of_both(rectangles: list[list[int]], data: st.DataObject) -> None:
    kept = [one for one in rectangles if data.draw(st.booleans())]
    expected = 2 * len(kept) / (len(kept) + len(rectangles)) if rectangles else 1.0
    fewer, all_of_them = (np.array(some, np.int32).reshape(-1, 4) for some in (kept, rectangles))
    agreements = [
        reading.box_agreement({"m": drawn(rectangles)}, reading.pad_boxes([fewer])),
        reading.box_agreement({"m": drawn(kept)}, reading.pad_boxes([all_of_them])),
    ]
    np.testing.assert_allclose(np.concatenate(agreements), expected)


@pytest.mark.parametrize(
    ("shift", "agreement"),
    [(0, 1.0), (3, 1.0), (4, 0.0)],  # of 10 columns: 7/13 of the union are shared, then 6/14
)
def test_boxes_match_from_half_of_their_union_on(shift: int, agreement: float) -> None:
    moved = np.array([[[10, 10 + shift, 20, 20 + shift]]], np.int32)
    assert reading.box_agreement({"m": drawn([[10, 10, 20, 20]])}, moved).tolist() == [agreement]


def test_a_box_is_matched_once_only() -> None:
    twice = np.array([[[10, 10, 20, 20], [10, 10, 20, 21]]], np.int32)
    np.testing.assert_allclose(reading.box_agreement({"m": drawn([[10, 10, 20, 20]])}, twice), [2 / 3])


def test_as_many_boxes_are_matched_as_there_can_be() -> None:
    # Two nested angles; the nearest expected box of the outer one is the only one of the inner one.
    values = drawn([[0, 0, 1, 20], [0, 0, 20, 1], [19, 2, 20, 20], [2, 19, 20, 20]])
    expected = np.array([[[0, 0, 20, 20], [0, 0, 14, 15]]], np.int32)
    found = reading.boxes(values)[0]
    np.testing.assert_allclose(reading.overlaps(found, expected[0]), [[1, 0.525], [0.81, 156 / 378]])
    assert reading.box_agreement({"m": values}, expected).tolist() == [1.0]


@pytest.mark.parametrize(("height", "found"), [(3, 0), (4, 1)])
def test_parts_below_the_least_area_are_no_boxes(height: int, found: int) -> None:
    assert reading.boxes(drawn([[8, 8, 8 + height, 12]])).shape == (1, found, 4)


def test_maps_of_different_numbers_of_boxes_are_padded() -> None:
    values = np.concatenate([drawn([]), drawn([[0, 0, 9, 9], [20, 20, 29, 29]]), drawn([[5, 5, 60, 60]])])
    found = reading.boxes(values)
    assert found.shape == (3, 2, 4)
    assert (found[..., 0] != reading.PADDING).sum(axis=1).tolist() == [0, 2, 1]
    assert reading.box_agreement({"m": values}, found).tolist() == [1.0, 1.0, 1.0]


METRICS = [
    (reading.line_accuracy, at_steps([2])),
    (reading.character_accuracy, at_steps([2])),
    (reading.box_agreement, drawn([])),
]


@pytest.mark.parametrize(("metric", "output"), METRICS)
@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (None, "got data without them"),
        (np.zeros(1, np.int64), r"got int64 of shape \(1,\)"),
        (np.zeros((2, 3, 4), np.int32), r"got int32 of shape \(2, 3, 4\)"),
        (np.zeros((1, 3), np.float32), r"got float32 of shape \(1, 3\)"),
    ],
)
def test_labels_of_another_form_are_refused(
    metric: Callable[..., object], output: Floats, labels: npt.NDArray[np.int32] | None, complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        metric({"o": output}, labels)


@pytest.mark.parametrize(("metric", "output"), METRICS)
def test_outputs_of_another_network_are_refused(metric: Callable[..., object], output: Floats) -> None:
    with pytest.raises(ValueError, match=r"expected \w+ \[n, .*\], got shape \(1, 10\)"):
        metric({"o": output.ravel()[:10].reshape(1, -1).repeat(10, 1)[:, :10]}, np.zeros((1, 1), np.int32))


class Reader:
    """A model whose output is its input."""

    def get_outputs(self) -> list[object]:
        return [type("Output", (), {"name": "p"})]

    def run(self, names: Sequence[str], feeds: dict[str, Floats]) -> list[Floats]:
        return [feeds["x"]]


def test_the_metrics_are_called_by_name_batch_by_batch() -> None:
    lines = ["ab", "a 0", "b.b"]
    outputs, labels = spelled(lines), reading.encode(["ab", "a 0", "b."], CLASSES)
    batches = [({"x": outputs[start : start + 2]}, labels[start : start + 2]) for start in (0, 2)]
    score = evaluate(Reader(), batches, "lissom_models.reading:line_accuracy")
    assert (score.value, score.n) == (pytest.approx(2 / 3), 3)
