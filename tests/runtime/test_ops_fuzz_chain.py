"""Malformed chains in model files: a sentence when the session is created, never a crash or an over-read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from lissom_runtime import library
from lissom_runtime.contract import CHAIN_COLUMNS, ChainShape, Columns, Stage
from lissom_runtime.packing import PackingError, check, unpack
from runtime.chain_models import Chain, chain_model, dense_chain_model, signature_of
from runtime.ops_models import HUGE, Array, changed, integers, session

pytestmark = [
    pytest.mark.native,
    pytest.mark.ort,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]

Arrays = Mapping[str, npt.NDArray[Any]]
Change = Callable[[Arrays], Mapping[str, npt.NDArray[Any] | None]]
"""What becomes of the constants of one stage, by their names without the stage's."""

CHANNELS: Mapping[ChainShape, tuple[int, ...]] = {
    "inverted_residual": (8, 16, 16, 8),
    "expanded_depthwise": (8, 16, 16),
    "depthwise_separable": (16, 16, 8),
    "bottleneck": (8, 16, 12, 8),
}


def chain_of(shape: ChainShape, columns: Columns = "delta8") -> Chain:
    return Chain(signature_of(shape, columns), CHANNELS[shape], block=4, density=0.5)


STAGES: Mapping[Stage, ChainShape] = {
    "expand": "inverted_residual",
    "depthwise": "depthwise_separable",
    "spatial": "bottleneck",
    "project": "inverted_residual",
}
"""Where each stage is attacked."""


def attacked(stage: Stage, columns: Columns) -> Chain:
    """A valid chain with a stage to attack; the last layer has limits where there is no residual."""
    chain = chain_of(STAGES[stage], columns)
    if stage == "project":
        chain.signature = replace(chain.signature, last="clip", residual=False)
    return chain


@dataclass(frozen=True)
class Attack:
    """A chain that is not what the contract says, and what the error says of it."""

    message: str
    stage: Stage
    change: Change | None = None
    attributes: Mapping[str, Any] | None = None
    columns: Columns = "delta8"

    def model(self) -> onnx.ModelProto:
        """The model, without a body: a body may be refused first, for another reason."""
        chain = attacked(self.stage, self.columns)
        prefix = f"{self.stage}_"
        given = {name[len(prefix) :]: a for name, a in chain.constants().items() if name.startswith(prefix)}
        changes = self.change(given) if self.change else {}
        replaced = {prefix + name: array for name, array in changes.items()}
        return chain_model(chain, body=False, replace=replaced, attributes=self.attributes)


def cut(name: str) -> Change:
    return lambda c: {name: c[name][:-1]}


def grown(name: str) -> Change:
    return lambda c: {name: np.append(c[name], c[name][-1:])}


def with_number(name: str, index: int, value: int) -> Change:
    return lambda c: {name: changed(c[name], index, value)}


def as_type(name: str, dtype: npt.DTypeLike) -> Change:
    return lambda c: {name: c[name].astype(dtype)}


def reshaped(name: str, *shape: int) -> Change:
    return lambda c: {name: c[name].reshape(shape)}


def ones(name: str, *shape: int) -> Change:
    return lambda c: {name: np.ones(shape, c[name].dtype)}


def free(name: str) -> Change:
    return lambda _: {name: None}


