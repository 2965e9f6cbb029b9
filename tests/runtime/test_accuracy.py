"""Metrics on models that are tables of outputs."""

import math
import sys
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom_runtime.accuracy import IDENTICAL_DB, Batch, evaluate
from lissom_runtime.errors import UsageError, VerificationError

Array = npt.NDArray[Any]


class Table:
    """A model that looks its outputs up by the row numbers it is fed."""

    def __init__(self, **outputs: Any) -> None:
        self.outputs = {name: np.asarray(array) for name, array in outputs.items()}

    def get_outputs(self) -> Sequence[Any]:
        return [SimpleNamespace(name=name) for name in self.outputs]

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Array]) -> list[Array]:
        return [self.outputs[name][input_feed["row"]] for name in output_names or self.outputs]


def batches(count: int, labels: Array | None, size: int = 3) -> Iterator[Batch]:
    for start in range(0, count, size):
        rows = np.arange(start, min(start + size, count))
        yield {"row": rows}, None if labels is None else labels[rows]


SCORES = np.array([[0.1, 0.9, 0.0], [0.5, 0.2, 0.3], [0.1, 0.2, 0.7], [0.4, 0.4, 0.2]], np.float32)


def test_top1_is_the_share_of_best_classes_that_are_labels_and_ties_go_to_the_lower() -> None:
    assert evaluate(Table(y=SCORES), batches(4, np.array([1, 2, 2, 0])), "top1").value == 0.75
    assert evaluate(Table(y=SCORES), batches(4, np.array([1, 2, 2, 1])), "top1").value == 0.5


@given(st.integers(0, 2**32 - 1), st.integers(1, 7))
def test_top5_agrees_with_sorting_and_the_batch_size_does_not_matter(seed: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.permuted(np.tile(np.arange(8.0), (11, 1)), axis=1)
    labels = generator.integers(0, 8, 11)
    expected = np.mean([scores[i, label] >= 3 for i, label in enumerate(labels)])
    score = evaluate(Table(y=scores), batches(11, labels, size), "top5")
    assert score.value == pytest.approx(expected)
    assert (score.n, score.name) == (11, "top5")


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 1, 1), (4, 1, 3)])
def test_axes_of_extent_one_do_not_hide_a_classifier(shape: tuple[int, ...]) -> None:
    labels = np.array([[1], [0], [2], [0]])
    assert evaluate(Table(y=SCORES.reshape(shape)), batches(4, labels), "top1").value == 1


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 1), (4, 3, 2), (4, 3, 8, 8)])
def test_a_shape_that_is_no_classifiers_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected class scores \[n, classes\] in the first output, got y of shape"):
        evaluate(Table(y=np.zeros(shape)), batches(4, np.zeros(4, int)), "top1")


@pytest.mark.parametrize(
    ("labels", "metric", "said"),
    [
        (None, "top1", "expected labels for the metric top1, got data without them"),
        (np.zeros(4), "top1", "whole-number labels"),
        (np.eye(4, dtype=int), "top1", "whole-number labels"),
        (np.array([0, 1, 2, 3]), "top1", "expected labels from 0 to 2, got 3 to 3"),
        (np.array([0, -1, 2, 0]), "top1", "expected labels from 0 to 2, got -1 to 2"),
        (np.zeros(4, int), "top5", "expected more than 5 classes for the best 5, got 3"),
        (np.zeros(4, int), "top2", "expected a metric among top1, top5, agreement, output and MODULE:FUNCTION"),
        (None, "agreement", "expected a reference model for the metric 'agreement', got none"),
        (None, "output", "expected a reference model for the metric 'output', got none"),
    ],
)
def test_a_metric_without_what_it_needs_is_refused(labels: Array | None, metric: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        evaluate(Table(y=SCORES), batches(4, labels), metric)


def test_no_samples_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one sample"):
        evaluate(Table(y=SCORES), [], "top1")


def test_outputs_that_are_not_finite_fail_verification() -> None:
    broken = SCORES.copy()
    broken[3, 0] = np.nan
    with pytest.raises(VerificationError, match="got NaN or infinity in y"):
        evaluate(Table(y=broken), batches(4, np.zeros(4, int)), "top1")


def test_agreement_compares_the_best_classes_and_needs_no_labels() -> None:
    other = Table(y=SCORES * np.array([1, 1, 0.1]))
    assert evaluate(other, batches(4, None), "agreement", Table(y=SCORES)).value == 0.75
    assert evaluate(Table(y=SCORES), batches(4, None), "agreement", Table(y=SCORES)).value == 1


def test_output_is_the_worst_outputs_signal_to_noise_over_all_samples() -> None:
    reference = {"good": np.full((4, 2), 10.0), "bad": np.array([[1.0], [2.0], [3.0], [4.0]])}
    noisy = {"good": np.full((4, 2), 10.01), "bad": reference["bad"] + [[0.1], [0.0], [0.0], [-0.2]]}
    score = evaluate(Table(**noisy), batches(4, None), "output", Table(**reference))
    assert score.value == pytest.approx(10 * math.log10(30 / 0.05))


@pytest.mark.parametrize(("reference", "value"), [(SCORES, IDENTICAL_DB), (0 * SCORES, -IDENTICAL_DB)])
def test_extreme_signal_to_noise_stays_finite(reference: Array, value: float) -> None:
    assert evaluate(Table(y=SCORES), batches(4, None), "output", Table(y=reference)).value == value


@pytest.mark.parametrize("other", [{"z": SCORES}, {"y": SCORES[:, :2]}])
def test_outputs_that_cannot_be_compared_are_refused(other: dict[str, Array]) -> None:
    with pytest.raises(UsageError, match="expected"):
        evaluate(Table(**other), batches(4, None), "output", Table(y=SCORES))


@pytest.fixture
def own_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_metrics.py").write_text(
        "def second(outputs, labels):\n    return outputs['b'][:, 0] + labels\n"
        "def wrong(outputs, labels):\n    return 1.0\n"
        "def raising(outputs, labels):\n    raise ValueError('expected labels of words')\n"
        "constant = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_metrics", None)


@pytest.mark.usefixtures("own_metrics")
def test_a_users_function_sees_all_outputs_by_name_and_the_labels() -> None:
    model = Table(a=SCORES, b=SCORES)
    assert evaluate(model, batches(4, np.arange(4)), "own_metrics:second").value == pytest.approx(
        SCORES[:, 0].mean() + 1.5
    )


@pytest.mark.usefixtures("own_metrics")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("own_metrics:wrong", "expected 3 finite scores from own_metrics:wrong, one a sample, got float64 "),
        (
            "own_metrics:raising",
            "expected scores from own_metrics:raising, but got ValueError: expected labels of words",
        ),
        ("own_metrics:absent", "expected a function 'absent' in 'own_metrics', got None"),
        ("own_metrics:constant", "expected a function 'constant' in 'own_metrics', got 3"),
        ("no_such_module:f", "expected to import 'no_such_module'"),
        (":f", "expected MODULE:FUNCTION, got ':f'"),
    ],
)
def test_a_users_function_that_does_not_fit_is_explained(words: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        evaluate(Table(y=SCORES), batches(4, None), words)


def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    def peak(count: int) -> int:
        table = Table(y=np.broadcast_to(np.arange(1000.0), (count, 1000)))
        tracemalloc.start()
        evaluate(table, batches(count, np.full(count, 999), 50), "top1")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)
    assert peak(5000) < 2 * peak(500)
