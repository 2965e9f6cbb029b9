"""The native reader of packed weights agrees with packing.py, on good files and bad ones, inside its arrays."""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels.guarded import guarded
from lissom_runtime import library
from lissom_runtime.contract import BLOCKS, COLUMNS, ORIENTATIONS
from lissom_runtime.packing import Packed, PackingError, block_columns, check, pack
from runtime.packed import VIOLATIONS, example, random_weight

COLUMN_TYPES = {"bitmap": np.uint8, "delta8": np.uint8, "u16": np.uint16, "u32": np.uint32}
UNKNOWN = 7

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not library.available(), reason=library.describe()),
]


class Struct(ctypes.Structure):
    """`lissom_packed` of runtime/kernels/packed/packed.h."""

    _fields_ = (
        ("rows", ctypes.c_int64),
        ("depth", ctypes.c_int64),
        ("orientation", ctypes.c_int32),
        ("columns_format", ctypes.c_int32),
        ("row_ptr", ctypes.c_void_p),
        ("row_ptr_length", ctypes.c_int64),
        ("columns", ctypes.c_void_p),
        ("columns_length", ctypes.c_int64),
        ("values_blocks", ctypes.c_int64),
        ("block", ctypes.c_int64),
    )


class Native:
    """A packed weight as the library is given it: arrays read-only and guarded, other fields as in `fields`."""

    def __init__(self, packed: Packed, *, front: bool = False, **fields: Any) -> None:
        self.row_ptr, self.columns = (guarded(a, front=front, writable=False) for a in (packed.row_ptr, packed.columns))
        self.struct = Struct(
            rows=packed.shape[0],
            depth=prod(packed.shape[1:]),
            orientation=ORIENTATIONS.index(packed.orientation) if packed.orientation in ORIENTATIONS else UNKNOWN,
            columns_format=COLUMNS.index(packed.format) if packed.format in COLUMNS else UNKNOWN,
            row_ptr=self.row_ptr.ctypes.data,
            row_ptr_length=self.row_ptr.size,
            columns=self.columns.ctypes.data if self.columns.size else None,
            columns_length=self.columns.size,
            values_blocks=packed.values.shape[0],
            block=packed.values.shape[1],
        )
        for name, value in fields.items():
            setattr(self.struct, name, value)

    def violation(self) -> str | None:
        """The name with which the message begins, or None."""
        function = library.load().lissom_packed_check
        function.restype, function.argtypes = ctypes.c_char_p, [ctypes.POINTER(Struct)]
        message = function(ctypes.byref(self.struct))
        if message is None:
            return None
        name, expectation = message.decode("ascii").split(": ", 1)
        assert expectation.startswith("expected ") and ", but got " in expectation
        return str(name)

    def block_columns(self, *, front: bool = False) -> npt.NDArray[np.int32]:
        """What the library decodes."""
        function = library.load().lissom_packed_columns
        function.restype, function.argtypes = None, [ctypes.POINTER(Struct), ctypes.c_void_p]
        columns = guarded(np.full(self.struct.values_blocks, -1, np.int32), front=front)
        function(ctypes.byref(self.struct), columns.ctypes.data)
        return columns


def violation(packed: Packed) -> str | None:
    """The name of what packing.py finds wrong, or None."""
    try:
        check(packed)
    except PackingError as error:
        return type(error).__name__
    return None


def assert_same_verdict(packed: Packed, *, front: bool = False) -> None:
    native, expected = Native(packed, front=front), violation(packed)
    assert native.violation() == expected
    if expected is None:
        np.testing.assert_array_equal(native.block_columns(front=front), block_columns(packed))


@pytest.mark.parametrize("front", [False, True], ids=["guard behind", "guard before"])
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("block", BLOCKS)
def test_columns_are_those_that_were_packed(block: int, orientation: str, columns: str, front: bool) -> None:
    shapes = [(48, 80), (16, 16, 3, 3), (16, 16), (16, 176)]  # the last two: bits that fill bytes and pages, or not
    for seed, shape in enumerate(shapes):
        for density in (0.0, 0.02, 0.4, 1.0):
            packed = pack(random_weight(seed, shape, block, orientation, density), block, orientation, columns)
            assert violation(packed) is None
            assert_same_verdict(packed, front=front)