SPARSE: Mapping[str, tuple[str, Change]] = {
    "row_ptr too short": ("RowPtrLength", cut("row_ptr")),
    "row_ptr too long": ("RowPtrLength", grown("row_ptr")),
    "row_ptr starts at 1": ("RowPtrStart", with_number("row_ptr", 0, 1)),
    "row_ptr descends": ("RowPtrDescends", with_number("row_ptr", 1, HUGE)),
    "row_ptr overflows": ("RowPtrDescends", with_number("row_ptr", 1, -(2**31))),
    "row_ptr beyond the values": ("RowPtrEnd", with_number("row_ptr", -1, HUGE)),
    "values too short": ("RowPtrEnd", cut("values")),
    "values empty": ("RowPtrEnd", lambda c: {"values": c["values"][:0]}),
    "blocks of 3": ("UnknownBlock", lambda c: {"values": np.ones((len(c["values"]), 3), np.float32)}),
    "blocks of 32": ("UnknownBlock", lambda c: {"values": np.ones((len(c["values"]), 32), np.float32)}),
    "blocks of 0": ("UnknownBlock", lambda c: {"values": np.ones((len(c["values"]), 0), np.float32)}),
    "blocks that do not divide the channels": (
        "IndivisibleBlock",
        lambda c: {"shape": changed(c["shape"], 0, 18), "bias": np.zeros(18, np.float32)},
    ),
    "columns too short": ("ColumnsLength", cut("columns")),
    "columns empty": ("ColumnsLength", lambda c: {"columns": c["columns"][:0]}),
    "gaps beyond the weight": ("ColumnOutOfRange", lambda c: {"columns": np.full_like(c["columns"], 255)}),
    "a weight with fewer columns": ("ColumnOutOfRange", with_number("shape", 1, 1)),
    "an extent of 0": ("expected extents of the weight from 1 to .* but got 0 on axis 3", with_number("shape", 3, 0)),
    "an extent below 0": ("expected extents of the weight from .* but got -8 on axis 1", with_number("shape", 1, -8)),
    "a huge extent": ("expected extents of the weight .* but got 46116", with_number("shape", 0, 2**62)),
    "a huge product of extents": (
        "columns of the folded weight",
        lambda c: {"shape": np.array([len(c["bias"]), HUGE, HUGE, HUGE], np.int64)},
    ),
    "huge rows": ("expected 2147483647 elements of the bias", with_number("shape", 0, HUGE)),
    "two extents": ("input {}_shape to hold 4 extents, but got 2", lambda c: {"shape": c["shape"][:2]}),
    "no extents": ("input {}_shape to hold 4 extents, but got 0", lambda c: {"shape": c["shape"][:0]}),
    "a shape of two axes": (r"input {}_shape of 1 axes, but got shape \[1, 4\]", reshaped("shape", 1, 4)),
    "values of one axis": ("expected the input {}_values of 2 axes", reshaped("values", -1)),
    "columns of two axes": ("expected the input {}_columns of 1 axes", reshaped("columns", -1, 1)),
    "a scalar row_ptr": ("expected the input {}_row_ptr of 1 axes", ones("row_ptr")),
    "a bias too short": ("elements of the bias", cut("bias")),
    "limits of one axis": ("expected the input {}_max of 0 axes", reshaped("max", 1)),
    "int64 row_ptr": ("Type Error", as_type("row_ptr", np.int64)),
    "int32 shape": ("Type Error", as_type("shape", np.int32)),
    "uint16 columns": ("Type Error", as_type("columns", np.uint16)),
    "float16 values": ("Type Error", as_type("values", np.float16)),
    "float64 bias": ("Type Error", as_type("bias", np.float64)),
    "int64 min": ("Type Error", lambda _: {"min": np.array(0, np.int64)}),
    **{
        f"free {name}": (f"expected a constant for the input {{}}_{name}", free(name))
        for name in ("shape", "row_ptr", "columns", "values", "bias", "min", "max")
    },
}

