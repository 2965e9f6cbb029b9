"""A target file is read as strictly as a recipe, and what is written is read back."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.presets import names_in
from lissom.target.schema import (
    PRESETS,
    BlockTimes,
    LayerShape,
    MeasuredShape,
    Rates,
    Sparse,
    Target,
    read_target,
    require_here,
)
from lissom.target.writing import to_toml, write_target
from lissom_runtime.errors import UsageError
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.target import Machine
from passes.target_cases import target

HERE = Machine("A Processor", "x86_64", frozenset({"avx2", "fma"}), 2, "Linux 6", "1.32.0")
RATES = {"stream_gbps": 10.0, "gather_gbps": 1.0, "gmacs": 40.0, "busy_threads": 1.0}
ONE_THREAD = {"names": ["CPUExecutionProvider"], "threads": 1}
SPARSE = {"pattern": "columns", "widths": (8,)}

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBER = st.floats(1e-300, 1e300)
COUNT = st.integers(1, 2**40)
BLOCKS = st.lists(st.tuples(st.floats(0.001, 0.999), NUMBER), min_size=1, max_size=4, unique_by=lambda pair: pair[0])


@st.composite
def block_times(draw: st.DrawFn) -> dict[str, Any]:
    pairs = sorted(draw(BLOCKS))
    return {
        "width": draw(st.sampled_from([1, 2, 4, 8, 16])),
        "densities": [density for density, _ in pairs],
        "us": [us for _, us in pairs],
        "crossover": draw(st.none() | st.just(pairs[-1][0])),
    }


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    op = draw(st.sampled_from(["Conv", "Gemm"]))
    extents = st.lists(COUNT, min_size=4, max_size=4) if op == "Conv" else st.lists(COUNT, min_size=2, max_size=2)
    return {
        "name": draw(TEXT),
        "op": op,
        "weight": draw(extents),
        "input": draw(extents),
        "dense_us": draw(NUMBER),
        "memory_bound": draw(st.booleans()),
        "blocks": draw(st.lists(block_times(), max_size=2, unique_by=lambda times: times["width"])),
    }


TARGETS = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "description": TEXT,
        "parallelism": st.sampled_from(["low", "moderate", "high"]),
        "simd_width": COUNT,
        "channel_block": COUNT,
        "kernels": st.none() | TEXT,
        "processor": st.none() | st.builds(Machine, TEXT, TEXT, st.frozensets(TEXT), COUNT, TEXT, TEXT).map(
            Machine.to_json
        ),
        "provider": st.none() | st.fixed_dictionaries({"names": st.lists(TEXT, max_size=2), "threads": COUNT}),
        "sparse": st.just(SPARSE),
        "rates": st.just(RATES),
        "shapes": st.lists(shapes(), max_size=2, unique_by=lambda shape: shape["name"]),
    }
).map(Target.model_validate)  # fmt: skip


@given(TARGETS)
def test_what_is_written_is_what_is_read(given_target: Target) -> None:
    assert Target.model_validate(tomllib.loads(to_toml(given_target))) == given_target


def test_a_file_is_called_by_its_name(tmp_path: Path) -> None:
    write_target(target(name="another"), tmp_path / "board.toml")
    assert read_target(str(tmp_path / "board.toml")) == target(name="board")


def test_presets_allow_only_what_their_processors_can_use() -> None:
    small, wide = read_target("microcontroller"), read_target("gpu")
    assert names_in(PRESETS) == ["gpu", "microcontroller"]
    assert (small.parallelism, small.sparse.pattern, small.sparse.widths) == ("low", "rows", (2, 4))
    assert (wide.parallelism, wide.sparse.widths) == ("high", ())
    for preset in (small, wide):
        assert preset.description.endswith(".")
        assert (preset.processor, preset.provider, preset.rates, preset.shapes) == (None, None, None, ())


GOOD = 'version = 1\nparallelism = "high"\nsimd_width = 4\nchannel_block = 4\n'
SHAPE = '[[shapes]]\nname = "s"\nop = "Gemm"\nweight = [1, 1]\ninput = [1, 1]\ndense_us = 1\nmemory_bound = true\n'
BLOCK = "[[shapes.blocks]]\nwidth = 1\ndensities = [0.1, 0.2]\nus = [1, 2]\n"
BAD = {
    "no TOML": ("version =", "expected a target in TOML, but 'FILE' is not: "),
    "no text": (b"\xff\xfe", "expected a target in TOML, but 'FILE' is not: "),
    "too deep": ("a = " + "[" * 9999, "expected a target in TOML, but 'FILE' is not: "),
    "too long": ("a = " + "9" * 9999, "expected a target in TOML, but 'FILE' is not: "),
    "empty": ("", "expected a target of version 1, but 'FILE' has 'no version'"),
    "newer": (GOOD.replace("= 1", "= 2") + "more = 1", "expected a target of version 1, but 'FILE' has 2"),
    "unknown field": (GOOD + "cpu = 1", "in 'FILE' cpu = 1: extra inputs are not permitted"),
    "unknown class": (GOOD.replace("high", "none"), "in 'FILE' parallelism = 'none': input should be 'low'"),
    "no width": (GOOD.replace("= 4", "= 0", 1), "in 'FILE' simd_width = 0: input should be greater than or equal to 1"),
    "odd width": (GOOD + "[sparse]\nwidths = [3]", "in 'FILE' sparse.widths.0 = 3: input should be 1, 2, 4, 8 or 16"),
    "descending": (GOOD + "[sparse]\nwidths = [4, 2]", "expected ascending widths, but got [4, 2]"),
    "low without widths": (GOOD.replace("high", "low"), 'expected widths in sparse for the parallelism "low", but got'),
    "moderate without rates": (
        GOOD.replace("high", "moderate") + "[sparse]\nwidths = [4]",
        'expected rates for the parallelism "moderate", but got none',
    ),
    "a latency short": (
        GOOD + SHAPE + BLOCK.replace("[1, 2]", "[1]"),
        "expected ascending densities and as many us, but got (0.1, 0.2) and (1.0,)",
    ),
    "no number": (GOOD.replace("= 4", "= true", 1), "in 'FILE' simd_width = True: input should be a valid integer"),
    "no width but true": (
        GOOD + "[sparse]\nwidths = [true]",
        "sparse.widths.0 = True: expected a number, but got true",
    ),
    "a name twice": (GOOD + 2 * SHAPE, "expected names of shapes that differ, but got ['s', 's']"),
    "a width twice": (GOOD + SHAPE + 2 * BLOCK, "expected widths that differ, but got [1, 1]"),
    "axes": (GOOD + SHAPE.replace("Gemm", "Conv"), "expected 4 axes of a Conv, but got (1, 1) and (1, 1)"),
    "unmeasured crossover": (
        GOOD + SHAPE + BLOCK + "crossover = 0.5\n",
        "expected a crossover of at most 0.2, but got 0.5",
    ),
    "infinite": (
        GOOD + "[rates]\nstream_gbps = inf\ngather_gbps = 1\ngmacs = 1\nbusy_threads = 1",
        "in 'FILE' rates.stream_gbps = inf: input should be a finite number",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), BAD.values(), ids=BAD.keys())
def test_a_file_that_is_no_target_is_refused(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    path = tmp_path / "board.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as caught:
        read_target(str(path))
    assert sentence.replace("FILE", str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_target_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(
        UsageError,
        match=r"expected one of the targets \['gpu', 'microcontroller'\] or a TOML file, but got 'nowhere'",
    ):
        read_target("nowhere")


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"expected to write .*board\.toml, but got: "):
        write_target(target(), tmp_path / "absent" / "board.toml")


def test_low_favours_zeros_and_high_favours_nodes_in_every_layer() -> None:
    for parallelism, method in (("low", "sparse"), ("high", "nodes")):
        given_target = target(parallelism=parallelism, sparse=SPARSE)
        assert {given_target.favours(macs, 1e6, 1e6) for macs in (1, 1e12)} == {method}


def test_moderate_favours_zeros_where_memory_is_waited_for() -> None:
    moderate = target(parallelism="moderate", sparse=SPARSE, rates=RATES)
    fully_connected = LayerShape(name="fc", op="Gemm", weight=(4096, 4096), input=(1, 4096))
    convolution = LayerShape(name="conv", op="Conv", weight=(64, 64, 3, 3), input=(1, 64, 56, 56))
    assert moderate.favours(fully_connected.macs, fully_connected.moved_bytes, 0) == "sparse"
    assert moderate.favours(convolution.macs, 0, convolution.moved_bytes) == "nodes"


@given(st.floats(1, 1e12), st.floats(0, 1e9), st.floats(0, 1e9), st.floats(1, 100))
def test_more_arithmetic_on_the_same_bytes_never_turns_to_zeros(
    macs: float, weight: float, activations: float, factor: float
) -> None:
    moderate = target(parallelism="moderate", sparse=SPARSE, rates=RATES)
    methods = [moderate.favours(work, weight, activations) for work in (macs, factor * macs)]
    assert methods != ["nodes", "sparse"]


def test_the_page_says_what_every_field_means() -> None:
    page = (Path(__file__).parents[2] / "docs" / "target.md").read_text(encoding="utf-8")
    fields = {*Target.model_fields, *Sparse.model_fields, *Rates.model_fields, *MeasuredShape.model_fields}
    for field in {*fields, *BlockTimes.model_fields} - {"name", "op"}:
        assert re.search(rf"`(\[*\w*\.?)?{field}\]*`", page), field


def test_work_and_bytes_of_a_shape_are_those_of_its_operator() -> None:
    convolution = LayerShape(name="c", op="Conv", weight=(8, 4, 3, 1), input=(2, 4, 6, 5))
    assert convolution.output == (2, 8, 6, 5)
    assert convolution.macs == 8 * 4 * 3 * 2 * 30
    assert convolution.moved_bytes == 4 * (8 * 4 * 3 + 2 * 4 * 30 + 2 * 8 * 30)
    product = LayerShape(name="g", op="Gemm", weight=(3, 5), input=(7, 5))
    assert (product.output, product.macs) == ((7, 3), 3 * 5 * 7)


def test_a_target_of_this_machine_is_taken() -> None:
    for there in (HERE, replace(HERE, cores=64, onnxruntime="2", system="other")):
        require_here(target(processor=there.to_json(), provider=ONE_THREAD), HERE, ProviderRequest())


@pytest.mark.parametrize(
    ("there", "told"),
    [
        (replace(HERE, cpu="A Board"), "'a test' was measured on A Board (x86_64)"),
        (replace(HERE, architecture="aarch64"), "'a test' was measured on A Processor (aarch64)"),
        (replace(HERE, isa=frozenset({"avx2"})), "was measured on one with other instruction sets: fma"),
        (None, "'a test' was measured on none: it is a class of processors"),
    ],
)
def test_a_target_of_another_machine_is_refused(there: Machine | None, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_here(target(processor=None if there is None else there.to_json()), HERE, ProviderRequest())
    assert str(caught.value).startswith("expected a target of this machine, A Processor (x86_64), but ")
    assert told in str(caught.value)


def test_a_target_of_other_threads_or_providers_is_refused() -> None:
    given_target = target(processor=HERE.to_json(), provider=ONE_THREAD)
    for asked in (ProviderRequest(threads=2), ProviderRequest(names=("OtherProvider",))):
        with pytest.raises(UsageError, match=r"was measured with CPUExecutionProvider and 1 thread\(s\)"):
            require_here(given_target, HERE, asked)
