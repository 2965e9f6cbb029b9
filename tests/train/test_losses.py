"""The loss of a batch is the distortion that is reported, and light changes to images are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
from graph.onnx_text import floats
from hypothesis import given
from hypothesis import strategies as st
from lissom.price.outputs import distortion

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")

from lissom.train.augment import augment
from lissom.train.losses import divergence, relative_error, task_loss

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.integers(1, 8), st.integers(2, 6))
def test_at_temperature_one_the_divergence_is_the_distortion(seed: int, count: int, classes: int) -> None:
    first, second = floats(seed, count, classes), floats(seed + 1, count, classes)
    loss = divergence(torch.from_numpy(first), torch.from_numpy(second), 1.0, False)
    assert float(loss) == pytest.approx(distortion([([first], [second])], True), rel=1e-4, abs=1e-6)


@given(SEEDS, st.floats(0.5, 8))
def test_probabilities_diverge_as_their_scores_do(seed: int, temperature: float) -> None:
    first, second = (torch.from_numpy(floats(seed + i, 4, 5)) for i in range(2))
    scores = divergence(first, second, temperature, False)
    probabilities = divergence(first.softmax(1), second.softmax(1), temperature, True)
    torch.testing.assert_close(scores, probabilities, rtol=1e-3, atol=1e-5)
    assert float(scores) >= 0
    assert float(divergence(first, first, temperature, False)) == pytest.approx(0, abs=1e-5)


@given(SEEDS)
def test_the_cross_entropy_of_labels_is_the_divergence_from_certainty(seed: int) -> None:
    scores, labels = torch.from_numpy(floats(seed, 6, 4)), torch.from_numpy(np.arange(6) % 4)
    certain = torch.nn.functional.one_hot(labels, 4).float()
    for outputs, probabilities in ((scores, False), (scores.softmax(1), True)):
        loss = task_loss(outputs, labels, probabilities)
        torch.testing.assert_close(loss, divergence(certain, scores.softmax(1), 1.0, True), rtol=1e-3, atol=1e-5)


@given(SEEDS)
def test_the_relative_error_is_the_distortion(seed: int) -> None:
    first, second = ([floats(seed + i, 3, 4), floats(seed + i + 5, 2, 2, 2)] for i in range(2))
    named = [{str(i): torch.from_numpy(values) for i, values in enumerate(side)} for side in (first, second)]
    assert float(relative_error(*named)) == pytest.approx(distortion([(first, second)], False), rel=1e-4)


@given(SEEDS, st.floats(0, 0.9), st.booleans())
def test_a_smoothed_label_is_a_mixture_of_its_class_and_all_classes(
    seed: int, smoothing: float, probabilities: bool
) -> None:
    scores, labels = torch.from_numpy(floats(seed, 6, 4)), torch.tensor([0, 1, 2, 3, 0, 1])
    given_out = scores.softmax(dim=1) if probabilities else scores
    own = task_loss(given_out, labels, probabilities)
    all_of_them = sum(task_loss(given_out, torch.full((6,), label), probabilities) for label in range(4)) / 4
    found = task_loss(given_out, labels, probabilities, smoothing)
    torch.testing.assert_close(found, (1 - smoothing) * own + smoothing * all_of_them, rtol=1e-4, atol=1e-5)


def test_outputs_that_are_no_floats_do_not_count() -> None:
    first = {"a": torch.ones(3), "b": torch.zeros(3, dtype=torch.int64)}
    assert float(relative_error(first, first | {"b": torch.ones(3, dtype=torch.int64)})) == 0


@given(SEEDS, st.integers(0, 3), st.booleans())
def test_every_image_is_shifted_with_its_edge_repeated_and_maybe_flipped(seed: int, shift: int, flip: bool) -> None:
    images = floats(seed, 5, 2, 6, 7)
    changed = augment(images, shift, flip, np.random.default_rng(seed))
    padded = np.pad(images, [(0, 0), (0, 0), (shift, shift), (shift, shift)], mode="edge")
    for image, frame in zip(changed, padded, strict=True):
        moved = [
            frame[:, down : down + 6, right : right + 7]
            for down in range(2 * shift + 1)
            for right in range(2 * shift + 1)
        ]
        assert any(np.array_equal(image, one) for one in moved + [one[..., ::-1] for one in moved if flip])


def test_all_shifts_and_both_sides_occur() -> None:
    image = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
    changed = augment(np.repeat(image, 400, axis=0), 1, True, np.random.default_rng(0))
    assert len({one.tobytes() for one in changed}) == 18


def test_without_shift_and_flip_images_stay_as_they_are() -> None:
    images = floats(0, 3, 2, 4, 4)
    np.testing.assert_array_equal(augment(images, 0, False, np.random.default_rng(0)), images)
