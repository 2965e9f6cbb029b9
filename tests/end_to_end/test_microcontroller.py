"""The benchmark on a microcontroller: fixed point, formats, and what a Cortex-M4 in QEMU makes of them."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

import lissom_models
import numpy as np
import pytest
from graph.onnx_text import floats, model
from hypothesis import given
from hypothesis import strategies as st
from lissom.canonical import canonicalise
from lissom.data import first_feeds, input_specs
from lissom.graph.load import load
from lissom.sparse.importance import own_importance
from lissom_runtime.errors import LoadError
from lissom_runtime.session import open_session, run_session

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.microcontroller import image as layout
from benchmarks.microcontroller.chain import Array, Stage, infer, read_chain
from benchmarks.microcontroller.emulator import HERE, TICK, Run, compile_program, missing, run
from benchmarks.microcontroller.fixed import SUM, FixedNetwork, fix
from benchmarks.microcontroller.image import FORMATS, Format, image_of, restore, store
from benchmarks.microcontroller.pruning import SCALPEL, TRADITIONAL, blocks_of, by_magnitude, in_pairs, in_pairs_over
from benchmarks.microcontroller.run import crossover

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 9)


def linear(rng: np.random.Generator, rows: int, columns: int, *, relu: bool = False) -> Stage:
    weight, bias = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    return Stage(f"linear{rows}x{columns}", weight, bias, 0, (columns, 1, 1), relu)


def convolution(
    rng: np.random.Generator, rows: int, kernel: int, shape: tuple[int, int, int], *, pool: int = 1
) -> Stage:
    weight, bias = rng.normal(size=(rows, shape[0] * kernel**2)), rng.normal(size=rows)
    return Stage(f"conv{rows}", weight, bias, kernel, shape, pool=pool)


def odd_network(rng: np.random.Generator) -> list[Stage]:
    """Odd rows, odd columns, and an odd number of positions."""
    return [
        convolution(rng, 7, 3, (3, 7, 7)),
        linear(rng, 5, 175, relu=True),
        linear(rng, 3, 5),
    ]


def usual_network(rng: np.random.Generator) -> list[Stage]:
    """The sizes of LeNet-5, which are compiled apart; windows that do not fit in the second layer."""
    return [
        convolution(rng, 6, 5, (1, 20, 20), pool=2),
        convolution(rng, 8, 2, (6, 8, 8), pool=3),
        linear(rng, 10, 32),
    ]


NETWORKS = {"odd": odd_network, "usual": usual_network}


def fixed(stages: list[Stage], rng: np.random.Generator) -> FixedNetwork:
    return fix(stages, [rng.normal(size=stages[0].shape) for _ in range(4)])


@given(seeds, sizes, sizes, st.sampled_from(FORMATS), st.floats(0, 1))
def test_a_format_stands_for_the_weight_that_was_stored(
    seed: int, rows: int, columns: int, format_: Format, density: float
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.integers(-9, 9, (rows, columns)) * (rng.random((rows, columns)) < density)).astype(np.int16)
    stored = store(weight, format_)
    assert np.array_equal(restore(stored, columns), weight)
    entries = {"dense": 0, "csr": int(np.count_nonzero(weight)), "grouped": len(stored.index)}[format_]
    values = {"dense": rows * (columns + columns % 2), "csr": entries, "grouped": 2 * entries}[format_]
    assert stored.nbytes == 2 * values + 2 * entries + (0 if format_ == "dense" else 4 * (rows + 1))


@given(seeds, sizes, sizes, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_no_input_makes_a_sum_leave_its_32_bits(
    seed: int, rows: int, columns: int, weights: float, biases: float
) -> None:
    rng = np.random.default_rng(seed)
    stage = linear(rng, rows, columns)
    stage = Stage("scaled", stage.weight * weights, stage.bias * biases, 0, stage.shape)
    network = fixed([stage], rng)
    found = network.stages[0]
    worst = abs(found.weight.astype(np.int64)).sum(axis=1) * 2**15 + abs(found.bias.astype(np.int64))
    assert worst.max() <= SUM
    assert 0 <= found.shift < 32


@pytest.mark.ort
@pytest.mark.parametrize("name", sorted(TRADITIONAL))
def test_fixed_point_chooses_the_class_that_the_network_in_float_chooses(name: str) -> None:
    stages = lenet(name)
    with np.load(lissom_models.calibration(name)) as data:
        observed, images = np.split(data["image"][:56], [32])
    network = fix(stages, list(observed))
    same = [network.infer(network.take_in(image)).argmax() == infer(stages, image)[-1].argmax() for image in images]
    assert sum(same) >= len(images) - 1


@pytest.mark.ort
@pytest.mark.parametrize("name", sorted(TRADITIONAL))
def test_the_chain_computes_what_the_model_computes(name: str) -> None:
    with np.load(lissom_models.calibration(name)) as data:
        image: Array = data["image"][:1]
    expected = run_session(open_session(lissom_models.path(name).read_bytes()), {"image": image})[0]
    np.testing.assert_allclose(infer(lenet(name), image[0])[-1], expected[0], rtol=1e-4, atol=1e-4)


@cache
def lenet(name: str) -> list[Stage]:
    loaded = load(lissom_models.path(name))
    feeds = first_feeds(input_specs(loaded.inputs), str(lissom_models.calibration(name)), {})
    return read_chain(canonicalise(loaded, feeds))


CONV = "c = Conv <kernel_shape = [3, 3]> (x, w)"
REFUSED = {
    "a stride": ("y = Conv <strides = [2, 2]> (x, w)", "expected a square kernel, stride 1 and no padding"),
    "padding": ("y = Conv <pads = [1, 1, 1, 1]> (x, w)", "expected a square kernel, stride 1 and no padding"),
    "a residual": (f"{CONV} r = Relu(c) y = Add(r, c)", "expected a layer, Relu, one MaxPool"),
    "two readers": (f"{CONV} r = Relu(c) y = Relu(c)", "to read 'r', but got 'c'"),
    "windows that overlap": (f"{CONV} y = MaxPool <kernel_shape = [2, 2]> (c)", "expected square windows side by side"),
    "pooling before a layer": ("m = MaxPool <kernel_shape = [1, 1]> (x) y = Conv(m, w)", "but got .*, MaxPool"),
}


@pytest.mark.ort
@pytest.mark.parametrize("case", REFUSED)
def test_a_network_that_the_program_cannot_run_is_refused(case: str) -> None:
    body, message = REFUSED[case]
    loaded = model(f"net (float[1, 2, 9, 9] x) => (float[a, b, c, d] y) {{ {body} }}", w=floats(0, 4, 2, 3, 3))
    canonical = canonicalise(loaded, {"x": floats(1, 1, 2, 9, 9)})
    with pytest.raises(ValueError, match=message):
        read_chain(canonical)


@pytest.mark.ort
@pytest.mark.parametrize("name", sorted(TRADITIONAL))
def test_a_pruned_network_keeps_no_more_than_the_published_share_and_hardly_less(name: str) -> None:
    stages = lenet(name)
    for pruned in (by_magnitude(stages, TRADITIONAL[name]), in_pairs(stages, TRADITIONAL[name])):
        for stage, density in zip(pruned, TRADITIONAL[name], strict=True):
            assert density * stage.weight.size - 2 <= np.count_nonzero(stage.weight) <= density * stage.weight.size
    kept = sum(np.count_nonzero(stage.weight) for stage in in_pairs_over(stages, SCALPEL[name]))
    whole = SCALPEL[name] * sum(stage.weight.size for stage in stages)
    assert whole - 2 <= kept <= whole


@given(seeds, st.floats(0.3, 1))
def test_one_threshold_parts_the_pairs_of_all_layers(seed: int, density: float) -> None:
    stages = odd_network(np.random.default_rng(seed))
    kept, removed = [], []
    for before, after in zip(stages, in_pairs_over(stages, density), strict=True):
        blocks = blocks_of(before, 2)
        importance = own_importance(before.weight, blocks, "rms")
        left = own_importance(after.weight, blocks, "rms") > 0
        kept += importance[left].tolist()
        removed += importance[~left].tolist()
        behind = slice(blocks.removable, None)
        assert np.array_equal(after.weight[:, behind], before.weight[:, behind])
    assert min(kept) > max(removed, default=0.0)


def test_one_threshold_cannot_remove_the_weights_that_are_in_no_pair() -> None:
    with pytest.raises(ValueError, match="expected a density of more than"):
        in_pairs_over(odd_network(np.random.default_rng(0)), 0.01)


def test_a_network_that_is_larger_than_the_program_s_buffers_is_refused() -> None:
    rng = np.random.default_rng(0)
    network = fixed([linear(rng, 2, 20000)], rng)
    with pytest.raises(ValueError, match="expected fewer than 16384 activations, but the input has 20000"):
        image_of(network, [store(one.weight, "dense") for one in network.stages], network.take_in(np.zeros(20000)))


def test_the_driver_and_the_program_mean_the_same_sizes() -> None:
    header = (HERE / "network.h").read_text(encoding="utf-8")
    found = {name: int(value, 0) for name, value in re.findall(r"\b(k\w+) = (\w+)", header)}
    assert found == {
        "kMagic": layout.MAGIC,
        "kMaxLayers": layout.MOST_LAYERS,
        "kMaxActivations": layout.MOST_ACTIVATIONS,
        "kMaxColumns": layout.MOST_COLUMNS,
        **{f"k{format_.capitalize()}": number for number, format_ in enumerate(FORMATS)},
    }


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LoadError, match=r"expected arm-none-eabi-gcc .* is not installed"):
        compile_program(tmp_path)


def test_the_crossover_is_where_the_line_meets_dense() -> None:
    assert crossover((0.1, 20), (1.0, 200), 100) == pytest.approx(0.5)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if absent := missing():
        pytest.skip(f"not installed: {', '.join(absent)} (Debian: gcc-arm-none-eabi, qemu-system-arm)")
    return compile_program(tmp_path_factory.mktemp("microcontroller"))


def runs(program: Path, network: FixedNetwork, x: Array) -> dict[str, Run]:
    """What the network in each of the formats gives and takes."""
    taken = network.take_in(x)
    return {
        format_: run(program, image_of(network, [store(one.weight, format_) for one in network.stages], taken))
        for format_ in FORMATS
    }


@pytest.mark.parametrize("scale", [1.0, 9.0], ids=["observed", "saturated"])
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_all_formats_give_the_fixed_point_network_to_the_bit(name: str, scale: float, program: Path) -> None:
    rng = np.random.default_rng(7)
    stages = NETWORKS[name](rng)
    network = fixed(in_pairs(stages, [0.5] * len(stages)), rng)
    x = scale * rng.normal(size=network.stages[0].stage.shape)
    expected = network.infer(network.take_in(x)).tolist()
    assert any(expected)
    for found in runs(program, network, x).values():
        assert found.outputs == expected


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_groups_of_two_run_the_fewest_instructions_at_density_0_3_and_dense_where_all_is_kept(
    kind: str, program: Path
) -> None:
    rng = np.random.default_rng(3)
    stage = linear(rng, 64, 128) if kind == "linear" else convolution(rng, 16, 5, (4, 10, 10))
    x = rng.normal(size=stage.shape)
    sparse = runs(program, fixed(in_pairs([stage], [0.3]), rng), x)
    whole = runs(program, fixed([stage], rng), x)
    assert sparse["dense"].outputs == sparse["csr"].outputs == sparse["grouped"].outputs
    assert sparse["grouped"].total < min(sparse["dense"].total, sparse["csr"].total)
    assert whole["dense"].total < whole["grouped"].total < whole["csr"].total


def test_a_count_depends_on_no_value_and_is_the_same_again(program: Path) -> None:
    rng = np.random.default_rng(5)
    network = fixed(usual_network(rng), rng)
    shape = network.stages[0].stage.shape
    first, again, other = (runs(program, network, x) for x in (np.ones(shape), np.ones(shape), -rng.random(shape)))
    assert first == again
    assert all(first[format_].outputs != other[format_].outputs for format_ in FORMATS)
    assert all(abs(first[format_].total - other[format_].total) <= TICK for format_ in FORMATS)


def test_a_loop_of_known_length_is_counted_as_long_as_it_is(program: Path) -> None:
    rng = np.random.default_rng(1)
    network = fixed([linear(rng, 2, 2)], rng)
    for turns, counted in runs(program, network, np.ones(2))["dense"].loops.items():
        assert abs(counted - 2 * turns) <= TICK
