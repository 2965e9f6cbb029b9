"""The zoo's lookup functions and its data files (needs nothing but numpy)."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path

import lissom_models
import numpy as np
import pytest

LOOKUPS: list[Callable[[str], Path]] = [lissom_models.path, lissom_models.calibration, lissom_models.test]
PACKAGE = Path(lissom_models.__file__).parent


def imports(file: str) -> set[str]:
    """The modules that a file of the package imports."""
    imported = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None and node.level == 0
            imported.add(node.module)
    return imported


def test_the_zoo_holds_the_five_networks() -> None:
    assert lissom_models.NAMES == ("lenet-300-100", "lenet5", "mobilenet-small", "resnet20", "vgg-small")


@pytest.mark.parametrize("name", lissom_models.NAMES)
@pytest.mark.parametrize("lookup", LOOKUPS, ids=lambda lookup: lookup.__name__)
def test_every_name_leads_to_a_file_inside_the_package(lookup: Callable[[str], Path], name: str) -> None:
    file = lookup(name)
    assert file.is_file()
    assert file.parent == PACKAGE / "data"


@pytest.mark.parametrize("lookup", [*LOOKUPS, lissom_models.accuracy], ids=lambda lookup: lookup.__name__)
def test_an_unknown_name_is_refused_with_the_known_ones(lookup: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"got 'resnet21'") as caught:
        lookup("resnet21")
    for name in lissom_models.NAMES:
        assert name in str(caught.value)


def test_the_lookups_import_only_the_standard_library() -> None:
    assert imports("__init__.py") | imports("zoo.py") <= {
        "__future__",
        "json",
        "lissom_models.zoo",
        "pathlib",
        "typing",
    }


def test_the_package_imports_nothing_of_lissom_and_no_more_than_it_depends_on() -> None:
    imported = {name.split(".")[0] for file in PACKAGE.glob("**/*.py") for name in imports(file.name)}
    assert imported - sys.stdlib_module_names == {"lissom_models", "numpy", "PIL", "scipy"}


@pytest.mark.parametrize("name", lissom_models.NAMES)
@pytest.mark.parametrize(("lookup", "count"), [(lissom_models.calibration, 2000), (lissom_models.test, 10000)])
def test_slices_have_the_stated_shapes_and_types(lookup: Callable[[str], Path], count: int, name: str) -> None:
    with np.load(lookup(name), allow_pickle=False) as arrays:
        assert sorted(arrays) == ["image", "labels"]
        image, labels = arrays["image"], arrays["labels"]
    assert (image.dtype, image.shape) == (np.float32, (count, 1, 28, 28))
    assert (labels.dtype, labels.shape) == (np.int64, (count,))
    assert (image.min(), image.max()) == (0.0, 1.0)
    levels = np.rint(image * 255)
    assert np.array_equal(image, levels.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("lookup", [lissom_models.calibration, lissom_models.test], ids=["calibration", "test"])
def test_slices_are_balanced_and_mixed(lookup: Callable[[str], Path]) -> None:
    with np.load(lookup("resnet20"), allow_pickle=False) as arrays:
        labels = arrays["labels"]
    assert np.array_equal(np.bincount(labels), np.full(10, len(labels) // 10))
    assert len(np.unique(labels[:200])) == 10


def test_calibration_images_are_distinct_and_not_in_the_test_slice() -> None:
    seen = []
    for lookup in (lissom_models.calibration, lissom_models.test):
        with np.load(lookup("resnet20"), allow_pickle=False) as arrays:
            seen.append([image.tobytes() for image in arrays["image"]])
    calibration, test = seen
    assert len(set(calibration)) == len(calibration)
    assert not set(calibration) & set(test)


def test_the_licence_of_the_data_is_beside_it() -> None:
    text = (PACKAGE / "data" / "LICENSE").read_text(encoding="utf-8")
    assert "Zalando SE" in text and "The MIT License" in text
