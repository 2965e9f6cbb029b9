"""The numbers of a Tucker-2 decomposition: two bases of channels, and the kernel between them.

With W[κ, f, c], κ the taps, the approximation of ranks (R, S) is

    Ŵ[κ, f, c] = Σ_{r,s} out[f, r] core[κ, r, s] inp[c, s],

`out` and `inp` with orthonormal columns. For given bases the best core is W seen through them, and then
‖W − Ŵ‖² = ‖W‖² − ‖core‖². The bases are found in turn:

1. HOSVD. `out` are the leading eigenvectors of the Gram matrix of W unfolded to [f, κ c], `inp` those of [c, κ f].
2. HOOI. With `inp` fixed the best `out` are the leading left singular vectors of the W seen through it, unfolded to
   [f, κ S]; then the same for `inp`. No step raises the error, so it is never above that of HOSVD. It ends
   after `ROUNDS`, or when a round gains less than `GAIN` of ‖W‖².

Where the input channels are not factorised (S = 0) step 1 alone is optimal, being a truncated SVD.

With the moment Σ of the layer's input patches a third step fits `out` and `core` to the layer's output:

3. With `inp` fixed the layer sees Pᵀ x, P = I ⊗ inp, whose moment is Σ' = Pᵀ Σ P. Among all M[f, κ S],
   tr (W − M Pᵀ) Σ (W − M Pᵀ)ᵀ + δ ‖M − W P‖² is least for M = (W Σ P + δ W P) (Σ' + δ I)⁻¹, and among those of
   rank R for U Uᵀ M, U the leading eigenvectors of M (Σ' + δ I) Mᵀ. δ is `RIDGE` of the mean variance: what
   the inputs never showed stays as HOOI has it, and the error of the output is never above that of HOOI but
   for δ times the squared error of the weight. Full ranks give W.

Source: De Lathauwer, De Moor and Vandewalle, "On the Best Rank-1 and Rank-(R1, R2, …, RN) Approximation of Higher-order
Tensors", SIAM J. Matrix Anal. Appl. 21(4), 2000; for kernels: Kim et al., ICLR 2016, section 3.1. Step 3 is
reduced-rank regression (Izenman, J. Multivariate Analysis 5, 1975).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.linalg import eigh, solve

from lissom.lowrank.factors import check_moment
from lissom.options import FloatArray

Array = npt.NDArray[np.floating[Any]]

RIDGE = 1e-6
"""The weight of the distance to W P, in units of the mean of the diagonal of the moment."""

ROUNDS = 10
"""Most rounds of HOOI."""

GAIN = 1e-4
"""A round that lowers the squared error by less, as a fraction of the squared weight, is the last."""


class Tucker(NamedTuple):
    """Two bases and a core.

    Attributes:
        out: out[f, R], orthonormal columns.
        core: core[κ, R, S]; [κ, R, c] where the input channels are not factorised.
        inp: inp[c, S], orthonormal columns, or None.
        error: ‖W − Ŵ‖ / ‖W‖, or √(tr E Σ Eᵀ / tr W Σ Wᵀ) with E = W − Ŵ after step 3.
    """

    out: FloatArray
    core: FloatArray
    inp: FloatArray | None
    error: float

    def dense(self) -> FloatArray:
        """The weight[f, c, κ] that is meant."""
        inner = self.core if self.inp is None else self.core @ self.inp.T
        return np.moveaxis(self.out @ inner, 0, -1)


class Modes(NamedTuple):
    """The spectra of both unfoldings of a weight, descending: where HOOI starts.

    Attributes:
        kernel: kernel[κ, f, c], the weight.
        out: out[f, f], eigenvectors of the Gram matrix of [f, κ c].
        out_squares: out_squares[f], its eigenvalues.
        inp: inp[c, c], of [c, κ f].
        inp_squares: inp_squares[c].
    """

    kernel: FloatArray
    out: FloatArray
    out_squares: FloatArray
    inp: FloatArray
    inp_squares: FloatArray


def modes(weight: Array) -> Modes:
    """Spectra of both unfoldings of weight[f, c, *kernel]."""
    taps_last = weight.reshape(*weight.shape[:2], -1).astype(np.float64)
    kernel = np.ascontiguousarray(np.moveaxis(taps_last, -1, 0))
    spectra: list[FloatArray] = []
    for gram in (_row_gram(kernel), _row_gram(kernel.swapaxes(1, 2))):
        squares, vectors = np.linalg.eigh(gram)
        spectra += [vectors[:, ::-1], np.maximum(squares[::-1], 0)]
    return Modes(kernel, *spectra)


def hosvd(start: Modes, rank_in: int, rank_out: int) -> Tucker:
    """The decomposition of step 1."""
    return _seen(start.kernel, start.out[:, :rank_out], start.inp[:, :rank_in] if rank_in else None)


def hooi(start: Modes, rank_in: int, rank_out: int) -> Tucker:
    """The decomposition of the given ranks.

    Args:
        start: the weight[f, c, *kernel] and its spectra.
        rank_in: S, 1 .. min(c, f κ); 0 leaves the input channels as they are.
        rank_out: R, 1 .. min(f, c κ).
    """
    found = hosvd(start, rank_in, rank_out)
    if found.inp is None or (rank_in == len(found.inp) and rank_out == len(found.out)):
        return found
    inp = found.inp
    for _ in range(ROUNDS):
        out = _leading(_row_gram(start.kernel @ inp), rank_out)
        inp = _leading(_row_gram((out.T @ start.kernel).swapaxes(1, 2)), rank_in)
        better = _seen(start.kernel, out, inp)
        gained = found.error**2 - better.error**2
        if gained > 0:
            found = better
        if gained <= GAIN:
            break
    return found


def fitted(start: Modes, rank_in: int, rank_out: int, through: Through | None) -> Tucker:
    """As `hooi`, and with step 3 where the layer's input is known."""
    found = hooi(start, rank_in, rank_out)
    return found if through is None else through.fit(found)


