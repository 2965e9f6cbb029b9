"""How well PP-OCR networks read: metrics for `--metric lissom_models.reading:FUNCTION`.

The recogniser gives probabilities[n, steps, classes]. Class 0 is the blank of connectionist temporal classification,
the last class is the space, those between are the characters that the file lists. A line is read greedily: the best
class of each step, equal neighbours as one, blanks dropped. Lines as class numbers are int32[n, length], padded with
-1 on the right, both as labels and as read.

The detector gives a map[n, 1, height, width] of the probability of text. Its boxes are the bounding boxes of the
connected parts (four neighbours) above `THRESHOLD`, those of fewer than `LEAST_AREA` pixels left out. Boxes are
int32[n, boxes, 4]: top, left, bottom, right, the last two exclusive; rows of -1 pad.

Each metric returns one score in 0..1 for a sample, more is better:

- `line_accuracy`: 1 where the whole line is read as its label, else 0;
- `character_accuracy`: 1 - (Levenshtein distance to the label) / (its length, at least 1), not below 0;
- `box_agreement`: 2·matched / (boxes + expected), and 1 where there are neither. Boxes are matched one to one, as many
  as there can be, where their intersection is `OVERLAP` of their union or more.

Source: Graves et al. 2006, §3.2 (best path); Wagner and Fischer 1974 (distance); Liao et al. 2020, §3 (the map).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

Array = npt.NDArray[Any]
Ints = npt.NDArray[np.int32]
Scores = npt.NDArray[np.float64]

BLANK: Final = 0
PADDING: Final = -1
THRESHOLD: Final = 0.3
LEAST_AREA: Final = 16
"""Pixels of a connected part."""
OVERLAP: Final = 0.5


def alphabet(character: str) -> tuple[str, ...]:
    """The text of each class of a recogniser.

    Args:
        character: what the file's metadata has under that name: one character a line.

    Returns:
        The blank as "", the characters, the space.
    """
    return ("", *character.split("\n"), " ")


def encode(texts: Sequence[str], classes: Sequence[str]) -> Ints:
    """Class numbers[n, length of the longest] of lines of text.

    Args:
        texts: the lines.
        classes: the text of each class, as `alphabet` gives it.

    Raises:
        ValueError: a character is none of the classes.
    """
    numbers = {text: number for number, text in enumerate(classes)}
    for text in texts:
        for letter in text:
            if letter not in numbers:
                raise ValueError(f"expected characters of the alphabet in {text!r}, got {letter!r}")
    return _padded([np.array([numbers[letter] for letter in text], np.int32) for text in texts])


def decode(labels: Array, classes: Sequence[str]) -> list[str]:
    """The texts of lines of class numbers[n, length]; the inverse of `encode`."""
    return ["".join(classes[number] for number in row if number != PADDING) for row in labels]


def read_lines(probabilities: Array) -> Ints:
    """The lines read from probabilities[n, steps, classes], as class numbers[n, length of the longest].

    Raises:
        ValueError: the array has another number of axes.
    """
    if probabilities.ndim != 3:
        raise ValueError(f"expected probabilities [n, steps, classes], got shape {probabilities.shape}")
    best = probabilities.argmax(axis=2).astype(np.int32)
    kept = best != BLANK
    kept[:, 1:] &= best[:, 1:] != best[:, :-1]
    return _padded([row[mask] for row, mask in zip(best, kept, strict=True)])


def line_accuracy(outputs: Mapping[str, Array], labels: Array | None) -> Scores:
    """Whether each line is read as its label [n].

    Args:
        outputs: the recogniser's, by name; the first is used.
        labels: class numbers[n, length].

    Raises:
        ValueError: labels are missing or of another form or number than the lines.
    """
    read, expected = _lines(outputs, labels)
    width = max(read.shape[1], expected.shape[1])
    right: Scores = (_widened(read, width) == _widened(expected, width)).all(axis=1).astype(np.float64)
    return right


def character_accuracy(outputs: Mapping[str, Array], labels: Array | None) -> Scores:
    """The share of each line's characters that is right [n].

    Args:
        outputs: the recogniser's, by name; the first is used.
        labels: class numbers[n, length].

    Raises:
        ValueError: labels are missing or of another form or number than the lines.
    """
    read, expected = _lines(outputs, labels)
    lengths = np.maximum((expected != PADDING).sum(axis=1), 1)
    share: Scores = np.maximum(1 - distances(read, expected) / lengths, 0)
    return share


def distances(first: Array, second: Array) -> npt.NDArray[np.int64]:
    """Levenshtein distance of each pair of lines of class numbers [n], for first[n, a] and second[n, b].

    All pairs go at once, one row of the table of prefixes after the other: of its three neighbours an entry has the
    one above and the one across at hand, and that to the left by a running minimum of (entry - column).
    """
    columns = np.arange(second.shape[1] + 1)
    first_length, second_length = ((lines != PADDING).sum(axis=1) for lines in (first, second))
    row = np.broadcast_to(columns, (len(first), len(columns)))
    distance = np.where(first_length == 0, second_length, 0)
    for step in range(first.shape[1]):
        across = row[:, :-1] + (first[:, step, None] != second)
        reached = np.concatenate([row[:, :1] + 1, np.minimum(row[:, 1:] + 1, across)], axis=1)
        row = np.minimum.accumulate(reached - columns, axis=1) + columns
        distance = np.where(first_length == step + 1, row[np.arange(len(row)), second_length], distance)
    return distance.astype(np.int64)


def boxes(maps: Array) -> Ints:
    """The boxes of maps[n, 1, height, width], as int32[n, most boxes of one map, 4].

    Raises:
        ValueError: the array has another shape.
    """
    if maps.ndim != 4 or maps.shape[1] != 1:
        raise ValueError(f"expected maps [n, 1, height, width], got shape {maps.shape}")
    return pad_boxes([_boxes_of(values[0]) for values in maps])


def pad_boxes(found: Sequence[Array]) -> Ints:
    """Boxes[n, most boxes of one, 4] of a list of boxes[boxes, 4]."""
    padded = np.full((len(found), max((len(some) for some in found), default=0), 4), PADDING, np.int32)
    for row, some in zip(padded, found, strict=True):
        row[: len(some)] = some
    return padded


def box_agreement(outputs: Mapping[str, Array], labels: Array | None) -> Scores:
    """How well the boxes of each map agree with the expected ones [n].

    Args:
        outputs: the detector's, by name; the first is used.
        labels: boxes[n, boxes, 4].

    Raises:
        ValueError: labels are missing or of another form or number than the maps.
    """
    found = boxes(next(iter(outputs.values())))
    expected = _required(labels, len(found), 3, "boxes [n, boxes, 4]")
    return np.array([_agreement(*(_real(some) for some in pair)) for pair in zip(found, expected, strict=True)])


def overlaps(first: Array, second: Array) -> Scores:
    """Intersection over union[a, b] of first[a, 4] and second[b, 4], which have area."""
    start = np.maximum(first[:, None, :2], second[None, :, :2])
    stop = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.maximum(stop - start, 0), axis=2, dtype=np.float64)
    first_area, second_area = (np.prod(some[:, 2:] - some[:, :2], axis=1, dtype=np.float64) for some in (first, second))
    ratio: Scores = shared / (first_area[:, None] + second_area - shared)
    return ratio


def _agreement(found: Array, expected: Array) -> float:
    if not len(found) and not len(expected):
        return 1.0
    near = overlaps(found, expected) >= OVERLAP
    matched = int(near[linear_sum_assignment(near, maximize=True)].sum())
    return 2 * matched / (len(found) + len(expected))


def _boxes_of(values: Array) -> Ints:
    """Boxes[boxes, 4] of a map[height, width], from top to bottom."""
    parts, _ = ndimage.label(values > THRESHOLD)
    areas = np.bincount(parts.ravel())[1:]
    places = [place for place, area in zip(ndimage.find_objects(parts), areas, strict=True) if area >= LEAST_AREA]
    return np.array([[y.start, x.start, y.stop, x.stop] for y, x in places], np.int32).reshape(-1, 4)


def _real(some: Array) -> Array:
    """Boxes[boxes, 4] without padding."""
    kept: Array = some[some[:, 0] != PADDING]
    return kept


def _lines(outputs: Mapping[str, Array], labels: Array | None) -> tuple[Ints, Array]:
    read = read_lines(next(iter(outputs.values())))
    return read, _required(labels, len(read), 2, "class numbers [n, length]")


def _required(labels: Array | None, n: int, axes: int, form: str) -> Array:
    """The labels, checked."""
    if labels is None:
        raise ValueError(f"expected {form} as labels, got data without them")
    if labels.ndim != axes or len(labels) != n or labels.dtype.kind != "i":
        raise ValueError(f"expected {form} as labels of {n} samples, got {labels.dtype} of shape {labels.shape}")
    return labels


def _padded(lines: Iterable[Array]) -> Ints:
    """Class numbers[n, length of the longest] of single lines."""
    rows = list(lines)
    padded = np.full((len(rows), max((len(row) for row in rows), default=0)), PADDING, np.int32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


def _widened(lines: Array, width: int) -> Array:
    """Lines[n, length] as [n, width], padded."""
    return np.pad(lines, ((0, 0), (0, width - lines.shape[1])), constant_values=PADDING)
