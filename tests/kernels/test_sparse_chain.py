"""sparse_chain: up to three layers in one pass, exactly, however the tasks are shared out among scratches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels.chain_shapes import NONE, RELU, SHAPES, chains
from kernels.chains import (
    CLIP,
    SCHEDULES,
    After,
    Chain,
    Layers,
    Plan,
    Schedule,
    convolve,
    kernels,
    multiply,
    plan_of,
    reference,
    run,
)
from kernels.guarded import guarded
from kernels.planned import PAIR, Shape
from kernels.weights import Floats, Weight, sparse
from lissom_runtime import library
from lissom_runtime.contract import BLOCKS

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]

EXACT = 2.0**24
HARD_SWISH, SILU = After("hard_swish"), After("silu")

every_shape = pytest.mark.parametrize("chain", SHAPES.values(), ids=SHAPES)


def residual_of(chain: Chain, rng: np.random.Generator) -> Floats:
    return rng.integers(-9, 10, (chain.batch, chain.out_channels, *chain.out)).astype(np.float32)


def require_exact(
    chain: Chain, *, add: bool = False, schedule: Schedule = SCHEDULES["ascending"], front: bool = False
) -> None:
    rng = np.random.default_rng(0)
    layers, x = chain.layers(rng), chain.image(rng)
    residual = residual_of(chain, rng) if add else None
    expected = reference(chain, layers, x, residual)
    assert expected.largest < EXACT
    np.testing.assert_array_equal(run(chain, layers, x, residual, schedule, front=front), expected.value)


GEOMETRIES: dict[str, dict[str, Any]] = {
    "3x3": {},
    "1x1": {"kernel": (1, 1), "pads": (0, 0, 0, 0)},
    "1x1 padded": {"kernel": (1, 1), "pads": (2, 1, 3, 2)},
    "3x3 stride 2": {"stride": (2, 2)},
    "3x3 stride 2 even": {"stride": (2, 2), "size": (8, 12), "pads": (0, 0, 1, 1)},
    "3x3 stride 3, 2": {"stride": (3, 2), "size": (11, 13)},
    "3x3 stride 1, 3": {"stride": (1, 3), "size": (11, 13)},
    "3x3 unpadded": {"pads": (0, 0, 0, 0)},
    "3x3 dilated": {"dilation": (2, 2), "pads": (2, 2, 2, 2)},
    "3x3 dilated, strided": {"dilation": (2, 3), "stride": (2, 2), "pads": (2, 3, 2, 3)},
    "3x3 asymmetric pads": {"pads": (0, 2, 3, 1)},
    "3x3 wide pads": {"pads": (7, 6, 8, 5), "size": (3, 2)},
    "3x3 wide pads, strided": {"pads": (7, 6, 8, 5), "size": (3, 2), "stride": (2, 3)},
    "3x3 stride 4, 5": {"stride": (4, 5), "size": (21, 23)},
    "1x1 stride beyond the kernel": {"kernel": (1, 1), "stride": (3, 3), "size": (11, 13), "pads": (1, 1, 0, 0)},
    "5x5": {"kernel": (5, 5), "pads": (2, 2, 2, 2)},
    "5x5 stride 2": {"kernel": (5, 5), "stride": (2, 2), "pads": (2, 2, 2, 2), "size": (14, 15)},
    "3x1": {"kernel": (3, 1), "pads": (1, 0, 1, 0)},
    "1x3": {"kernel": (1, 3), "pads": (0, 1, 0, 1)},
    "kernel wider than the image": {"kernel": (3, 5), "size": (2, 2), "pads": (1, 2, 1, 2)},
    "dilation beyond the image": {"size": (3, 3), "dilation": (4, 4), "pads": (4, 4, 4, 4)},
    "one pixel": {"size": (1, 1)},
    "one column": {"size": (60, 1)},
    "one row": {"size": (1, 60)},
    "a batch": {"batch": 3},
    "no weights": {"density": 0.0},
    "all weights": {"density": 1.0},
}
"""What differs from a layer of 3 x 3 with stride 1 and as much padding."""


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(replace(chain, **changes), id=f"{shape} {geometry}")
        for shape, chain in SHAPES.items()
        for geometry, changes in GEOMETRIES.items()
    ],
)
def test_every_geometry_is_exact(chain: Chain) -> None:
    require_exact(chain)
    require_exact(chain, add=chain.project is not None, schedule=SCHEDULES["fresh scratches"], front=True)


PADS_ALONE: dict[str, dict[str, Any]] = {
    "no rows": {"size": (0, 6), "pads": (2, 1, 2, 1)},
    "no columns": {"size": (5, 0), "pads": (1, 3, 1, 2), "stride": (2, 3)},
    "no pixels": {"size": (0, 0), "pads": (2, 1, 1, 2), "batch": 2},
}


@pytest.mark.parametrize("changes", PADS_ALONE.values(), ids=PADS_ALONE)
@every_shape
def test_an_image_without_pixels_is_its_padding_and_nothing_is_expanded_from_it(
    chain: Chain, changes: dict[str, Any]
) -> None:
    empty = replace(chain, **changes)
    if chain.expand is None:
        require_exact(empty, front=True)
    else:
        assert refused(empty.shape(), empty.layers(np.random.default_rng(0)))


@pytest.mark.parametrize("block", BLOCKS)
@every_shape
def test_every_block_is_exact(chain: Chain, block: int) -> None:
    other = BLOCKS[-1 - BLOCKS.index(block)]
    changes: dict[str, Any] = {"size": (13, 11), "project": chain.project and (3, block)}
    require_exact(replace(chain, **changes, expand=chain.expand and (3, block), spatial=chain.spatial and (2, other)))
    require_exact(replace(chain, **changes, expand=chain.expand and (2, other), spatial=chain.spatial and (3, block)))


def long(chain: Chain, stride: tuple[int, int] = (1, 1)) -> Chain:
    """The same with so many channels that the outputs of an image are cut into several bands."""
    return replace(
        chain,
        batch=2,
        channels=120 if chain.expand else 400,
        size=(60, 57),
        stride=stride,
        expand=chain.expand and (48, 4),
        spatial=chain.spatial and (4, 8),
        project=chain.project and (10, 4),
        threads=8,
    )


@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(long(SHAPES[name], (stride, stride)), id=f"{name} stride {stride}")
        for name in ("inverted_residual", "expanded_depthwise", "depthwise_separable", "bottleneck")
        for stride in (1, 2, 3)
    ],
)
def test_tasks_may_run_in_any_order_on_any_scratch(chain: Chain) -> None:
    chain = replace(chain, after=(SILU, HARD_SWISH, NONE))
    rng = np.random.default_rng(2)
    layers, x = chain.layers(rng, whole=False), chain.image(rng, whole=False)
    residual = residual_of(chain, rng) if chain.project else None
    assert plan_of(chain, layers).bands >= 3
    ascending = run(chain, layers, x, residual)
    assert np.isfinite(ascending).all()
    for schedule in SCHEDULES.values():
        np.testing.assert_array_equal(run(chain, layers, x, residual, schedule), ascending)


@every_shape
def test_threads_decide_the_bands_and_no_result(chain: Chain) -> None:
    rng = np.random.default_rng(4)
    alone = replace(long(chain), batch=1, threads=1)
    layers, x = alone.layers(rng, whole=False), alone.image(rng, whole=False)
    bands = [plan_of(replace(alone, threads=threads), layers).bands for threads in (1, 2, 3, 15)]
    assert bands[0] == min(bands)
    assert bands[1] % 2 == 0 and bands[2] % 3 == 0 and bands[3] == 15
    several = run(replace(alone, threads=15), layers, x, schedule=SCHEDULES["two threads"])
    np.testing.assert_array_equal(several, run(alone, layers, x))


@pytest.mark.parametrize(("batch", "bands"), [(1, 4), (2, 2), (3, 4), (4, 1), (8, 1), (17, 1)])
def test_images_that_all_threads_have_as_many_of_need_no_bands(batch: int, bands: int) -> None:
    chain = replace(SHAPES["bottleneck"], batch=batch, size=(16, 16), threads=4)
    assert plan_of(chain, chain.layers(np.random.default_rng(0))).bands == bands


def test_a_band_for_each_of_many_threads_has_whole_rows_of_some_outputs() -> None:
    chain = replace(SHAPES["bottleneck"], size=(7, 7), threads=64)
    assert plan_of(chain, chain.layers(np.random.default_rng(0))).bands == 2


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["inverted_residual", "expanded_depthwise", "bottleneck"])
def test_rows_that_two_bands_reach_are_expanded_once(name: str, stride: int) -> None:
    chain = long(SHAPES[name], (stride, stride))

    def spoil(x: Floats, plan: Plan, task: int) -> None:
        """Overwrites what the band above has read."""
        image, band = divmod(task, plan.bands)
        if band > 0:
            first = band * plan.band * stride - chain.pads[0]
            x[image, :, : first + chain.kernel[0] - stride] = np.nan

    rng = np.random.default_rng(6)
    layers, x = chain.layers(rng), chain.image(rng)
    np.testing.assert_array_equal(run(chain, layers, x, before=spoil), run(chain, layers, x))


@settings(max_examples=120, deadline=None, derandomize=True)
@given(chain=chains(), add=st.booleans(), schedule=st.sampled_from(list(SCHEDULES.values())), front=st.booleans())
def test_any_chain_is_exact(chain: Chain, add: bool, schedule: Schedule, front: bool) -> None:
    require_exact(chain, add=add and chain.project is not None, schedule=schedule, front=front)


@pytest.mark.parametrize("inner", [CLIP, RELU, NONE, HARD_SWISH, SILU], ids=lambda after: after.activation)
@pytest.mark.parametrize("last", [CLIP, NONE, HARD_SWISH, SILU], ids=lambda after: after.activation)
@pytest.mark.parametrize("name", ["inverted_residual", "bottleneck"])
def test_random_floats_stay_within_the_bound_of_their_layers(name: str, inner: After, last: After) -> None:
    chain = replace(SHAPES[name], channels=24, expand=(5, 4), size=(11, 12), after=(inner, inner, last))
    rng = np.random.default_rng(3)
    layers, x = chain.layers(rng, whole=False), chain.image(rng, whole=False)
    residual = residual_of(chain, rng)
    expected = reference(chain, layers, x, residual)
    actual = run(chain, layers, x, residual)
    assert (np.abs(actual - expected.value) <= expected.error).all()
    assert expected.error.max() < 1e-3 * expected.largest, "the bound tells nothing"


@pytest.mark.parametrize("stage", [0, 1, 2])
@every_shape
def test_every_layer_has_an_activation_of_its_own(chain: Chain, stage: int) -> None:
    after = [NONE, NONE, NONE]
    after[stage] = After("clip", -3.0, 2.0)
    require_exact(replace(chain, after=(after[0], after[1], after[2])), add=chain.project is not None)


def reached(chain: Chain, layers: Layers, lost: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which outputs depend on the elements of x where `lost` is 1, through stored weights."""
    seen = lost.astype(np.float64)
    if layers.expand is not None:
        seen = multiply(layers.expand.dense != 0, seen)
    if layers.spatial is not None:
        seen = convolve(chain, layers.spatial.dense != 0, seen)
    elif layers.depthwise is not None:
        seen = convolve(chain, np.ones_like(layers.depthwise), seen)
    if layers.project is not None:
        seen = multiply(layers.project.dense != 0, seen)
    return seen > 0


