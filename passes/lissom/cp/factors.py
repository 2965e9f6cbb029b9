"""The numbers of a canonical polyadic (CP) decomposition: a kernel as a sum of rank-one terms of three vectors.

With W[κ, f, c], κ the taps of the kernel as one axis,

    Ŵ[κ, f, c] = Σ_r out[f, r] taps[κ, r] inp[c, r],      r < R,

which is a 1×1 convolution c → R, a depthwise one of the layer's kernel and a 1×1 convolution R → f. The kernel is not
split into its axes: at equal parameters a κ1×1 and a 1×κ2 factor were measured to be no better, and are one layer more
(docs/methods.md).

1. Alternating least squares from seeded normal factors: with two of the factors fixed the third is a linear least
   squares problem of R unknowns a row, with the matrix (Xᵀ X) ∘ (Yᵀ Y) of the two. `PULL` of its mean diagonal on the
   diagonal keeps terms from growing against one another, which a best approximation of a tensor may ask for. No step
   raises the error but for that. It ends after `ROUNDS`, or when a round gains less than `GAIN` of ‖W‖².
2. With the moment Σ of the layer's input patches `out` is fitted once more, to the layer's output. With K[c κ, R] the
   products of inp and taps, G = Kᵀ K and S = Kᵀ Σ K it minimises

       tr (W − D Kᵀ) Σ (W − D Kᵀ)ᵀ + δ ‖(D − out) Kᵀ‖²,     D = (W Σ K + δ out G)(S + δ G)⁻¹,

   W folded to [f, c κ]; δ is `RIDGE` of the mean variance: what the inputs never showed stays.
3. The length of every term is shared out evenly over its three vectors.

Source: Lebedev et al., "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", ICLR 2015, for
the chain (with the kernel in its axes); Kolda and Bader, "Tensor Decompositions and Applications", SIAM Review 51,
2009, section 3.4, for step 1. Step 2 is ours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve

from lissom.lowrank.factors import check_moment
from lissom.lowrank.foldings import Array
from lissom.options import FloatArray
from lissom.tucker.factors import RIDGE

ROUNDS = 40
"""Most rounds over the three factors."""

GAIN = 1e-5
"""A round that lowers the squared error by less, as a fraction of the squared weight, is the last."""

PULL = 1e-9
"""What is put on the diagonal of the normal equations, in units of its mean."""


class Terms(NamedTuple):
    """R terms, each the product of three vectors.

    Attributes:
        out: out[f, R].
        taps: taps[κ, R].
        inp: inp[c, R].
    """

    out: FloatArray
    taps: FloatArray
    inp: FloatArray

    def dense(self) -> FloatArray:
        """The weight[f, c κ] that is meant."""
        dense: FloatArray = self.out @ self.rows().T
        return dense

    def rows(self) -> FloatArray:
        """K[c κ, R], the products of inp and taps."""
        return (self.inp[:, None] * self.taps[None]).reshape(-1, self.inp.shape[1])


def cp(weight: Array, rank: int, moment: FloatArray | None = None, rounds: int = ROUNDS) -> Terms:
    """The terms of weight[f, c, *kernel].

    Args:
        weight: the layer's weight, not all zeros.
        rank: R, at least 1.
        moment: moment[cκ, cκ] of the input patches, for step 2; None without it.
        rounds: most rounds.

    Raises:
        ValueError: the moment is of another shape.
    """
    kernel = np.ascontiguousarray(np.moveaxis(weight.reshape(*weight.shape[:2], -1).astype(np.float64), -1, 0))
    found = _alternating(kernel, rank, rounds)
    if moment is not None:
        found = _fitted(weight.reshape(len(weight), -1).astype(np.float64), found, moment)
    return _even(found)


def _alternating(kernel: FloatArray, rank: int, rounds: int) -> Terms:
    """Step 1 for kernel[κ, f, c]; taps and inp of length 1."""
    taps, f, c = kernel.shape
    rng = np.random.default_rng(0)
    out = np.zeros((f, rank))
    inp, shape = (_unit(rng.standard_normal((extent, rank))) for extent in (c, taps))
    whole = float((kernel**2).sum())
    before = np.inf
    for _ in range(rounds):
        seen = ((kernel @ inp) * shape[:, None]).sum(axis=0)  # [f, R]
        gram = (inp.T @ inp) * (shape.T @ shape)
        out = _solved(gram, seen)
        left = whole - 2 * float((out * seen).sum()) + float((gram * (out.T @ out)).sum())
        if before - left <= GAIN * whole:
            break
        before = left
        rows = _unit(out)
        across = rows.T @ kernel  # [κ, R, c]
        inp = _unit(_solved((rows.T @ rows) * (shape.T @ shape), np.einsum("krc,kr->cr", across, shape)))
        shape = _unit(_solved((rows.T @ rows) * (inp.T @ inp), np.einsum("krc,cr->kr", across, inp)))
    else:
        out = _solved((inp.T @ inp) * (shape.T @ shape), ((kernel @ inp) * shape[:, None]).sum(axis=0))
    return Terms(out, shape, inp)


def _fitted(flat: FloatArray, found: Terms, moment: FloatArray) -> Terms:
    """Step 2 for flat[f, c κ]."""
    check_moment(moment, flat.shape[1])
    ridge = RIDGE * float(np.trace(moment)) / len(moment)
    if ridge <= 0:
        return found
    rows = found.rows()
    own = ridge * (rows.T @ rows)
    seen = moment @ rows
    normal = rows.T @ seen + own
    pull = PULL * float(np.trace(normal)) / len(normal) * np.eye(len(normal))
    right = flat @ seen + found.out @ (own + pull)
    return found._replace(out=solve(normal + pull, right.T, assume_a="pos").T)


def _solved(gram: FloatArray, seen: FloatArray) -> FloatArray:
    """The factor[n, R] of least squares for seen[n, R]; zeros where nothing is seen."""
    pull = PULL * float(np.trace(gram)) / len(gram) or 1.0
    factor: FloatArray = solve(gram + pull * np.eye(len(gram)), seen.T, assume_a="pos").T
    return factor


def _unit(factor: FloatArray) -> FloatArray:
    """The columns with length 1; those of zeros stay."""
    lengths = np.linalg.norm(factor, axis=0)
    unit: FloatArray = factor / np.where(lengths > 0, lengths, 1)
    return unit


def _even(found: Terms) -> Terms:
    """Step 3."""
    lengths = np.prod([np.linalg.norm(factor, axis=0) for factor in found], axis=0)
    return Terms(*(_unit(factor) * np.cbrt(lengths) for factor in found))
