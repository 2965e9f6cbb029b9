"""What is left of one layer's weight when n of its blocks are kept, and what that costs.

    rms, magnitude   the first n blocks of the ranking, as they were
    obs              the first n of an elimination, with the weights that are best on them (`obs`)
    obs, large       what one sweep of that density leaves (`sweep`)

A layer is large when the elimination takes more than `EXACT_MACS` multiply-accumulates, rows · P³ / 3. The cost is the
squared error under the moment, tr(E Σ Eᵀ), or ‖E‖² without one; that of an elimination is under H, tr(E H Eᵀ), and so
never less.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from lissom.lowrank.factors import check_moment
from lissom.options import FloatArray
from lissom.refitting.equations import inverse_of, pull_of
from lissom.sparse.blocks import Array, Blocks, Mask
from lissom.sparse.importance import Importance, own_importance, ranked
from lissom.sparse.obs import Trace, compensated, trace
from lissom.sparse.recent import Recent
from lissom.sparse.sweep import Prepared, prepare, sweep

EXACT_MACS = 2e10
"""Work up to which a layer is eliminated row by row: some seconds."""

_TRACES = Recent[Trace](32 * 2**20, lambda found: found.ranking.nbytes + found.losses.nbytes)
_PREPARED = Recent[Prepared](256 * 2**20, lambda found: found.factor.nbytes + found.alone.nbytes)


class Choice:
    """The blocks of one layer's weight, in the order of their importance.

    Args:
        folded: the weight[f, P].
        blocks: its blocks.
        importance: what decides which are kept.
        moment: Σ[P, P] of the layer's input columns; None only for an importance other than `obs`.
        damping: of Σ, for `obs`.

    Raises:
        ValueError: `obs` has no moment, or one of another size.
    """

    def __init__(
        self, folded: Array, blocks: Blocks, importance: Importance, moment: FloatArray | None, damping: float
    ) -> None:
        if importance == "obs" and moment is None:
            raise ValueError("the importance 'obs' needs the second moment of the layer's input")
        if moment is not None:
            check_moment(moment, blocks.columns)
        self._folded = np.asarray(folded, np.float64)
        self._blocks, self._moment, self._damping = blocks, moment, damping
        self._own = None if importance == "obs" else own_importance(self._folded, blocks, importance)
        self._is_large = blocks.rows * blocks.columns**3 / 3 > EXACT_MACS

    @property
    def whole(self) -> float:
        """The squared error of keeping nothing, under Σ."""
        return self._loss(self._folded)

    @property
    def at_zero(self) -> float:
        """The squared error of keeping nothing, as that of all choices is counted."""
        if self._own is not None or self._is_large:
            return self.whole
        return self._loss(self._folded) + self._pull * float((self._folded**2).sum())

    def above(self, threshold: float) -> int:
        """How many blocks have at least this importance, by `rms` or `magnitude`."""
        assert self._own is not None
        return int(np.count_nonzero(self._own >= threshold))

    def kept(self, count: int) -> tuple[Mask, float]:
        """Which `count` blocks are kept[rows, groups], and the squared error then."""
        if self._own is not None:
            mask = ranked(self._own) < count
            return mask, self._loss(np.where(self._blocks.spread(mask), 0.0, self._folded))
        if self._is_large:
            weight, mask = sweep(self._folded, self._blocks, self._prepared, count)
            return mask, self._loss(self._folded - weight)
        return self._trace.ranking < count, float(self._trace.losses[count])

    def weight(self, count: int) -> FloatArray:
        """The weight[f, P] of `count` blocks."""
        if self._own is None and self._is_large:
            return sweep(self._folded, self._blocks, self._prepared, count)[0]
        mask = self._blocks.spread(self.kept(count)[0])
        if self._own is not None or self._moment is None:
            return np.where(mask, self._folded, 0.0)
        return compensated(self._folded, mask, self._moment, self._damping)

    @cached_property
    def _pull(self) -> float:
        """The damping d of H."""
        assert self._moment is not None
        return pull_of(self._moment, self._damping)

    def _loss(self, error: FloatArray) -> float:
        """tr(E Σ Eᵀ) of an error[f, P]."""
        return float(((error if self._moment is None else error @ self._moment) * error).sum())

    @cached_property
    def _trace(self) -> Trace:
        moment, damping = self._moment, self._damping
        assert moment is not None
        return _TRACES.get(
            (self._folded, moment), (self._blocks, damping), lambda: trace(self._folded, self._blocks, moment, damping)
        )

    @cached_property
    def _prepared(self) -> Prepared:
        moment, damping = self._moment, self._damping
        assert moment is not None
        return _PREPARED.get(
            (self._folded, moment),
            (self._blocks, damping),
            lambda: prepare(self._folded, self._blocks, inverse_of(moment, damping)),
        )