@every_shape
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_nan_or_an_infinity_reaches_the_outputs_that_depend_on_it_and_no_others(chain: Chain, special: float) -> None:
    chain = replace(long(chain), density=0.1, after=(NONE, NONE, NONE), batch=1, size=(30, 21))
    rng = np.random.default_rng(4)
    layers, x = chain.layers(rng, whole=False), chain.image(rng, whole=False)
    clean = run(chain, layers, x)
    lost = np.zeros_like(x)
    lost[0, ::5, 7, 20] = lost[0, ::7, 29, 0] = 1.0
    y = run(chain, layers, np.where(lost > 0, np.float32(special), x))
    depends = reached(chain, layers, lost)
    assert depends.any() and not depends.all()
    assert not np.isfinite(y[depends]).any()
    np.testing.assert_array_equal(y[~depends], clean[~depends])


@pytest.mark.parametrize("after", [NONE, RELU, CLIP, HARD_SWISH, SILU], ids=lambda after: after.activation)
@every_shape
def test_nan_passes_through_every_layer(chain: Chain, after: After) -> None:
    chain = replace(chain, density=1.0, after=(after, after, after))
    rng = np.random.default_rng(5)
    layers = chain.layers(rng, whole=False)
    assert np.isnan(run(chain, layers, np.full_like(chain.image(rng), np.nan))).all()


