"""Rendered text: reproducible, inside its image, and as labelled (needs the DejaVu faces)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lissom_models import text
from lissom_models.words import word

try:
    text.font_folder()
except FileNotFoundError as error:
    MISSING = str(error)
else:
    MISSING = ""

rendered = pytest.mark.skipif(MISSING != "", reason=MISSING)
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=10)


@rendered
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    for render in (lambda seed: text.lines(3, seed=seed)[0], lambda seed: text.pages(1, 320, 320, seed)):
        assert render(7).tobytes() == render(7).tobytes()
        assert render(7).tobytes() != render(8).tobytes()


@rendered
@few
@given(seed=seeds, count=st.integers(0, 4))
def test_a_smaller_count_is_the_beginning_of_a_larger_one(seed: int, count: int) -> None:
    images, texts = text.lines(4, seed=seed)
    fewer, fewer_texts = text.lines(count, seed=seed)
    assert np.array_equal(fewer, images[:count])
    assert fewer_texts == texts[:count]
    turned, labels = text.turned(4, seed=seed)
    fewer, fewer_labels = text.turned(count, seed=seed)
    assert np.array_equal(fewer, turned[:count])
    assert np.array_equal(fewer_labels, labels[:count])


@rendered
@few
@given(seed=seeds)
def test_a_line_has_paper_on_the_left_and_zeros_on_the_right(seed: int) -> None:
    images, texts = text.lines(3, seed=seed)
    assert (images.dtype, images.shape) == (np.float32, (3, 3, 48, 320))
    assert np.abs(images).max() <= 1
    for image, line in zip(images, texts, strict=True):
        columns = (image != 0).any(axis=(0, 1))
        assert not np.diff(columns.astype(int)).any() or np.flatnonzero(np.diff(columns.astype(int))).size == 1
        assert columns[0] and columns.sum() >= 8 * len(line) * 18 / 48


@rendered
@few
@given(seed=seeds)
def test_a_line_says_words_with_single_spaces_between_them(seed: int) -> None:
    for line in text.lines(4, seed=seed)[1]:
        assert line and line.split(" ") == line.split()
        assert line.isascii() and line.isprintable()


@rendered
@few
@given(seed=seeds)
def test_lines_keep_to_other_heights_and_widths(seed: int) -> None:
    images, _ = text.lines(2, 32, 160, seed)
    assert images.shape == (2, 3, 32, 160)
    assert (images[:, :, :, 0] != 0).any()


@rendered
def test_letters_in_an_image_are_those_of_the_text() -> None:
    images, texts = text.lines(200, seed=11)
    paper = [int((image != 0).any(axis=(0, 1)).sum()) for image in images]
    letters = [len(line) for line in texts]
    assert np.corrcoef(paper, letters)[0, 1] > 0.8
    assert len(set(texts)) > 190


@rendered
def test_half_of_the_turned_lines_are_upside_down() -> None:
    images, labels = text.turned(200, seed=3)
    assert (images.shape, labels.dtype) == ((200, 3, 48, 192), np.int64)
    assert set(labels.tolist()) == {0, 1}
    assert 70 <= labels.sum() <= 130


@rendered
def test_a_turned_line_is_the_upright_one_with_both_axes_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = np.arange(1, 48 * 100 * 3 + 1, dtype=np.int64).reshape(48, 100, 3) % 251
    monkeypatch.setattr(text, "_strip", lambda *_: (levels.astype(np.uint8), "Abc"))
    images, labels = text.turned(20, seed=5)
    upright, upside_down = images[labels == 0][0], images[labels == 1][0]
    np.testing.assert_array_equal(upside_down[:, :, :100], upright[:, ::-1, :100][:, :, ::-1])
    np.testing.assert_allclose(upright[:, :, :100], levels.transpose(2, 0, 1) / 127.5 - 1, atol=1e-6)
    assert not images[:, :, :, 100:].any()


@rendered
def test_a_page_has_several_lines_and_is_normalised_as_stated() -> None:
    images = text.pages(3, seed=1)
    assert (images.dtype, images.shape) == (np.float32, (3, 3, 640, 640))
    for image in images:
        levels = (image.transpose(1, 2, 0) * text.STD + text.MEAN) * 255
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-3)
        grey = levels.mean(axis=2)
        inked = (np.abs(grey - np.median(grey)) > 4 * np.std(grey[:, :4])).sum(axis=1) > 10
        assert np.count_nonzero(np.diff(inked.astype(int)) == 1) >= 5


@rendered
def test_an_image_too_narrow_for_a_word_is_refused_with_its_width() -> None:
    with pytest.raises(ValueError, match=r"expected a width that holds a word .*, got \d"):
        text.lines(1, 48, 12)


def test_missing_faces_are_one_error_that_says_how_to_get_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / text.FACES[0]).touch()
    monkeypatch.setattr(text, "_FOLDERS", (tmp_path,))
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FileNotFoundError, match=r"fonts-dejavu-core or pip install matplotlib") as caught:
        text.font_folder()
    assert str(tmp_path) in str(caught.value)


def test_faces_inside_matplotlib_serve_without_importing_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "matplotlib" / "mpl-data" / "fonts" / "ttf"
    folder.mkdir(parents=True)
    for face in text.FACES:
        (folder / face).touch()
    spec = text.importlib.util.spec_from_file_location("matplotlib", tmp_path / "matplotlib" / "__init__.py")
    monkeypatch.setattr(text, "_FOLDERS", (tmp_path,))
    monkeypatch.setattr(text.importlib.util, "find_spec", lambda _: spec)
    assert text.font_folder() == folder


def test_words_are_of_many_kinds() -> None:
    rng = np.random.default_rng(0)
    drawn = [word(rng) for _ in range(1000)]
    assert len(set(drawn)) > 500
    for pattern in ("0123456789", "%", "$", "#", "()", ":", "/", "-", ".", ",", "!", "?"):
        assert any(set(pattern) & set(one) for one in drawn)
    assert any(one.islower() for one in drawn) and any(one.isupper() for one in drawn)
