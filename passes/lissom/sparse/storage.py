"""What a sparse layer takes to store: in the packed format of the runtime, and as the Scalpel paper counts it.

With v bytes a value, x an index and p a row pointer, a weight [f, P] takes

    dense                f P v
    CSR                  nnz (v + x) + (rows + 1) p
    grouped in w's       G (w v + x) + (rows + 1) p,      kept weights = G w

CSR has an index for each weight, grouped rows one for each group (a partial group at the end of a row counts as a whole
one). The *break-even density* is that above which the dense weight is the smaller one: v / (v + x) and w v / (w v + x)
but for the row pointers, .67 and .94 for w = 8, v = 4 and x = 2. A block of b output channels by one column is counted
in the same way, its rows being those of blocks.

Source: Yu et al., "Scalpel: Customizing DNN Pruning to the Underlying Hardware Parallelism", ISCA 2017, section 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lissom_runtime.packing import pack

from lissom.sparse.blocks import Array, Blocks, Mask

VALUE_BYTES, INDEX_BYTES, POINTER_BYTES = 4, 2, 4


@dataclass(frozen=True)
class Storage:
    """Bytes of one layer's weight in three forms.

    Attributes:
        dense, csr, grouped: bytes.
        csr_break_even, grouped_break_even: densities above which the dense weight is smaller; 0 where it always is.
    """

    dense: int
    csr: int
    grouped: int
    csr_break_even: float
    grouped_break_even: float


def storage(folded: Array, blocks: Blocks) -> Storage:
    """What folded[f, P] takes, with the zeros that it has.

    Args:
        folded: the weight.
        blocks: what it is grouped in.
    """
    f, columns = folded.shape
    nonzero = folded != 0
    size = blocks.height * blocks.width
    by_row = nonzero.reshape(blocks.rows, blocks.height, columns).any(axis=1)
    starts = np.arange(0, columns, blocks.width)
    groups = int(np.count_nonzero(np.logical_or.reduceat(by_row, starts, axis=1)))
    dense = nonzero.size * VALUE_BYTES
    return Storage(
        dense=dense,
        csr=_listed(int(np.count_nonzero(nonzero)), 1, f),
        grouped=_listed(groups, size, blocks.rows),
        csr_break_even=_break_even(dense, 1, f),
        grouped_break_even=_break_even(dense, size, blocks.rows),
    )


def packed_bytes(kept: Mask, blocks: Blocks) -> int:
    """Bytes of the packed weight when the blocks kept[rows, groups] are kept."""
    size, orientation = blocks.packed
    mask = blocks.spread(kept)
    pattern = mask[::size] if orientation == "output" else mask[:, ::size]
    single = pack(pattern.astype(np.float32))
    return single.nbytes + (size - 1) * single.values.nbytes


def _listed(groups: int, size: int, rows: int) -> int:
    """Bytes of groups of a size, each with one index, in rows."""
    return groups * (size * VALUE_BYTES + INDEX_BYTES) + (rows + 1) * POINTER_BYTES


def _break_even(dense: int, size: int, rows: int) -> float:
    """The density at which `_listed` is `dense`."""
    most = (dense - (rows + 1) * POINTER_BYTES) / (size * VALUE_BYTES + INDEX_BYTES)
    return max(most, 0.0) * size * VALUE_BYTES / dense
