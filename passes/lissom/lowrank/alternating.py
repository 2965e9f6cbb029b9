"""The pair of one group that is fitted under the input's moment, where the decoder has taps (foldings 1, 2 and 3).

With d, e the taps of the decoder, W_d[f, n] the folded weight at tap d (n: input channels and the encoder's taps) and
M_de[n, n] the block of the second moment of the input patches for a pair of taps, the pair D_d[f, rank], E[rank, n]
has the mean squared output error

    Σ_{d,e} tr (W_d − D_d E) M_de (W_e − D_e E)ᵀ.

Taps read shifted inputs, and the M_de differ, so that there is no closed form as for folding 0. The error is quadratic
in each factor, and each is improved in turn:

1. Two starts, the better of which goes on: the encoder of the best rank-j approximation of the folded matrix as it is
   (plain), and as seen through Σ_d M_dd, which is what neglects M_de for d ≠ e.
2. The rows of E are made orthonormal (only their span matters). Decoder: with B = I ⊗ E on [taps·rank, taps·n] and
   G = B M Bᵀ, D = D₀ + (W M Bᵀ − D₀ G)(G + εI)⁻¹, D₀ = W Bᵀ. What the moment does not see stays the plain
   projection D₀ of the weight, so full rank gives the weight back whether or not M can be inverted;
   ε = `RIDGE` tr M is above the rounding of G.
3. Encoder: `STEPS` steps of conjugate gradients on its normal equations, from E, preconditioned by
   (Σ_d D_dᵀ D_d) ⊗ (Σ_d M_dd + δI); then 2 again. A round that does not lower the error ends the fit, and so does one
   that lowers it by less than a `GAIN`.
4. M Bᵀ is most of the work, and linear in E: that of an improved encoder is the sum of those of the steps that led to
   it, and that of its orthonormal rows is had by a triangular solve. So a round costs `STEPS` products with M.

The first of the `rounds` is 2 alone. No step raises the error, and the first is not above that of the plain pair, so
the fit is never worse than it, to a relative error of about 1e-5 that the ridge leaves. (Measured on the layers of a
ResNet-20: the second round takes 1 to 20 percent off the first one's error, the third 1, thirty-seven more another.)

Because the starts are nested, one Cholesky factorisation G = L Lᵀ, ordered rank by rank, gives the errors of the first
round for every rank: the rank-j error is tr W M Wᵀ less the squares of the leading j·taps rows of L⁻¹ (W M Bᵀ)ᵀ.
What the further rounds gain changes slowly with the rank, and is interpolated (`fitted_errors`).

Source: the encoder/decoder split is that of Liebenwein et al. (ALDS), the error that of Zhang et al., Accelerating Very
Deep Convolutional Networks (2015), section 3; alternating least squares for it is standard.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular

from lissom.lowrank.foldings import Array, axis_order, decoder_axes, fold
from lissom.options import FloatArray

ROUNDS = 3
"""Times that the decoder is solved for."""

STEPS = 3
"""Steps of conjugate gradients for an encoder."""

RIDGE = 1e-11
"""Added to the diagonal of a Gram matrix, relative to a trace: above the rounding of one of 10,000 rows."""

SMOOTHING = 1e-3
"""Added to the diagonal of the preconditioner's moment, relative to the mean of that diagonal."""

GAIN = 0.01
"""A round that lowers the squared error by less than this share of it is the last one."""

CONVERGED = 1e-10
"""A squared error below this share of tr W M Wᵀ is rounding, and not improved on."""

SINGLE = 1024
"""Columns of a moment from which on its products are in float32: half the time and the memory."""

SINGLE_LOSS = 3e4
"""By how much `RIDGE` and `CONVERGED` are larger there: above the rounding of float32."""

GRID = 5
"""The most ranks at which a curve of errors runs all rounds, besides 1 and 2."""

GRID_WORK = 6e9
"""Multiply-adds of the widest M Bᵀ of a curve that all its ranks on the grid may have together; it has one at least."""


