"""Pairs: shapes and costs, and the function they compute on ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom.graph.geometry import Geometry
from lissom.lowrank.factors import factors
from lissom.lowrank.foldings import SIDES, Scheme, divisors, foldings_of
from lissom.lowrank.pairs import Factor, max_rank, pair, sliced_channels
from onnx import helper


def spatial_after(geometry: Geometry) -> tuple[int, ...]:
    """Output extents by the ONNX formula."""
    axes = len(geometry.kernel_shape)
    return tuple(
        (
            geometry.in_spatial[a]
            + geometry.pads[a]
            + geometry.pads[axes + a]
            - geometry.dilations[a] * (geometry.kernel_shape[a] - 1)
            - 1
        )
        // geometry.strides[a]
        + 1
        for a in range(axes)
    )


@st.composite
def geometries(draw: st.DrawFn, most_axes: int = 3) -> Geometry:
    """A layer whose output extents are consistent."""
    n = draw(st.integers(0, most_axes))

    def some(low: int, high: int, count: int = n) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    geometry = Geometry(
        out_channels=draw(st.sampled_from([1, 2, 4, 6])),
        in_channels=draw(st.sampled_from([1, 2, 3, 6])),
        kernel_shape=some(1, 3),
        strides=some(1, 3),
        dilations=some(1, 2),
        pads=some(0, 2, 2 * n),
        in_spatial=some(5, 9),
        rows=draw(st.integers(1, 3)),
    )
    return replace(geometry, out_spatial=spatial_after(geometry))


def schemes(geometry: Geometry) -> list[Scheme]:
    return [
        Scheme(folding, side, groups)
        for folding in foldings_of(geometry.kernel_shape)
        for side in SIDES
        for groups in divisors(sliced_channels(geometry, side))
    ]


@given(geometry=geometries())
def test_both_factors_fit_together_and_give_the_layers_output(geometry: Geometry) -> None:
    for scheme in schemes(geometry):
        made = pair(geometry, scheme, max_rank(geometry, scheme))
        encoder, decoder = made.encoder.geometry, made.decoder.geometry
        assert spatial_after(encoder) == encoder.out_spatial == decoder.in_spatial
        assert spatial_after(decoder) == decoder.out_spatial == geometry.out_spatial
        assert encoder.out_channels == decoder.in_channels
        assert (encoder.in_channels, decoder.out_channels) == (geometry.in_channels, geometry.out_channels)


@given(geometry=geometries())
def test_costs_are_proportional_to_the_rank(geometry: Geometry) -> None:
    for scheme in schemes(geometry):
        unit = pair(geometry, scheme, 1)
        for rank in range(1, max_rank(geometry, scheme) + 1):
            made = pair(geometry, scheme, rank)
            assert made.params == rank * unit.params
            assert made.bytes == 4 * made.params
            assert made.macs == rank * unit.macs


@given(geometry=geometries(2), seed=st.integers(0, 99))
def test_factors_have_the_shapes_and_sizes_of_the_pair(geometry: Geometry, seed: int) -> None:
    shape = (geometry.out_channels, geometry.in_channels, *geometry.kernel_shape)
    weight = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    for scheme in schemes(geometry):
        rank = max(1, max_rank(geometry, scheme) // 2)
        made = pair(geometry, scheme, rank)
        encoder, decoder = factors(weight, scheme, rank)
        assert (encoder.shape, decoder.shape) == (made.encoder.weight_shape, made.decoder.weight_shape)
        assert encoder.size + decoder.size == made.params


def test_the_parameters_of_a_rank_follow_the_formulas() -> None:
    geometry = Geometry(8, 6, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1), "NOTSET", (4, 4), (4, 4))
    for folding, taps_out, taps_in in ((0, 1, 9), (1, 3, 3), (2, 3, 3), (3, 9, 1)):
        assert pair(geometry, Scheme(folding, "input", 3), 1).params == 3 * 8 * taps_out + 6 * taps_in
        assert pair(geometry, Scheme(folding, "output", 4), 1).params == 8 * taps_out + 4 * 6 * taps_in


def test_each_factor_is_counted_at_its_own_output_size() -> None:
    geometry = Geometry(8, 6, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "NOTSET", (8, 8), (4, 4))
    assert pair(geometry, Scheme(0), 1).macs == 6 * 9 * 16 + 8 * 16  # the encoder strides
    assert pair(geometry, Scheme(1), 1).macs == 6 * 3 * 8 * 4 + 8 * 3 * 16  # axis 1 strides first
    assert pair(geometry, Scheme(3), 1).macs == 6 * 64 + 8 * 9 * 16  # the decoder strides


@pytest.mark.parametrize(("scheme", "limit"), [(Scheme(0), 4), (Scheme(0, "input", 3), 2), (Scheme(0, "output", 2), 2)])
def test_a_rank_outside_the_range_is_refused(scheme: Scheme, limit: int) -> None:
    geometry = Geometry(4, 6)
    for rank in (0, limit + 1):
        with pytest.raises(ValueError, match=f"expected a rank in 1 .. {limit}, got {rank}"):
            pair(geometry, scheme, rank)


def test_groups_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="4 groups do not divide 6 input channels"):
        max_rank(Geometry(8, 6, (3,)), Scheme(0, "input", 4))


def convolutions(steps: list[tuple[np.ndarray, Geometry, int]], x: np.ndarray) -> np.ndarray:
    """The output of a chain of ONNX Conv nodes."""
    nodes, initializers = [], []
    for n, (weight, geometry, group) in enumerate(steps):
        padding = {"auto_pad": geometry.auto_pad} if geometry.auto_pad != "NOTSET" else {"pads": geometry.pads}
        attributes = {"strides": geometry.strides, "dilations": geometry.dilations, "group": group, **padding}
        nodes.append(helper.make_node("Conv", [f"x{n}", f"w{n}"], [f"x{n + 1}"], **attributes))
        initializers.append(onnx.numpy_helper.from_array(weight, f"w{n}"))
    info = [helper.make_tensor_value_info(f"x{n}", onnx.TensorProto.FLOAT, None) for n in (0, len(steps))]
    graph = helper.make_graph(nodes, "chain", info[:1], info[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"x0": x})
    return np.asarray(result)


@pytest.mark.ort
@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
def test_a_full_rank_pair_computes_what_the_layer_does(auto_pad: str) -> None:
    rng = np.random.default_rng(5)
    explicit = auto_pad == "NOTSET"
    geometry = Geometry(
        out_channels=4,
        in_channels=6,
        kernel_shape=(3, 2),
        strides=(2, 1),
        dilations=(2, 1) if explicit else (1, 1),
        pads=(1, 0, 2, 1) if explicit else (0, 0, 0, 0),
        auto_pad=auto_pad,
        in_spatial=(9, 8),
        out_spatial=(4, 8) if explicit else (4, 7) if auto_pad == "VALID" else (5, 8),
    )
    weight = rng.standard_normal((4, 6, 3, 2)).astype(np.float32)
    x = rng.standard_normal((2, 6, 9, 8)).astype(np.float32)
    wanted = convolutions([(weight, geometry, 1)], x)
    assert wanted.shape[2:] == geometry.out_spatial
    for scheme in schemes(geometry):
        rank = max_rank(geometry, scheme)
        made = pair(geometry, scheme, rank)
        parts: list[Factor] = [made.encoder, made.decoder]
        weights = factors(weight, scheme, rank)
        got = convolutions([(w, p.geometry, p.groups) for w, p in zip(weights, parts, strict=True)], x)
        np.testing.assert_allclose(got, wanted, atol=1e-4, err_msg=str(scheme))
