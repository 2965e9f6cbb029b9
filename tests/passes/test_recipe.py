"""Presets are valid recipes, and a recipe file is read as strictly as a flag."""

from __future__ import annotations

from pathlib import Path

import pytest
from lissom.recipe import make_bounds, preset_names, read_recipe
from lissom_runtime.errors import UsageError

PRESETS = [
    "alds",
    "alds-error3",
    "alds-optk",
    "alds-simple3",
    "alds-simple5",
    "biclustering",
    "cp",
    "fast",
    "integral",
    "l-rank",
    "lowrank",
    "magnitude",
    "minimax",
    "monochromatic",
    "nodes",
    "obs",
    "pca",
    "pca-asymmetric",
    "scalpel",
    "scalpel-simd",
    "spatial",
    "svd",
    "svd-energy",
    "svd-error",
    "svd-nuclear",
    "tiling",
    "tucker",
]


def test_every_preset_is_valid_described_and_named_after_its_file() -> None:
    assert preset_names() == PRESETS
    for name in preset_names():
        recipe = read_recipe(name)
        assert recipe.name == name
        assert recipe.description.endswith(".")


def test_every_preset_stands_in_the_table_of_methods() -> None:
    table = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    for name in preset_names():
        assert any(f"`{name}`" in row for row in rows)


def test_a_preset_and_a_file_of_the_same_text_are_the_same_recipe(tmp_path: Path) -> None:
    path = tmp_path / "fast.toml"
    path.write_text('[low_rank]\nfoldings = [0, 1, 2, 3]\nsides = ["input", "output"]\nrank_multiple = "target"\n')
    mine, preset = read_recipe(str(path)), read_recipe("minimax")
    assert (mine.low_rank, mine.allocate) == (preset.low_rank, preset.allocate)


def test_the_published_iteration_takes_the_published_options_only(tmp_path: Path) -> None:
    path = tmp_path / "mixed.toml"
    path.write_text('[low_rank]\nmetric = "spectral"\n[allocate]\nobjective = "alds"\n')
    with pytest.raises(UsageError, match='objective "alds" expects'):
        read_recipe(str(path))


def test_errors_are_summed_only_where_they_add_up(tmp_path: Path) -> None:
    path = tmp_path / "sum.toml"
    path.write_text('[low_rank]\nmetric = "frobenius"\n[allocate]\nobjective = "total"\n')
    with pytest.raises(UsageError, match='objective "total" expects error "outputs" or metric "energy"'):
        read_recipe(str(path))
    path.write_text('[low_rank]\nmetric = "energy"\n[allocate]\nobjective = "total"\n')
    assert read_recipe(str(path)).metric == "energy"


@pytest.mark.parametrize(
    "text", ["unknown = 1", "[low_rank]\nmetric = 'best'", "[allocate]\nseed = 'x'", "[low_rank]\ngroups = []"]
)
def test_unknown_words_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="expected a valid recipe"):
        read_recipe(str(path))


def test_bounds_name_the_budgets_that_were_given() -> None:
    assert make_bounds(keep_macs=0.5, max_drop=0.1).budgets == {"keep_macs": 0.5}