@pytest.mark.parametrize("width", [*range(1, 18), 255, 256, 257])
@pytest.mark.parametrize("columns", COLUMNS)
def test_every_width_of_a_pattern_is_read_inside_its_arrays(columns: str, width: int) -> None:
    pattern = np.random.default_rng(width).random((5, width)) < 0.3
    pattern[1:3] = [[False], [True]]
    assert_same_verdict(pack(pattern.astype(np.float32), format=columns))


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_weight_of_zeros_has_no_blocks_and_is_valid(block: int, columns: str) -> None:
    packed = pack(np.zeros((16, 3), np.float32), block, format=columns)
    assert len(packed.values) == 0 and Native(packed).violation() is None
    assert Native(packed).block_columns().size == 0


@pytest.mark.parametrize(
    ("columns", "width", "at"), [("u16", 65536, 65535), ("u32", 65537, 65536), ("u32", 2**31 - 1, 2**31 - 2)]
)
def test_the_last_column_of_the_widest_patterns_is_read(columns: str, width: int, at: int) -> None:
    columns_array, row_ptr = np.array([0, at], COLUMN_TYPES[columns]), np.array([0, 2], np.int32)
    packed = Packed((1, width), "output", columns, row_ptr, columns_array, np.ones((2, 1), np.float32))
    assert violation(packed) is None
    assert Native(packed).violation() is None
    assert Native(packed).block_columns().tolist() == [0, at]


@pytest.mark.parametrize("front", [False, True], ids=["guard behind", "guard before"])
@pytest.mark.parametrize(("name", "bad"), VIOLATIONS)
def test_a_violation_has_the_same_name_as_in_packing(name: str, bad: Callable[[], Packed], front: bool) -> None:
    assert Native(bad(), front=front).violation() == violation(bad()) == name


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("array", ["row_ptr", "columns"])
def test_a_null_pointer_in_place_of_elements_is_refused(array: str, columns: str) -> None:
    assert Native(example(columns), **{array: None}).violation() == "MissingArray"


EXTREMES = [-(2**63), -(2**31) - 1, -1, 0, 3, 2**31 - 1, 2**31, 2**32 + 1, 2**61, 2**62, 2**63 - 1]


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("size", EXTREMES)
@pytest.mark.parametrize("field", ["rows", "depth", "block", "values_blocks"])
def test_a_size_that_contradicts_the_arrays_is_refused(field: str, size: int, columns: str) -> None:
    assert Native(example(columns), **{field: size}).violation() is not None


@pytest.mark.parametrize("length", [size for size in EXTREMES if size <= 3])
@pytest.mark.parametrize("field", ["row_ptr_length", "columns_length"])
@pytest.mark.parametrize("columns", COLUMNS)
def test_a_length_that_contradicts_the_sizes_is_refused(columns: str, field: str, length: int) -> None:
    name = "RowPtrLength" if field == "row_ptr_length" else "ColumnsLength"
    assert Native(example(columns), **{field: length}).violation() == name


@pytest.mark.parametrize("code", [-(2**31), -1, 4, 2**31 - 1])
def test_unknown_codes_are_refused(code: int) -> None:
    assert Native(example(), orientation=code).violation() == "UnknownOrientation"
    assert Native(example(), columns_format=code).violation() == "UnknownFormat"


@settings(max_examples=300)
@given(
    sizes=st.tuples(*[st.sampled_from([*EXTREMES, 4, 11]) for _ in range(2)]),
    block=st.sampled_from([*EXTREMES, *BLOCKS]),
    orientation=st.sampled_from(ORIENTATIONS),
    columns=st.sampled_from(COLUMNS),
)
def test_sizes_whose_products_overflow_are_refused(
    sizes: tuple[int, int], block: int, orientation: str, columns: str
) -> None:
    assume((*sizes, block) != (4, 11, 1))
    fields = {"rows": sizes[0], "depth": sizes[1], "block": block, "orientation": ORIENTATIONS.index(orientation)}
    assert Native(example(columns), **fields).violation() is not None