class Through:
    """A weight as seen through the moment of its input: what step 3 needs for all ranks.

    Args:
        kernel: kernel[κ, f, c], the weight.
        moment: moment[cκ, cκ] of the input patches, in the order of weight[f, c, κ].

    Raises:
        ValueError: the moment is of another shape.
    """

    def __init__(self, kernel: FloatArray, moment: FloatArray) -> None:
        taps, _, channels = kernel.shape
        columns = taps * channels
        check_moment(moment, columns)
        apart = moment.reshape(channels, taps, channels, taps).transpose(1, 0, 3, 2)
        self._moment = apart.reshape(columns, columns)  # [κ c, κ c], as all here
        self._flat = kernel.swapaxes(0, 1).reshape(-1, columns)
        self._seen = self._flat @ self._moment
        self._whole = float((self._flat * self._seen).sum())

    def fit(self, found: Tucker) -> Tucker:
        """Step 3."""
        ridge = RIDGE * float(np.trace(self._moment)) / len(self._moment)
        if ridge <= 0 or self._whole <= 0:
            return found._replace(error=0.0)
        taps = len(found.core)
        if found.inp is None:
            plain, wanted, moment = self._flat, self._seen, self._moment
        else:
            plain, wanted = _narrow(self._flat, found.inp), _narrow(self._seen, found.inp)
            half = _narrow(self._moment, found.inp).reshape(taps, len(found.inp), -1)
            moment = (found.inp.T @ half).reshape(plain.shape[1], -1)
        pulled = wanted + ridge * plain  # M (Σ' + δ I)
        best = solve(moment + ridge * np.eye(len(moment)), pulled.T, assume_a="pos").T
        out = _leading(pulled @ best.T, found.core.shape[1])
        inner = out.T @ best  # [R, κ S]
        seen = out.T @ pulled - ridge * inner  # inner Σ'
        left = self._whole - 2 * float((inner * (out.T @ wanted)).sum()) + float((inner * seen).sum())
        core = inner.reshape(len(inner), taps, -1).swapaxes(0, 1)
        return Tucker(out, core, found.inp, float(np.sqrt(max(left, 0.0) / self._whole)))


def _narrow(rows: FloatArray, inp: FloatArray) -> FloatArray:
    """The product [n, κ S] of rows[n, κ c] and P."""
    narrow: FloatArray = (rows.reshape(-1, len(inp)) @ inp).reshape(len(rows), -1)
    return narrow


def _seen(kernel: FloatArray, out: FloatArray, inp: FloatArray | None) -> Tucker:
    """The best core for these bases."""
    core = out.T @ kernel if inp is None else (out.T @ kernel) @ inp
    whole = float((kernel**2).sum())
    left = max(whole - float((core**2).sum()), 0.0)
    return Tucker(out, core, inp, float(np.sqrt(left / whole)) if whole > 0 else 0.0)


def _row_gram(parts: FloatArray) -> FloatArray:
    """Gram matrix[n, n] of parts[κ, n, m] side by side."""
    gram: FloatArray = (parts @ parts.swapaxes(1, 2)).sum(axis=0)
    return gram


def _leading(gram: FloatArray, count: int) -> FloatArray:
    """The eigenvectors[n, count] of the largest eigenvalues."""
    last = len(gram) - 1
    _, vectors = eigh(gram, subset_by_index=[last - count + 1, last])
    leading: FloatArray = vectors[:, ::-1]
    return leading
