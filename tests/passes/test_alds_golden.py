"""The ALDS iteration against the authors' released program, on a BN-folded CIFAR ResNet-20.

The numbers in tests/data/golden_alds_resnet20.json came out of that program. Its error
tables are float32 printed with nine digits, which is enough to have them back exactly.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lissom.allocate.alds import Tables, alds, global_step, local_step, search, tables
from lissom.lowrank.errors import error_curve
from lissom.lowrank.foldings import Scheme
from lissom.options import Cost, Ladder, Menu, Option

ROOT = Path(__file__).parents[2]
GOLDEN: dict[str, Any] = json.loads((ROOT / "tests/data/golden_alds_resnet20.json").read_text())
LAYERS: list[dict[str, Any]] = GOLDEN["network"]["layers"]
KEEPS = sorted(GOLDEN["keep_ratios"])
NETWORK = ROOT.parent / "shared/data/cifar10-jpeg/resnet20.onnx"


def golden_menu(layer: dict[str, Any]) -> Menu:
    """The menu of a layer, with the errors of the golden file."""
    name, f, columns = layer["name"], layer["f"], layer["c"] * layer["k1"] * layer["k2"]
    made = []
    for k, vector in GOLDEN["error_vectors"][name].items():
        errors = np.array(vector, np.float32).astype(np.float64)
        steps = np.arange(1, len(errors) + 1)
        params = (steps * (int(k) * f + columns)).astype(np.float64)
        parameters = {"folding": 0, "side": "input", "groups": int(k)}
        error = np.append(errors[1:], 0.0)
        made.append(
            Ladder(name, "low-rank", parameters, "rank", steps, error, errors[0], params, 4 * params, params, "code")
        )
    cost = Cost(layer["weights"], 4 * layer["weights"], layer["weights"])
    return Menu(name, Option(name, "dense", {}, cost, 0.0, "code"), made)


MENUS = [golden_menu(layer) for layer in LAYERS]


@pytest.fixture(scope="module")
def golden() -> Tables:
    descending = [(menu, sorted(menu.ladders, key=lambda x: -int(x.parameters["groups"]))) for menu in MENUS]
    return tables(descending)


def choice_of(golden: Tables, groups: list[int]) -> np.ndarray:
    found = golden.nearest(groups)
    np.testing.assert_array_equal(golden.groups[np.arange(len(found)), found], groups)
    return found


def test_the_golden_file_holds_all_that_is_replayed() -> None:
    steps = [step for keep in KEEPS for start in GOLDEN["keep_ratios"][keep]["starts"] for step in start]
    assert (KEEPS, len(LAYERS), len(steps)) == (["0.3", "0.5", "0.7"], 20, 225)


@pytest.mark.parametrize("keep", KEEPS)
def test_every_allocation_has_the_same_level_ranks_and_size(golden: Tables, keep: str) -> None:
    case = GOLDEN["keep_ratios"][keep]
    budget = case["allocator_driver_budget"]["budget"]
    for step in (step for start in case["starts"] for step in start):
        found = global_step(golden, choice_of(golden, step["k"]), budget)
        assert found.level == pytest.approx(step["epsilon"], abs=1e-14)
        assert (found.ranks.tolist(), found.size) == (step["j"], step["size"])


@pytest.mark.parametrize("keep", KEEPS)
def test_every_choice_of_groups_is_the_same(golden: Tables, keep: str) -> None:
    for start in GOLDEN["keep_ratios"][keep]["starts"]:
        for before, after in pairwise(start):
            found = local_step(golden, choice_of(golden, before["k"]), np.array(before["j"]))
            assert golden.groups[np.arange(len(found)), found].tolist() == after["k"]


@pytest.mark.parametrize("keep", KEEPS)
def test_requested_groups_go_to_the_nearest_divisor_and_get_the_same_ranks(golden: Tables, keep: str) -> None:
    for case in GOLDEN["keep_ratios"][keep]["fixed_k"]:
        choice = golden.nearest(np.full(len(LAYERS), case["k_requested"]))
        assert golden.groups[np.arange(len(choice)), choice].tolist() == case["k"]
        found = global_step(golden, choice, case["budget"])
        assert found.level == pytest.approx(case["epsilon"], abs=1e-14)
        assert (found.ranks.tolist(), found.size) == (case["j"], case["total_size"])


@pytest.mark.parametrize("keep", KEEPS)
def test_random_starts_draw_the_same_groups(golden: Tables, keep: str) -> None:
    rng = np.random.RandomState(0)
    for wanted in GOLDEN["keep_ratios"][keep]["k_start"][4:]:
        choice = golden.random(rng)
        assert golden.groups[np.arange(len(choice)), choice].tolist() == wanted


@pytest.mark.parametrize("keep", KEEPS)
def test_the_whole_search_ends_the_same_for_every_seed(golden: Tables, keep: str) -> None:
    case = GOLDEN["keep_ratios"][keep]
    for run in case["np_seed_sweep"]:
        budget = case["allocator_driver_budget"]["budget"]
        found = search(golden, budget, np.random.RandomState(run["np_seed"]))
        assert found.level == pytest.approx(run["epsilon"], abs=1e-14)
        assert golden.groups[np.arange(len(found.choice)), found.choice].tolist() == run["k"]
        assert (found.ranks.tolist(), found.size) == (run["j"], run["total_size"])


@pytest.mark.parametrize("budget", ["allocator_driver_budget", "allocator_weights_only_budget"])
@pytest.mark.parametrize("keep", KEEPS)
def test_the_plan_is_the_published_one_and_keeps_dense_what_does_not_shrink(keep: str, budget: str) -> None:
    case = GOLDEN["keep_ratios"][keep][budget]
    plan = alds(MENUS, case["budget"], seed=0)
    assert plan.total("params") == case["total_size"]
    for layer in case["layers"]:
        option = plan.options[layer["name"]]
        assert option.cost.params == layer["size"]
        if layer["counted_dense"]:
            assert option.kind == "dense"
        else:
            assert (option.parameters["groups"], option.parameters["rank"]) == (layer["k"], layer["j"])


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    if not NETWORK.exists():
        pytest.skip(f"the network of the golden values is not in this checkout: {NETWORK}")
    graph = onnx.load(NETWORK).graph
    found = {initializer.name: onnx.numpy_helper.to_array(initializer) for initializer in graph.initializer}
    return {layer["name"]: found[layer["name"] + ".weight"] for layer in LAYERS}


def test_our_code_metric_gives_the_golden_error_tables(weights: dict[str, np.ndarray]) -> None:
    """The golden values are float32: their own rounding is what the tolerance allows."""
    for name, vectors in GOLDEN["error_vectors"].items():
        for k, vector in vectors.items():
            errors = error_curve(weights[name], Scheme(0, "input", int(k)), "code")
            np.testing.assert_allclose(errors[:-1], vector, rtol=0, atol=1e-6, err_msg=f"{name} k={k}")
            assert errors[-1] == 0


def test_our_code_and_spectral_metrics_agree_with_the_float64_values(weights: dict[str, np.ndarray]) -> None:
    """The golden float64 values have nine digits; on ranks off its grid `spectral` is a bound."""
    exact = 0
    for name, rows in GOLDEN["error_tables"].items():
        for row in rows:
            scheme = Scheme(0, "input", row["k"])
            code, spectral = (error_curve(weights[name], scheme, metric) for metric in ("code", "spectral"))
            for at in row["at"]:
                assert code[at["rank"]] == pytest.approx(at["err_at_rank_f64"], abs=1e-9)
                assert spectral[at["rank"]] >= at["residual_opnorm_f64"] - 1e-9
                exact += spectral[at["rank"]] == pytest.approx(at["residual_opnorm_f64"], abs=1e-9)
    assert exact > 60