@every_shape
def test_denormals_are_kept(chain: Chain) -> None:
    tiny = np.float32(1e-45)
    chain = replace(chain, channels=1, kernel=(1, 1), pads=(0, 0, 0, 0), density=1.0, after=(NONE, NONE, NONE))
    single: dict[str, Any] = {name: (1, 1) for name in ("expand", "spatial", "project") if getattr(chain, name)}
    chain = replace(chain, **single)
    one, zero = guarded(np.ones((1, 1), np.float32)), guarded(np.zeros(1, np.float32))
    layers = chain.layers(np.random.default_rng(0))
    if layers.depthwise is not None:
        layers = replace(layers, depthwise=one, depthwise_bias=zero)
    for weight in (layers.expand, layers.spatial, layers.project):
        if weight is not None:
            weight.struct.values, weight.struct.bias = one.ctypes.data, zero.ctypes.data
    assert (run(chain, layers, np.full((1, 1, *chain.size), tiny)) == tiny).all()


def refused(shape: Shape, layers: Layers, threads: int = 1) -> bool:
    return bool(kernels().lissom_f32_sparse_chain_plan(shape, layers.struct(), threads, Plan()) == -1)


@pytest.mark.parametrize("threads", [0, -1, 1 << 31])
def test_a_run_for_no_threads_is_refused(threads: int) -> None:
    chain = SHAPES["bottleneck"]
    layers = chain.layers(np.random.default_rng(0))
    assert refused(chain.shape(), layers, threads)
    assert not refused(chain.shape(), layers)


