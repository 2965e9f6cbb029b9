"""The packed format: what is packed comes back, in the fewest bytes, and every violation is refused by its name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lissom_runtime import packing
from lissom_runtime.contract import BLOCKS, COLUMNS, ORIENTATIONS
from lissom_runtime.packing import Packed, PackingError, check, pack, unpack
from runtime.packed import VIOLATIONS, example, random_weight

Array = npt.NDArray[np.float32]

DOCUMENT = (Path(__file__).parents[2] / "docs" / "packed-format.md").read_text(encoding="utf-8")
EVERY_ERROR = {error.__name__: error for error in PackingError.__subclasses__()}

every_block = pytest.mark.parametrize("block", BLOCKS)
every_orientation = pytest.mark.parametrize("orientation", ORIENTATIONS)
every_format = pytest.mark.parametrize("columns", COLUMNS)


# What the types of a model's tensors say already, or its runtime before it looks into the arrays.
OUTSIDE_THE_ARRAYS: list[tuple[str, Callable[[], Packed]]] = [
    ("UnknownDtype", lambda: replace(example(), dtype="int8")),
    ("UnexpectedScales", lambda: replace(example(), scales=np.ones(4, np.float32))),
    ("UnexpectedScales", lambda: replace(example(), zero_points=np.zeros(4, np.int8))),
    ("WrongArray", lambda: replace(example(), row_ptr=example().row_ptr.astype(np.int64))),
    ("WrongArray", lambda: replace(example(), row_ptr=example().row_ptr.astype(">i4"))),
    ("WrongArray", lambda: replace(example(), columns=example("u32").columns)),
    ("WrongArray", lambda: replace(example(), values=example().values[:, 0])),
    ("WrongArray", lambda: replace(example(), values=example().values.astype(np.float64))),
    ("WrongShape", lambda: replace(example(), shape=(4, 11, 1))),
    ("WrongShape", lambda: replace(example(), shape=())),
    ("WrongShape", lambda: replace(example(), shape=(4, -11, -1, 1))),
]


@pytest.mark.parametrize(("name", "bad"), VIOLATIONS + OUTSIDE_THE_ARRAYS)
def test_a_violation_is_refused_by_its_name(name: str, bad: Callable[[], Packed]) -> None:
    with pytest.raises(EVERY_ERROR[name], match=r"^expected .*, but got .*"):
        check(bad())
    with pytest.raises(EVERY_ERROR[name]):
        unpack(bad())


def test_every_error_has_a_violation_and_a_line_in_the_document() -> None:
    assert {name for name, _ in VIOLATIONS + OUTSIDE_THE_ARRAYS} == set(EVERY_ERROR)
    assert [name for name in EVERY_ERROR if f"| `{name}` |" not in DOCUMENT] == []


@every_format
@every_orientation
@every_block
@pytest.mark.parametrize("shape", [(32, 48), (16, 16, 3, 3), (16, 16, 1, 1)], ids=str)
@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
def test_what_is_packed_comes_back(
    shape: tuple[int, ...], block: int, orientation: str, columns: str, density: float
) -> None:
    weight = random_weight(block, shape, block, orientation, density)
    packed = pack(weight, block, orientation, columns)
    assert (packed.shape, packed.block, packed.orientation, packed.format) == (shape, block, orientation, columns)
    assert packed.density == np.count_nonzero(weight) / weight.size
    np.testing.assert_array_equal(unpack(packed), weight, strict=True)


@given(rows=st.integers(1, 3), width=st.integers(1, 3), block=st.sampled_from(BLOCKS), data=st.data())
@every_orientation
def test_every_pattern_of_zeros_comes_back(orientation: str, rows: int, width: int, block: int, data: Any) -> None:
    high, wide = (block, 1) if orientation == "output" else (1, block)
    bits = data.draw(st.lists(st.booleans(), min_size=rows * width * block, max_size=rows * width * block))
    weight = np.array(bits, np.float32).reshape(rows * high, width * wide)
    np.testing.assert_array_equal(unpack(pack(weight, block, orientation)), weight)


@every_orientation
@every_block
@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.5])
def test_the_smallest_format_is_chosen(block: int, orientation: str, density: float) -> None:
    weight = random_weight(1, (32, 4096), block, orientation, density)
    weight[-block:] = 0  # a full row would make bitmaps and deltas win everywhere
    sizes = []
    for columns in COLUMNS:
        try:
            sizes.append(pack(weight, block, orientation, columns).nbytes)
        except packing.FormatTooNarrow:
            assert columns == "delta8"
    assert pack(weight, block, orientation).nbytes == min(sizes)


def test_the_first_of_equally_small_formats_is_chosen() -> None:
    assert pack(np.zeros((1, 8), np.float32)).format == "delta8"
    assert pack(np.eye(1, 8, dtype=np.float32)).format == "bitmap"
    assert pack(np.zeros((1, 70000), np.float32)).format == "delta8"


@pytest.mark.parametrize(
    ("shape", "density", "share"),
    [((512, 512, 3, 3), 0.5, 0.56), ((512, 512, 3, 3), 0.3, 0.36), ((64, 64), 0.5, 0.56), ((64, 64), 0.3, 0.36)],
)
def test_single_weights_pack_into_little_more_than_themselves(
    shape: tuple[int, ...], density: float, share: float
) -> None:
    generator = np.random.default_rng(0)
    weight = np.ones(shape, np.float32)
    weight.ravel()[generator.permutation(weight.size)[round(density * weight.size) :]] = 0
    assert pack(weight).nbytes <= share * weight.nbytes


def test_the_widest_gap_of_delta8_is_255() -> None:
    weight = np.zeros((1, 600), np.float32)
    weight[0, [255, 511]] = 1
    packed = pack(weight, format="delta8")
    np.testing.assert_array_equal(packed.columns, [255, 255])
    np.testing.assert_array_equal(unpack(packed), weight)
    with pytest.raises(packing.FormatTooNarrow, match="gaps of up to 256"):
        pack(np.roll(weight, 1), format="delta8")


def test_the_widest_pattern_of_u16_is_65536() -> None:
    weight = np.zeros((1, 65536), np.float32)
    weight[0, -1] = 1
    packed = pack(weight)
    assert packed.format == "u16" and packed.columns.tolist() == [65535]
    np.testing.assert_array_equal(unpack(packed), weight)
    wider = np.pad(weight, ((0, 0), (1, 0)))
    assert pack(wider).format == "u32"
    with pytest.raises(packing.FormatTooNarrow, match="65537 columns for u16"):
        pack(wider, format="u16")


def test_zeros_of_either_sign_are_dropped_and_nan_is_kept_bit_for_bit() -> None:
    weight = np.array([[-0.0, 0.0, np.nan, -0.0]], np.float32)
    weight.view(np.uint32)[0, 1] = 0x7FA12345  # a signalling NaN with a payload
    packed = pack(weight, format="u32")
    assert packed.columns.tolist() == [1, 2]
    assert unpack(packed).view(np.uint32).tolist() == [[0, 0x7FA12345, weight.view(np.uint32)[0, 2], 0]]
    whole = pack(weight, 2, "input")
    np.testing.assert_array_equal(unpack(whole).view(np.uint32), weight.view(np.uint32))


def test_a_stored_block_of_zeros_is_allowed() -> None:
    zeros = replace(example(), values=np.zeros((16, 1), np.float32))
    check(zeros)
    np.testing.assert_array_equal(unpack(zeros), np.zeros((4, 11), np.float32))


@pytest.mark.parametrize(
    ("name", "weight", "arguments"),
    [
        ("UnknownDtype", np.zeros((4, 4)), {}),
        ("UnknownOrientation", np.zeros((4, 4), np.float32), {"orientation": "diagonal"}),
        ("UnknownFormat", np.zeros((4, 4), np.float32), {"format": "u8"}),
        ("WrongShape", np.zeros(4, np.float32), {}),
        ("WrongShape", np.zeros((4, 0), np.float32), {}),
        ("WrongShape", np.broadcast_to(np.float32(0), (2**16, 2**15)), {}),
        ("UnknownBlock", np.zeros((4, 4), np.float32), {"block": 3}),
        ("IndivisibleBlock", np.zeros((4, 8), np.float32), {"block": 8}),
        ("IndivisibleBlock", np.zeros((8, 4), np.float32), {"block": 8, "orientation": "input"}),
    ],
)
def test_what_cannot_be_packed_is_refused_by_name(name: str, weight: Array, arguments: dict[str, Any]) -> None:
    with pytest.raises(EVERY_ERROR[name], match=r"^expected .*, but got .*"):
        pack(weight, **arguments)


@pytest.mark.parametrize(
    ("columns", "stored"),
    [
        ("bitmap", "4a 02"),
        ("delta8", "01 01 00 02"),
        ("u16", "01 00 03 00 00 00 03 00"),
        ("u32", "01 00 00 00 03 00 00 00 00 00 00 00 03 00 00 00"),
    ],
)
def test_the_bytes_are_those_of_the_documents_example(columns: str, stored: str) -> None:
    weight = np.array([[0, 1, 0, 3, 0, 0], [0, 2, 0, 4, 0, 0], [5, 0, 0, 7, 0, 0], [6, 0, 0, 0, 0, 0]], np.float32)
    packed = pack(weight, 2, "output", columns)
    row_ptr = packed.row_ptr.astype("<i4").tobytes().hex(" ")
    values = packed.values.astype("<f4").tobytes().hex(" ")
    assert packed.columns.astype(packed.columns.dtype.newbyteorder("<")).tobytes().hex(" ") == stored
    assert [part for part in (row_ptr, stored, values) if f"`{part}`" not in DOCUMENT] == []
