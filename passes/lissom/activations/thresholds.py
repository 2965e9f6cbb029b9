"""Static thresholds: the theta at which a share of the calibration activations wins.

Activations are never kept. The magnitudes of a tensor are counted in *bins* that many floats share: the bits of |x|,
read as an integer, have the order of the numbers, and a bin is what their leading bits are, so that it is 2^-m wide
relative to its numbers, m bits of the mantissa. One pass over the data gives the thresholds of all winner rates:

    k = winner_count(rate, n),      theta = the lower edge of the bin of the k-th largest of n magnitudes.

theta is at most that magnitude t and more than t / (1 + 2^-m), so never fewer than k win: |x| >= theta. m is `FINEST`,
less where a tensor with many channels would need more than `MOST_BYTES`. theta is 0 where fewer than k are not zero:
then there is nothing to prune. Activations that are NaN or infinite are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from lissom_runtime.contract import winner_count
from lissom_runtime.errors import UsageError

from lissom.activations.sites import ActivationSite
from lissom.data import Feeds
from lissom.graph.model import Model
from lissom.observe import Array, run_batches
from lissom.options import IntArray

FINEST = 8
"""Bits of the mantissa that tell bins apart: theta is at most 0.4 percent too small."""

MOST_BYTES = 64 * 2**20
"""Memory for the counts of one tensor."""

MANTISSA_BITS = 23
INFINITY_BITS = 0x7F800000
"""Of float32."""

Float32Array = npt.NDArray[np.float32]


@dataclass
class Magnitudes:
    """How often which magnitudes came.

    Attributes:
        counts: counts[channels, bins]; one channel stands for all where they are not told apart.
        mantissa: bits of the mantissa that tell bins apart.
    """

    counts: IntArray
    mantissa: int

    @classmethod
    def of(cls, channels: int, limit: int = MOST_BYTES) -> Magnitudes:
        """Those of nothing yet, in at most `limit` bytes or the coarsest bins."""
        mantissa = next((m for m in range(FINEST, 0, -1) if 8 * channels * _bins(m) <= limit), 0)
        return cls(np.zeros((channels, _bins(mantissa)), np.int64), mantissa)

    @property
    def size(self) -> int:
        """Magnitudes of each channel so far."""
        return int(self.counts[0].sum())

    def add(self, values: Array, axis: int) -> None:
        """Counts the magnitudes of float32 `values`, whose channels lie along `axis`.

        Raises:
            UsageError: one is NaN or infinite.
        """
        channels, bins = self.counts.shape
        rows = np.moveaxis(values, axis, 0).reshape(channels, -1)
        bits = np.abs(np.ascontiguousarray(rows, np.float32)).view(np.uint32)
        if bits.size and bits.max() >= INFINITY_BITS:
            raise UsageError("expected finite activations, but got one that is NaN or infinite")
        bits >>= np.uint32(MANTISSA_BITS - self.mantissa)
        for count, row in zip(self.counts, bits, strict=True):
            count += np.bincount(row, minlength=bins)

    def thresholds(self, rate: float) -> Float32Array:
        """theta[channels] at a winner rate.

        Raises:
            UsageError: nothing was counted, or `rate` is not in (0, 1].
        """
        if not self.size:
            raise UsageError("expected calibration activations for a threshold, but got none")
        at_least = self.counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # of this bin and all above
        bins = np.count_nonzero(at_least >= winner_count(rate, self.size), axis=1) - 1
        edges: Float32Array = (bins.astype(np.uint32) << np.uint32(MANTISSA_BITS - self.mantissa)).view(np.float32)
        return edges


def observe_magnitudes(
    model: Model, sites: Sequence[ActivationSite], batches: Iterable[Feeds], per_channel: bool = False
) -> dict[str, Magnitudes]:
    """Counts the magnitudes of every site's activations, by name of the tensor.

    Args:
        model: the model that the sites belong to.
        sites: the sites.
        batches: feeds for the model, one batch at a time.
        per_channel: tell the channels of a tensor apart.

    Raises:
        UsageError: an activation is NaN or infinite.
    """
    found: dict[str, Magnitudes] = {}
    for values in run_batches(model, [site.tensor for site in sites], batches):
        for site in sites:
            tensor = values[site.tensor]
            flat = tensor if per_channel else tensor.reshape(1, -1)
            axis = site.axis if per_channel else 0
            known = found.setdefault(site.tensor, Magnitudes.of(flat.shape[axis]))
            try:
                known.add(flat, axis)
            except UsageError as error:
                raise UsageError(f"{error} in {site.tensor!r}") from error
    return found


def _bins(mantissa: int) -> int:
    """Bins of all finite magnitudes."""
    return INFINITY_BITS >> (MANTISSA_BITS - mantissa)