BITMAP: Mapping[str, tuple[str, Change]] = {
    "bitmap too short": ("ColumnsLength", cut("columns")),
    "bitmap with another number of bits": ("BitmapCount", lambda c: {"columns": np.full_like(c["columns"], 255)}),
    "bits behind the last block": (
        "BitmapPadding",
        lambda c: {
            "shape": np.array([12, 3, *c["shape"][2:]], np.int64),
            "row_ptr": np.zeros(4, np.int32),
            "columns": changed(np.zeros((9 * int(np.prod(c["shape"][2:])) + 7) // 8, np.uint8), -1, 128),
            "values": np.zeros((0, 4), np.float32),
            "bias": np.zeros(12, np.float32),
        },
    ),
}

DEPTHWISE: Mapping[str, tuple[str, Change]] = {
    "a weight of two axes": ("expected the input depthwise_weight of 4 axes", reshaped("weight", 16, 9)),
    "a weight of no axes": ("expected the input depthwise_weight of 4 axes", ones("weight")),
    "a multiplier of 2": (
        r"expected a weight \[channels, 1, height, width\] .* \[16, 2, 3, 3\]",
        ones("weight", 16, 2, 3, 3),
    ),
    "a weight of no channels": (r"of at least one channel and tap, but got \[0, 1, 3, 3\]", ones("weight", 0, 1, 3, 3)),
    "a weight of no taps": (r"of at least one channel and tap, but got \[16, 1, 3, 0\]", ones("weight", 16, 1, 3, 0)),
    "fewer channels than groups": ("as the weight has channels, 12, but got 16", ones("weight", 12, 1, 3, 3)),
    "more channels than groups": ("as the weight has channels, 32, but got 16", ones("weight", 32, 1, 3, 3)),
    "a bias too short": ("expected 16 elements of the bias, one a channel, but got 15", cut("bias")),
    "a bias too long": ("expected 16 elements of the bias, one a channel, but got 17", grown("bias")),
    "a bias of two axes": ("expected the input depthwise_bias of 1 axes", reshaped("bias", 4, 4)),
    "limits of one axis": ("expected the input depthwise_min of 0 axes", reshaped("min", 1)),
    "float64 weight": ("Type Error", as_type("weight", np.float64)),
    "int32 bias": ("Type Error", as_type("bias", np.int32)),
    **{
        f"free {name}": (f"expected a constant for the input depthwise_{name}", free(name))
        for name in ("weight", "bias", "min", "max")
    },
}


def weight_of(*shape: int) -> Change:
    """A sparse weight of this shape, by itself in order: nothing is stored."""
    return lambda _: {
        "shape": np.array(shape, np.int64),
        "row_ptr": np.zeros(shape[0] // 4 + 1, np.int32),
        "columns": np.zeros(0, np.uint8),
        "values": np.zeros((0, 4), np.float32),
        "bias": np.zeros(shape[0], np.float32),
    }


MISFITS = {
    "expand of 3x3": Attack("expected a kernel of 1 x 1, but got 3 x 3", "expand", weight_of(16, 8, 3, 3)),
    "project of 1x3": Attack("expected a kernel of 1 x 1, but got 1 x 3", "project", weight_of(8, 16, 1, 3)),
    "expand gives too few": Attack(
        "depthwise: expected a weight for the 12 channels that the layer before gives, but got one for 16",
        "expand",
        weight_of(12, 8, 1, 1),
    ),
    "project takes too many": Attack(
        "project: expected a weight for the 16 channels that the layer before gives, but got one for 20",
        "project",
        weight_of(8, 20, 1, 1),
    ),
    "project takes what no tensor has": Attack(
        "for the 16 channels that the layer before gives, but got one for 134217727",
        "project",
        weight_of(8, HUGE // 16, 1, 1),
    ),
    "spatial takes too few": Attack(
        "for the 16 channels that the layer before gives, but got one for 8", "spatial", weight_of(12, 8, 3, 3)
    ),
    "spatial gives too many": Attack(
        "for the 16 channels that the layer before gives, but got one for 12", "spatial", weight_of(16, 16, 3, 3)
    ),
}

ATTRIBUTES: Mapping[str, tuple[str, Stage, Mapping[str, Any]]] = {
    "no strides": ("attribute strides of 2 integers, but got 0", "expand", {"strides": None}),
    "three strides": ("attribute strides of 2 integers, but got 3", "expand", {"strides": [1, 1, 1]}),
    "strides of another type": ("attribute strides of 2 integers, but got 0", "expand", {"strides": "no"}),
    "a stride of 0": ("attribute strides from 1 to .*, but got 0", "depthwise", {"strides": [1, 0]}),
    "a huge stride": ("attribute strides from 1 to .*, but got 4611", "depthwise", {"strides": [2**62, 1]}),
    "a bottleneck of groups": ("spatial: expected 1 group, but got 2", "spatial", {"group": 2}),
    "a pad below 0": ("attribute pads from 0 to .*, but got -1", "expand", {"pads": [0, -1, 0, 0]}),
    "two pads": ("attribute pads of 4 integers, but got 2", "expand", {"pads": [0, 0]}),
    "a dilation of 0": ("attribute dilations from 1 to .*, but got 0", "expand", {"dilations": [0, 1]}),
    "no group": ("expected the integer attribute group", "expand", {"group": None}),
    "0 groups": ("attribute group from 1 to .*, but got 0", "expand", {"group": 0}),
    "1 group": ("depthwise: expected as many groups as the weight has channels, 16", "depthwise", {"group": 1}),
    "huge groups": ("as the weight has channels, 16, but got 2147483647", "expand", {"group": HUGE}),
}

ATTACKS: Mapping[str, Attack] = {
    **{
        f"{stage}: {name}": Attack(message.format(stage), stage, change)
        for stage in ("expand", "spatial", "project")
        for name, (message, change) in SPARSE.items()
    },
    **{
        f"{stage}: {name}": Attack(message, stage, change, columns="bitmap")
        for stage in ("expand", "spatial", "project")
        for name, (message, change) in BITMAP.items()
    },
    **{f"depthwise: {name}": Attack(message, "depthwise", change) for name, (message, change) in DEPTHWISE.items()},
    **MISFITS,
    **{name: Attack(message, stage, attributes=given) for name, (message, stage, given) in ATTRIBUTES.items()},
}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_violation_is_a_sentence_when_the_session_is_created(name: str) -> None:
    attack = ATTACKS[name]
    with pytest.raises(Exception, match=attack.message) as caught:
        session(attack.model(), native=True)
    if attack.message != "Type Error":
        text = str(caught.value)
        assert "chain (SparseChain_" in text
        assert attack.attributes or f"{attack.stage}: " in text or attack in MISFITS.values()


def test_the_chains_that_are_attacked_are_valid() -> None:
    for stage in STAGES:
        for columns in CHAIN_COLUMNS:
            chain = attacked(stage, columns)
            assert Attack("", stage, columns=columns).model() == chain_model(chain, body=False)
            session(chain_model(chain, body=False), native=True).run(None, chain.feeds(chain.x(1, 4, 4)))


@pytest.mark.parametrize("shape", CHANNELS)
def test_another_number_of_inputs_is_refused(shape: ChainShape) -> None:
    whole = chain_model(chain_of(shape), body=False)
    for count in range(len(whole.graph.node[0].input)):
        model = onnx.ModelProto()
        model.CopyFrom(whole)
        del model.graph.node[0].input[count:]
        with pytest.raises(Exception, match="input"):
            session(model, native=True)
    whole.graph.node[0].input.append("x")
    with pytest.raises(Exception, match="input"):
        session(whole, native=True)


@pytest.mark.parametrize("shape", CHANNELS)
@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"pads": [0, 0, HUGE, HUGE]}, "expected a tensor of fewer than 2.61 elements"),
        ({"pads": [0, 0, HUGE // 2, HUGE // 64]}, "expected a chain whose sizes fit into 31 bits"),
        ({"dilations": [HUGE, 1]}, "expected at least 4294967295 padded elements"),
        ({"dilations": [2**29, 1], "pads": [2**29, 1, 2**29, 1]}, "expected a chain whose sizes fit into 31 bits"),
        ({"dilations": [2**26, 1], "pads": [2**26, 1, 2**26, 1]}, "scratch|31 bits"),
    ],
    ids=["pads", "wide pads", "dilation", "dilation within pads", "a panel of gigabytes"],
)
def test_a_huge_geometry_is_an_error_of_the_run(shape: ChainShape, attributes: Mapping[str, Any], message: str) -> None:
    chain = chain_of(shape)
    opened = session(chain_model(chain, body=False, attributes=attributes), native=True)
    with pytest.raises(Exception, match=message):
        opened.run(None, chain.feeds(chain.x(1, 8, 8)))


def mutate(generator: np.random.Generator, chain: Chain) -> dict[str, npt.NDArray[Any]]:
    """The constants with a few numbers replaced, or an array cut or repeated."""
    constants = {name: array.copy() for name, array in chain.constants().items()}
    names = [name for name in constants if not name.endswith(("_bias", "_min", "_max"))]
    for _ in range(generator.integers(1, 3)):
        name = str(generator.choice(names))
        array = constants[name]
        way = generator.integers(4) if array.size else 2
        if way == 0 and array.dtype != np.float32:
            spread = 3 if generator.random() < 0.5 else 300
            value = int(array.reshape(-1)[0]) + int(generator.integers(-spread, spread))
            limits = np.iinfo(array.dtype)
            array.reshape(-1)[generator.integers(array.size)] = np.clip(value, limits.min, limits.max)
        elif way == 1:
            array.reshape(-1)[generator.integers(array.size)] = generator.integers(0, 9)
        elif way == 2:
            constants[name] = array[: generator.integers(len(array) + 1)]
        else:
            constants[name] = np.repeat(array, generator.integers(1, 3), axis=0)
    return constants


def meaning(chain: Chain, constants: Arrays) -> dict[Stage, Array] | None:
    """The dense weights, or None when the constants are no layers of this chain."""
    weights: dict[Stage, Array] = {}
    for stage, good in chain.weights.items():
        if stage == "depthwise":
            weights[stage] = constants["depthwise_weight"]
        else:
            shape = tuple(int(extent) for extent in constants[f"{stage}_shape"])
            if len(shape) != 4:
                return None
            parts = {name: constants[f"{stage}_{name}"] for name in ("row_ptr", "columns", "values")}
            packed = replace(chain.packed(stage), shape=shape, **parts)
            try:
                check(packed)
            except PackingError:
                return None
            weights[stage] = unpack(packed)
        if weights[stage].shape != good.shape:
            return None
    return weights


@pytest.mark.parametrize("columns", CHAIN_COLUMNS)
@pytest.mark.parametrize("shape", CHANNELS)
def test_a_mutated_chain_is_refused_or_means_what_packing_says(shape: ChainShape, columns: Columns) -> None:
    generator = np.random.default_rng([*CHANNELS].index(shape) * 2 + CHAIN_COLUMNS.index(columns))
    good = chain_of(shape, columns)
    refused = accepted = 0
    for _ in range(40):
        constants = mutate(generator, good)
        model = chain_model(good, body=False, replace=constants)
        weights = meaning(good, constants)
        if weights is None:
            refused += 1
            with pytest.raises(Exception, match="expected"):
                session(model, native=True).run(None, good.feeds(good.x(1, 6, 6)))
        else:
            accepted += 1
            same = chain_of(shape, columns)
            same.weights = weights
            given = good.feeds(integers(2, 1, good.channels[0], 6, 6))
            np.testing.assert_array_equal(
                session(model, native=True).run(None, given)[0], session(dense_chain_model(same)).run(None, given)[0]
            )
    assert refused > 10
    assert accepted > 0