@pytest.mark.parametrize(
    "changes",
    [
        *({name: value} for name in ("batch", "groups", "in_channels", "out_channels") for value in (0, -3)),
        *({name: 7} for name in ("groups", "in_channels", "out_channels")),
        *({name: PAIR(*pair)} for name in ("out", "kernel", "stride", "dilation") for pair in ((0, 5), (5, 0))),
        *({"input": PAIR(*pair)} for pair in ((-1, 5), (5, -1))),
        *({"pad": PAIR(*pair)} for pair in ((-1, 0), (0, -1), (1 << 62, 0), (0, 1 << 31))),
        *({name: PAIR(1 << 62, 1)} for name in ("input", "out", "kernel", "stride", "dilation")),
        *({name: PAIR(1, 1 << 62)} for name in ("input", "out", "kernel", "stride", "dilation")),
        *({name: PAIR(1 << 20, 1 << 20)} for name in ("input", "out", "kernel")),
        {"batch": 1 << 40},
        {"batch": 1 << 30},
        {"input": PAIR(1, 1 << 30), "out": PAIR(1, 1 << 30)},
        {"out": PAIR(1 << 20, 1), "stride": PAIR(1 << 20, 1)},
        {"out": PAIR(1, 1 << 20), "stride": PAIR(1, 1 << 20)},
        {"kernel": PAIR(1 << 16, 3), "dilation": PAIR(1 << 16, 1)},
    ],
    ids=lambda changes: " ".join(
        f"{name}={value if isinstance(value, int) else list(value)}" for name, value in changes.items()
    ),
)
@every_shape
def test_a_shape_that_cannot_be_counted_is_refused(chain: Chain, changes: dict[str, Any]) -> None:
    shape, layers = chain.shape(), chain.layers(np.random.default_rng(0))
    assert not refused(shape, layers)
    for name, value in changes.items():
        setattr(shape, name, value)
    assert refused(shape, layers)