class Fitted(NamedTuple):
    """A pair as two matrices: the folded weight is about decoder @ encoder.

    Attributes:
        decoder: decoder[rows, rank].
        encoder: encoder[rank, columns], orthonormal rows.
        squared_error: mean squared output error, at least 0.
        seen: M Bᵀ of the encoder, seen[taps, n, taps, rank].
    """

    decoder: FloatArray
    encoder: FloatArray
    squared_error: float
    seen: Array


class Fitting:
    """What the pairs of all ranks of one weight, folding and moment have in common.

    Args:
        weight: weight[f, c, *kernel].
        folding: 1, 2 or 3 (0 works, and takes the long way to what has a closed form).
        moment: moment[cκ, cκ] of the input patches, in the column order of folding 0.

    Attributes:
        energy: tr W M Wᵀ, the squared error of rank 0.
        max_rank: the rank that gives the weight back.
        useful: the highest rank, at least 1, at which the pair has no more values than the weight.
    """

    def __init__(self, weight: Array, folding: int, moment: FloatArray) -> None:
        matrix = fold(weight.astype(np.float64), folding)
        self._moment: Array = np.ascontiguousarray(moment_by_tap(moment, weight, folding))
        self._shape = len(weight), len(self._moment), matrix.shape[1]  # f, taps, n
        self._summed: FloatArray = np.einsum("dndm->nm", self._moment)
        self._weight = matrix
        whole = prod(self._shape[1:])
        seen = matrix.reshape(-1, whole) @ self._moment.reshape(whole, whole)
        self._seen = seen.reshape(matrix.shape)
        self._ridge, self._converged = RIDGE * float(np.trace(self._summed)), CONVERGED
        if whole >= SINGLE:
            self._moment = self._moment.astype(np.float32)
            self._ridge, self._converged = SINGLE_LOSS * self._ridge, SINGLE_LOSS * CONVERGED
        self.energy = max(float(np.vdot(self._weight, self._seen)), 0.0)
        self.max_rank = min(matrix.shape)
        self.useful = max(matrix.size // sum(matrix.shape), 1)
        core = np.asarray(np.linalg.qr(matrix, mode="r"))
        self._rows = [_leading(core, core.T), _leading(core, self._summed @ core.T)]

    def first_round(self) -> FloatArray:
        """Squared error[useful + 1] of the pairs of rank 0 … `useful` after the first round; never rises."""
        least: FloatArray = np.minimum(*(self._nested_errors(start) for start in self._starts(self.useful)))
        return least

    def grid(self) -> list[int]:
        """The ranks at which a curve runs all rounds, ascending."""
        work = prod(self._shape[1:]) ** 2 * self.useful
        count = min(max(int(GRID_WORK // work), 1), GRID)
        last = self.useful * count / GRID
        spaced = np.rint(last * (np.arange(1, count + 1) / count) ** 2).astype(int)
        return sorted({1, min(2, self.useful), *(int(rank) for rank in spaced if rank > 0)})

    def pair(self, rank: int, rounds: int = ROUNDS, gain: float = GAIN) -> Fitted:
        """The fitted pair of `rank`, 1 … `max_rank`, after `rounds` or the first that gains less than `gain`."""
        starts = (self._with_decoder(start, self._through(start)) for start in self._starts(rank))
        best = min(starts, key=lambda pair: pair.squared_error)
        for _ in range(rounds - 1):
            if best.squared_error <= self._converged * self.energy:
                break
            following = self._with_decoder(*_orthonormal_seen(*self._better_encoder(best)))
            if following.squared_error >= best.squared_error:
                break
            gained = 1 - following.squared_error / best.squared_error
            best = following
            if gained < gain:
                break
        return best

    def _starts(self, rank: int) -> list[FloatArray]:
        """Encoders[rank, n] to begin with, plain first: the first of equals is taken."""
        return [_orthonormal(rows[:rank]) for rows in self._rows]

    def _with_decoder(self, encoder: FloatArray, seen: Array) -> Fitted:
        """The encoder, orthonormal rows, with the decoder that fits it best.

        With D = D₀ + X, X (G + εI) = W M Bᵀ − D₀ G and so D G = W M Bᵀ − εX, which gives the error without a product.
        """
        f, taps, _ = self._shape
        size = taps * len(encoder)
        gram = self._gram(encoder, seen).reshape(size, size)
        wanted = (self._seen @ encoder.T).reshape(f, size)
        plain = (self._weight @ encoder.T).reshape(f, size)
        through = plain @ gram

        def fitted(decoder: FloatArray, through: FloatArray) -> Fitted:
            error = self.energy - 2 * float(np.vdot(decoder, wanted)) + float(np.vdot(decoder, through))
            return Fitted(decoder.reshape(f * taps, -1), encoder, max(error, 0.0), seen)

        projected = fitted(plain, through)
        if projected.squared_error <= self._converged * self.energy:
            return projected
        factor = cho_factor(_ridged(gram, self._ridge), lower=True, overwrite_a=True, check_finite=False)
        added = cho_solve(factor, (wanted - through).T, check_finite=False).T
        return fitted(plain + added, wanted - self._ridge * added)

    def _better_encoder(self, pair: Fitted) -> tuple[FloatArray, Array]:
        """Conjugate gradients on Σ_de D_dᵀ D_e E' M_ed = Σ_de D_dᵀ W_e M_ed, from the pair's encoder.

        Returns:
            The encoder and its M Bᵀ.
        """
        f, taps, n = self._shape
        rank = len(pair.encoder)
        flat = pair.decoder.reshape(f, taps * rank)
        between = (flat.T @ flat).astype(pair.seen.dtype).reshape(taps, rank, taps * rank)
        outer = cho_factor(_ridged(pair.decoder.T @ pair.decoder, RIDGE * float(np.vdot(flat, flat))), lower=True)

        def normal(seen: Array) -> FloatArray:
            product: Array = (between @ seen.reshape(taps, n, taps * rank).swapaxes(1, 2)).sum(axis=0)
            return product.astype(np.float64, copy=False)

        def precondition(residual: FloatArray) -> FloatArray:
            inward = cho_solve(outer, residual, check_finite=False)
            solved: FloatArray = cho_solve(self._inner, inward.T, check_finite=False).T
            return solved

        encoder, seen = pair.encoder, pair.seen
        residual = pair.decoder.T @ self._seen - normal(seen)
        step, strength = np.zeros_like(encoder), 0.0
        for _ in range(STEPS):
            conditioned = precondition(residual)
            before, strength = strength, float(np.vdot(residual, conditioned))
            step = conditioned + (strength / before * step if before else 0.0)
            through = self._through(step)
            image = normal(through)
            curvature = float(np.vdot(step, image))
            if not (strength > 0 and curvature > 0):
                break
            encoder = encoder + strength / curvature * step
            seen = seen + through * (strength / curvature)
            residual = residual - strength / curvature * image
        return encoder, seen

    @cached_property
    def _inner(self) -> tuple[FloatArray, bool]:
        """The Cholesky factor of the preconditioner's moment."""
        n = len(self._summed)
        return cho_factor(_ridged(self._summed, SMOOTHING * float(np.trace(self._summed)) / n), lower=True)

    def _nested_errors(self, encoder: FloatArray) -> FloatArray:
        """Squared error[rank + 1] of the first 0 … rank rows of `encoder`, each with its best decoder."""
        f, taps, _ = self._shape
        rank = len(encoder)
        if self.energy == 0:
            return np.zeros(rank + 1)
        gram = self._gram(encoder, self._through(encoder)).transpose(1, 0, 3, 2).reshape(rank * taps, rank * taps)
        wanted = (self._seen @ encoder.T).reshape(f, taps, rank).transpose(2, 1, 0).reshape(rank * taps, f)
        lower = cholesky(_ridged(gram, self._ridge), lower=True, overwrite_a=True, check_finite=False)
        half = solve_triangular(lower, wanted, lower=True, check_finite=False)
        explained = (half**2).reshape(rank, -1).sum(axis=1)
        return np.maximum(self.energy - np.append(0.0, np.cumsum(explained)), 0.0)

    def _gram(self, encoder: FloatArray, seen: Array) -> FloatArray:
        """G[taps, rank, taps, rank] = B M Bᵀ, from M Bᵀ."""
        _, taps, n = self._shape
        rank = len(encoder)
        gram = encoder.astype(seen.dtype) @ seen.reshape(taps, n, taps * rank)
        return gram.reshape(taps, rank, taps, rank).astype(np.float64, copy=False)

    def _through(self, encoder: FloatArray) -> Array:
        """M Bᵀ as [taps, n, taps, rank], in the element type of M."""
        _, taps, n = self._shape
        return (self._moment.reshape(-1, n) @ encoder.astype(self._moment.dtype).T).reshape(taps, n, taps, len(encoder))


def fitted_errors(weight: Array, folding: int, moment: FloatArray) -> FloatArray:
    """Squared error[max_rank + 1] of the fitted pairs of rank 0 … max_rank.

    1. On a grid of ranks it is what the pair has: 1, 2 and `GRID` ranks in quadratic steps up to the highest useful,
       or for a large layer fewer and less far (512 × 512 × 3 × 3: one, a fifth of the way).
    2. Elsewhere it is the first round's, lowered by a factor that is interpolated on a log scale, or held behind the
       grid: not above the error of the plain pair, but an estimate. It may rise by as much as that is wrong.
    3. Pairs with more values than the layer have the error of the largest that has not: an upper bound.
    4. The highest rank has none.

    Args:
        weight: weight[f, c, *kernel].
        folding: 1, 2 or 3.
        moment: moment[cκ, cκ] of the input patches.
    """
    fitting = Fitting(weight, folding, moment)
    first = fitting.first_round()
    found = {0: 1.0}
    for rank in fitting.grid():
        gained = fitting.pair(rank).squared_error
        found[rank] = gained / first[rank] if 0 < gained <= first[rank] else 1.0
    factor = np.exp(np.interp(np.arange(len(first)), list(found), np.log(list(found.values()))))
    errors = np.full(fitting.max_rank + 1, first[-1] * factor[-1])
    errors[: len(first)] = first * factor
    errors[-1] = 0.0
    return errors


def moment_by_tap(moment: FloatArray, weight: Array, folding: int) -> FloatArray:
    """moment[c κ, c κ] as [decoder taps, columns, decoder taps, columns] of the folded weight."""
    kernel = weight.shape[2:]
    order = [axis - 1 for axis in axis_order(folding, len(kernel))[1:]]
    taps = prod(kernel[axis] for axis in decoder_axes(folding, len(kernel)))
    apart = moment.reshape(weight.shape[1:] * 2).transpose(order + [len(order) + axis for axis in order])
    return apart.reshape(taps, len(moment) // taps, taps, len(moment) // taps)


def _leading(core: FloatArray, seen: FloatArray) -> FloatArray:
    """Rows[min(F.shape), n] of Xᵀ R, X the eigenvectors of core @ seen, best first.

    With core = R of the folded matrix F = Q R and seen = S Rᵀ, the first j rows span those of the best rank-j
    approximation of F for the norm of S (see `factors`).
    """
    _, vectors = np.linalg.eigh(core @ seen)
    rows: FloatArray = vectors[:, ::-1].T @ core
    return rows


def _orthonormal(rows: FloatArray) -> FloatArray:
    """Orthonormal rows, the first j of which span the first j of `rows`."""
    basis: FloatArray = np.linalg.qr(rows.T)[0].T
    return basis


def _orthonormal_seen(encoder: FloatArray, seen: Array) -> tuple[FloatArray, Array]:
    """An encoder[rank, n] with orthonormal rows, and its M Bᵀ: with Eᵀ = Q R they are Qᵀ and (M Bᵀ) R⁻¹."""
    basis, upper = np.linalg.qr(encoder.T)
    back = solve_triangular(upper, np.eye(len(upper)), check_finite=False)
    return basis.T, seen @ back.astype(seen.dtype)


def _ridged(gram: FloatArray, ridge: float) -> FloatArray:
    """The matrix gram + ridge I."""
    return gram + ridge * np.eye(len(gram))
