"""SparseChain in sessions: the kernels, the function body and the dense layers give one answer."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from lissom_runtime import library
from lissom_runtime.contract import (
    BLOCKS,
    CHAIN_COLUMNS,
    CHAIN_SHAPES,
    CHAIN_STAGES,
    Activation,
    ChainShape,
    ChainSignature,
    Columns,
    Stage,
    chain_signatures,
)
from runtime.chain_models import Chain, chain_model, dense_chain_model, signature_of
from runtime.ops_models import Array, integers, session

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]

ROUNDED = 4e-6
"""Difference that hard_swish and silu may make, relative to the largest output, which a clip may have cut."""

WHOLE: Mapping[ChainShape, tuple[int, ...]] = {
    "inverted_residual": (8, 24, 24, 16),
    "expanded_depthwise": (8, 24, 24),
    "depthwise_separable": (12, 12, 20),
    "bottleneck": (12, 8, 6, 20),
}
"""Channels of small chains, in blocks of 1 or 2."""

BLOCKED: Mapping[ChainShape, tuple[int, ...]] = {
    "inverted_residual": (8, 48, 48, 16),
    "expanded_depthwise": (8, 48, 48),
    "depthwise_separable": (24, 24, 32),
    "bottleneck": (24, 16, 32, 48),
}
"""Channels that blocks of all sizes divide."""

LARGE: Mapping[ChainShape, tuple[int, ...]] = {
    "inverted_residual": (16, 48, 48, 16),
    "expanded_depthwise": (32, 96, 96),
    "depthwise_separable": (64, 64, 32),
    "bottleneck": (64, 16, 16, 32),
}
"""Channels of chains that are cut into several bands at 56 x 56."""


def agree(chain: Chain, inputs: Iterable[Array], *, tolerance: float = 0.0) -> None:
    """Kernels, body and dense model give the same for all inputs, each in one session."""
    native = session(chain_model(chain, body=False), native=True)
    portable, dense = session(chain_model(chain)), session(dense_chain_model(chain))
    for x in inputs:
        given = chain.feeds(x)
        expected = dense.run(None, given)[0]
        assert expected.shape == chain.y_shape(x.shape)
        for model in (native, portable):
            actual = model.run(None, given)[0]
            np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * float(np.abs(expected).max()))


@pytest.mark.parametrize("signature", list(chain_signatures()), ids=lambda signature: signature.name)
def test_every_operator_runs_natively_and_agrees(signature: ChainSignature) -> None:
    chain = Chain(signature, BLOCKED[signature.shape], block=8)
    opened, dense = session(chain_model(chain, body=False), native=True), session(dense_chain_model(chain))
    tolerance = 0.0 if {signature.inner, signature.last} <= {"clip", "none", "relu"} else ROUNDED
    for size in [(1, 8, 8), (2, 9, 13), (3, 7, 1)]:
        given = chain.feeds(chain.x(*size))
        expected = dense.run(None, given)[0]
        bound = tolerance * float(np.abs(expected).max())
        np.testing.assert_allclose(opened.run(None, given)[0], expected, rtol=0, atol=bound)


@pytest.mark.parametrize("activation", ["hard_swish", "silu"])
@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_the_body_of_every_activation_agrees_with_the_kernels(shape: ChainShape, activation: Activation) -> None:
    chain = Chain(signature_of(shape, "delta8", activation), WHOLE[shape])
    agree(chain, [chain.x(2, 9, 13)], tolerance=ROUNDED)


@dataclass(frozen=True)
class Middle:
    """The attributes of a chain, and its kernel."""

    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)


MIDDLES: Mapping[str, Middle] = {
    "1x1": Middle((1, 1), pads=(0, 0, 0, 0)),
    "3x3": Middle(),
    "3x3, no pads": Middle(pads=(0, 0, 0, 0)),
    "3x3, stride 2": Middle(strides=(2, 2)),
    "3x3, stride 2, pads behind": Middle(strides=(2, 2), pads=(0, 0, 1, 1)),
    "3x3, stride 3, no pads": Middle(strides=(3, 3), pads=(0, 0, 0, 0)),
    "3x3, strides 2 and 1, pads all different": Middle(strides=(2, 1), pads=(0, 1, 2, 3)),
    "3x3, stride 5, wider than the kernel": Middle(strides=(5, 5)),
    "3x3, dilation 2": Middle(dilations=(2, 2), pads=(2, 2, 2, 2)),
    "3x3, dilations 1 and 3, strides 1 and 2": Middle(dilations=(1, 3), strides=(1, 2), pads=(1, 3, 1, 3)),
    "3x3, dilations 3 and 1, pads all different": Middle(dilations=(3, 1), pads=(3, 2, 1, 0)),
    "5x5": Middle((5, 5), pads=(2, 2, 2, 2)),
    "5x5, stride 2": Middle((5, 5), (2, 2), (2, 2, 2, 2)),
    "5x5, pads wider than the kernel": Middle((5, 5), pads=(6, 7, 5, 6)),
    "7x7": Middle((7, 7), pads=(3, 3, 3, 3)),
    "7x7, stride 2": Middle((7, 7), (2, 2), (3, 3, 3, 3)),
    "1x7": Middle((1, 7), pads=(0, 3, 0, 3)),
    "7x1, stride 2": Middle((7, 1), (2, 2), (3, 0, 3, 0)),
}


@pytest.mark.parametrize("name", MIDDLES)
@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_every_geometry_batch_and_spatial_size_is_exact_in_one_session(shape: ChainShape, name: str) -> None:
    middle = MIDDLES[name]
    chain = Chain(
        signature_of(shape), WHOLE[shape], middle.kernel, middle.strides, middle.pads, middle.dilations, block=2
    )
    agree(chain, [chain.x(*size) for size in [(1, 8, 8), (2, 9, 13), (3, 17, 7), (1, 31, 28), (2, 9, 13)]])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_every_width_and_height_of_networks_is_exact_in_one_session(shape: ChainShape, stride: int) -> None:
    chain = Chain(signature_of(shape, "delta8"), WHOLE[shape], strides=(stride, stride))
    heights = (1, 2, 3, 7, 14, 28, 5, 56)
    sizes = [(1 + width % 3, heights[width % len(heights)], width) for width in range(1, 58)]
    agree(chain, [chain.x(*size) for size in [(1, 112, 112), *sizes, (1, 112, 57), (1, 57, 1)]])


@pytest.mark.parametrize("columns", CHAIN_COLUMNS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_every_block_and_format_is_exact(shape: ChainShape, block: int, columns: Columns) -> None:
    chain = Chain(signature_of(shape, columns), BLOCKED[shape], block=block)
    agree(chain, [chain.x(2, 7, 9), chain.x(1, 20, 20)])


@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_clips_that_are_none_relu_and_relu6_are_exact(shape: ChainShape) -> None:
    limits = [(-np.inf, np.inf), (0.0, np.inf), (0.0, 6.0), (-2.0, np.inf)]
    stages = CHAIN_STAGES[shape]
    for turn in range(len(limits)):
        chosen: dict[Stage, tuple[float, float]] = {
            stage: limits[(turn + index) % len(limits)] for index, stage in enumerate(stages)
        }
        chain = Chain(signature_of(shape), WHOLE[shape], limits=chosen, seed=turn)
        agree(chain, [chain.x(2, 9, 13)])


@pytest.mark.parametrize("density", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_weights_of_no_few_and_all_blocks_are_exact(shape: ChainShape, density: float) -> None:
    chain = Chain(signature_of(shape), WHOLE[shape], density=density, block=2)
    agree(chain, [chain.x(2, 9, 13)])


@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_the_thread_count_does_not_change_a_bit(shape: ChainShape) -> None:
    chain = Chain(signature_of(shape, activation="silu"), LARGE[shape], block=4, fractions=True)
    given = chain.feeds(chain.x(2, 56, 56))
    model = chain_model(chain)
    first, *others = (session(model, native=True, threads=threads).run(None, given)[0] for threads in (1, 2, 4))
    for other in others:
        np.testing.assert_array_equal(first.view(np.uint32), other.view(np.uint32))
    expected = session(dense_chain_model(chain)).run(None, given)[0]
    np.testing.assert_allclose(first, expected, rtol=0, atol=ROUNDED * float(np.abs(expected).max()))


@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_the_batch_does_not_change_an_image(shape: ChainShape) -> None:
    chain = Chain(signature_of(shape), LARGE[shape], block=4, fractions=True)
    given = chain.feeds(chain.x(3, 30, 56))
    opened = session(chain_model(chain), native=True, threads=2)
    together = opened.run(None, given)[0]
    for image in range(3):
        alone = opened.run(None, {name: array[image : image + 1] for name, array in given.items()})[0]
        assert alone.tobytes() == together[image : image + 1].tobytes()


def test_concurrent_runs_of_one_session_do_not_disturb_each_other() -> None:
    chain = Chain(signature_of("inverted_residual"), LARGE["inverted_residual"], strides=(2, 2), block=4)
    bottleneck = Chain(signature_of("bottleneck"), LARGE["bottleneck"], block=2)
    chains, sizes = [chain, bottleneck, chain, chain], [(2, 40, 56), (1, 28, 28), (1, 56, 56), (3, 7, 9)]
    opened = {id(one): session(chain_model(one), native=True, threads=2) for one in (chain, bottleneck)}
    inputs = [one.feeds(one.x(*size)) for one, size in zip(chains, sizes, strict=True)]
    expected = [session(dense_chain_model(one)).run(None, given)[0] for one, given in zip(chains, inputs, strict=True)]

    def differences(worker: int) -> int:
        runs = (opened[id(chains[worker])].run(None, inputs[worker])[0] for _ in range(15))
        return sum(int((run != expected[worker]).sum()) for run in runs)

    with ThreadPoolExecutor(len(chains)) as executor:
        assert list(executor.map(differences, range(len(chains)))) == [0] * len(chains)


@pytest.mark.parametrize("active", [False, True], ids=["an input", "an intermediate result"])
@pytest.mark.parametrize("shape", ["inverted_residual", "depthwise_separable", "bottleneck"])
def test_a_residual_that_is_x_itself_is_exact(shape: ChainShape, active: bool) -> None:
    channels = (*LARGE[shape][:-1], LARGE[shape][0])
    chain = Chain(signature_of(shape), channels, block=4)
    x = chain.x(2, 56, 56)
    model = chain_model(chain, residual="x", active=active)
    actual = session(model, native=True, threads=2).run(None, {"x": x})[0]
    x = np.maximum(x, 0) if active else x
    np.testing.assert_array_equal(actual, session(dense_chain_model(chain)).run(None, {"x": x, "residual": x})[0])


@pytest.mark.parametrize("shape", ["inverted_residual", "depthwise_separable", "bottleneck"])
def test_a_residual_that_is_an_intermediate_result_is_exact(shape: ChainShape) -> None:
    chain = Chain(signature_of(shape), LARGE[shape], block=4)
    given = chain.feeds(chain.x(1, 56, 56))
    actual = session(chain_model(chain, active=True), native=True, threads=2).run(None, given)[0]
    given = {name: np.maximum(array, 0) for name, array in given.items()}
    np.testing.assert_array_equal(actual, session(dense_chain_model(chain)).run(None, given)[0])


@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_what_a_run_leaves_in_the_scratch_never_reaches_the_next(shape: ChainShape) -> None:
    chain = Chain(signature_of(shape), LARGE[shape], block=4)
    opened, x = session(chain_model(chain), native=True), chain.x(1, 56, 56)
    expected = opened.run(None, chain.feeds(x))[0]
    given = chain.feeds(x)
    given["x"] = np.full_like(x, np.nan)
    assert np.isnan(opened.run(None, given)[0]).all(axis=(2, 3)).any()
    assert opened.run(None, chain.feeds(x))[0].tobytes() == expected.tobytes()


@pytest.mark.parametrize("shape", CHAIN_SHAPES)
def test_an_empty_batch_gives_an_empty_output(shape: ChainShape) -> None:
    chain = Chain(signature_of(shape), WHOLE[shape])
    given = chain.feeds(np.zeros((0, WHOLE[shape][0], 8, 8), np.float32))
    (y,) = session(chain_model(chain), native=True).run(None, given)
    assert y.shape == (0, WHOLE[shape][-1], 8, 8)


def test_an_image_of_padding_alone_is_that_of_dense_onnxruntime() -> None:
    chain = Chain(signature_of("depthwise_separable"), WHOLE["depthwise_separable"], pads=(2, 3, 1, 2))
    agree(chain, [chain.x(*size) for size in ((2, 0, 5), (1, 5, 0), (1, 0, 0), (1, 4, 6))])


@pytest.mark.parametrize("shape", [shape for shape in CHAIN_SHAPES if shape != "depthwise_separable"])
def test_nothing_is_expanded_from_an_image_without_pixels_here_or_in_dense_onnxruntime(shape: ChainShape) -> None:
    chain = Chain(signature_of(shape), WHOLE[shape], pads=(2, 2, 2, 2))
    given = chain.feeds(chain.x(1, 0, 8))
    with pytest.raises(Exception, match="expected at least 1 element along each spatial axis"):
        session(chain_model(chain, body=False), native=True).run(None, given)
    with pytest.raises(Exception, match="Invalid input shape"):
        session(dense_chain_model(chain)).run(None, given)


@pytest.mark.parametrize(
    ("x", "residual", "message"),
    [
        ((1, 5, 8, 8), (1, 16, 6, 6), r"expected x \[batch, 8, height, width\], but got \[1, 5, 8, 8\]"),
        ((1, 24, 8, 8), (1, 16, 6, 6), r"expected x \[batch, 8, height, width\], but got \[1, 24, 8, 8\]"),
        ((1, 8, 2, 8), (1, 16, 6, 6), "expected at least 3 padded elements along spatial axis 0 .* but got 2"),
        ((1, 8, 8, 0), (1, 16, 6, 6), "expected at least 3 padded elements along spatial axis 1 .* but got 0"),
        ((1, 8, 8, 8), (1, 16, 6, 5), r"expected a residual of the output's shape \[1, 16, 6, 6\], but got"),
        ((1, 8, 8, 8), (1, 24, 6, 6), r"expected a residual of the output's shape \[1, 16, 6, 6\], but got"),
        ((2, 8, 8, 8), (1, 16, 6, 6), r"expected a residual of the output's shape \[2, 16, 6, 6\], but got"),
    ],
    ids=[
        "channels",
        "channels of the layer in the middle",
        "smaller than the kernel",
        "no columns",
        "residual's width",
        "residual's channels",
        "residual's batch",
    ],
)
def test_tensors_that_do_not_fit_are_named_and_the_session_lives_on(
    x: tuple[int, ...], residual: tuple[int, ...], message: str
) -> None:
    chain = Chain(
        signature_of("inverted_residual"), WHOLE["inverted_residual"], pads=(0, 0, 0, 0), x_shape=("N", "C", "H", "W")
    )
    model = chain_model(chain, body=False)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    opened = session(model, native=True)
    with pytest.raises(Exception, match=message):  # onnxruntime's errors have no narrower common base
        opened.run(None, {"x": integers(0, *x), "residual": integers(0, *residual)})
    given = chain.feeds(chain.x(1, 8, 8))
    np.testing.assert_array_equal(opened.run(None, given)[0], session(dense_chain_model(chain)).run(None, given)[0])