def weight_of(block_rows: int, depth: int) -> Weight:
    rng = np.random.default_rng(0)
    return sparse(rng.random((block_rows, depth)) < 0.5, 4, rng)


MISFITS: dict[str, tuple[str, Callable[[Layers], Layers]]] = {
    "expand gives more channels than the depthwise layer reads": (
        "inverted_residual",
        lambda layers: replace(layers, expand=weight_of(4, 5)),
    ),
    "expand gives fewer": ("expanded_depthwise", lambda layers: replace(layers, expand=weight_of(2, 5))),
    "project reads more channels than the depthwise layer gives": (
        "inverted_residual",
        lambda layers: replace(layers, project=weight_of(2, 13)),
    ),
    "project reads fewer": ("depthwise_separable", lambda layers: replace(layers, project=weight_of(2, 4))),
    "expand gives more channels than the sparse layer reads": (
        "bottleneck",
        lambda layers: replace(layers, expand=weight_of(4, 5)),
    ),
    "project reads more channels than the sparse layer gives": (
        "bottleneck",
        lambda layers: replace(layers, project=weight_of(2, 9)),
    ),
    "the sparse layer reads more": ("bottleneck", lambda layers: replace(layers, spatial=weight_of(2, 13 * 9))),
    "the sparse layer has fewer taps": ("bottleneck", lambda layers: replace(layers, spatial=weight_of(2, 12 * 8))),
    "the sparse layer gives more": ("bottleneck", lambda layers: replace(layers, spatial=weight_of(3, 12 * 9))),
    "a sparse layer without expand": ("bottleneck", lambda layers: replace(layers, expand=None)),
    "a sparse layer without project": ("bottleneck", lambda layers: replace(layers, project=None)),
    "two layers in the middle": (
        "bottleneck",
        lambda layers: replace(layers, depthwise=np.ones((12, 9), np.float32), depthwise_bias=np.ones(12, np.float32)),
    ),
    "no layer in the middle": ("bottleneck", lambda layers: replace(layers, spatial=None)),
    "a depthwise layer without a bias": ("depthwise", lambda layers: replace(layers, depthwise_bias=None)),
}


@pytest.mark.parametrize(("name", "change"), MISFITS.values(), ids=MISFITS)
def test_layers_that_do_not_fit_each_other_are_refused(name: str, change: Callable[[Layers], Layers]) -> None:
    chain = SHAPES[name]
    layers = chain.layers(np.random.default_rng(0))
    assert not refused(chain.shape(), layers)
    assert refused(chain.shape(), change(layers))


def test_a_sparse_layer_in_the_middle_in_two_groups_is_refused() -> None:
    chain = SHAPES["bottleneck"]
    shape = chain.shape()
    shape.groups = 2
    layers = replace(chain.layers(np.random.default_rng(0)), spatial=weight_of(2, 6 * 9))
    assert refused(shape, layers)


def test_an_input_with_more_channels_than_a_panel_can_hold_is_refused() -> None:
    chain = SHAPES["inverted_residual"]
    layers = chain.layers(np.random.default_rng(0))
    assert layers.expand is not None
    layers.expand.struct.depth = 1 << 30
    assert refused(chain.shape(), layers)