@st.composite
def mutated(draw: st.DrawFn) -> Packed:
    """A valid packed weight, spoilt in none to three places that both readers see."""
    shape = draw(st.sampled_from([(4, 11), (8, 16), (2, 3, 2, 1), (1, 300), (16, 1)]))
    orientation = draw(st.sampled_from(ORIENTATIONS))
    along = shape[0] if orientation == "output" else prod(shape[1:])
    block = draw(st.sampled_from([size for size in BLOCKS if along % size == 0]))
    kept = draw(st.sampled_from([0.0, 0.3, 1.0]))
    weight = random_weight(draw(st.integers(0, 3)), shape, block, orientation, kept)
    if draw(st.booleans()):
        weight[-block:] = 0
    try:
        packed = pack(weight, block, orientation, draw(st.sampled_from(COLUMNS)))
    except PackingError:  # a gap too wide
        packed = pack(weight, block, orientation)
    for _ in range(draw(st.integers(0, 3))):
        packed = draw(st.sampled_from(SPOILERS))(draw, packed)
    return packed


def _spoil_element(draw: st.DrawFn, packed: Packed, name: str) -> Packed:
    array = getattr(packed, name).copy()
    if array.size:
        info = np.iinfo(array.dtype)
        at = draw(st.integers(0, array.size - 1))
        near = st.integers(max(int(array[at]) - 2, info.min), min(int(array[at]) + 2, info.max))
        array[at] = draw(near | st.sampled_from([info.min, info.max]))
    return replace(packed, **{name: array})


def _swap_columns(draw: st.DrawFn, packed: Packed) -> Packed:
    columns = packed.columns.copy()
    if columns.size > 1:
        at = draw(st.integers(0, columns.size - 2))
        columns[[at, at + 1]] = columns[[at + 1, at]]
    return replace(packed, columns=columns)


def _spoil_length(draw: st.DrawFn, packed: Packed, name: str) -> Packed:
    array = getattr(packed, name)
    if draw(st.booleans()):
        return replace(packed, **{name: array[:-1]})
    return replace(packed, **{name: np.concatenate([array, array[-1:]])})


def _spoil_format(draw: st.DrawFn, packed: Packed) -> Packed:
    name = draw(st.sampled_from(COLUMNS))
    return replace(packed, format=name, columns=packed.columns.astype(COLUMN_TYPES[name]))


def _spoil_shape(draw: st.DrawFn, packed: Packed) -> Packed:
    axis = draw(st.integers(0, len(packed.shape) - 1))
    size = draw(st.sampled_from([0, 1, 2, packed.shape[axis] - 1, packed.shape[axis] + 1, 2 * packed.shape[axis]]))
    return replace(packed, shape=(*packed.shape[:axis], size, *packed.shape[axis + 1 :]))


def _spoil_block(draw: st.DrawFn, packed: Packed) -> Packed:
    block = draw(st.sampled_from([0, 3, *BLOCKS]))
    return replace(packed, values=np.zeros((len(packed.values), block), np.float32))


SPOILERS: list[Callable[[st.DrawFn, Packed], Packed]] = [
    lambda draw, packed: _spoil_element(draw, packed, "row_ptr"),
    lambda draw, packed: _spoil_element(draw, packed, "columns"),
    _swap_columns,
    lambda draw, packed: _spoil_length(draw, packed, "row_ptr"),
    lambda draw, packed: _spoil_length(draw, packed, "columns"),
    lambda draw, packed: _spoil_length(draw, packed, "values"),
    _spoil_format,
    _spoil_shape,
    _spoil_block,
    lambda draw, packed: replace(packed, orientation=draw(st.sampled_from(ORIENTATIONS))),
]


@settings(max_examples=1000)
@given(packed=mutated(), front=st.booleans())
def test_both_readers_judge_every_spoilt_file_alike(packed: Packed, front: bool) -> None:
    assert_same_verdict(packed, front=front)
