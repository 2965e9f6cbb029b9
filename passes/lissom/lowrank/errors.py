"""Error curves: how wrong a pair is, for every rank at once.

Let E = W − Ŵ be the residual of the folded weight, its slices E_i, and σ_{i,p} the p-th
singular value of slice i, so that rank j drops σ_{i,j+1}, σ_{i,j+2}, … A curve has an entry
for each j = 0 … max_rank. All are relative: divided by the norm of W itself, which is the
first entry of the curve of a single slice. Metrics:

`code`        max_i σ_{i,j+1} / ‖W‖₂, what the ALDS authors released. It is max_i ‖E_i‖₂, and
              a block is never larger than the whole: a LOWER bound of `spectral`.
`theorem`     √k times that, an upper bound on both sides. Input side: the blocks stand side by
              side, E Eᵀ = Σ E_i E_iᵀ, so ‖E‖₂² ≤ Σ ‖E_i‖₂² ≤ k max ‖E_i‖₂². Output side: they
              stand on one another, Eᵀ E = Σ E_iᵀ E_i, and the same line follows. Both are
              attained when all blocks share their first singular vector on the common side.
`spectral`    ‖E‖₂ / ‖W‖₂. Input side: E Eᵀ = Σ_i U_i diag(σ²_{i,>j}) U_iᵀ, output side the
              same with V. Raising j subtracts positive semidefinite terms, so the curve never
              rises. For k > 1 it is evaluated on a grid of ranks (0, 1, then quadratically
              spaced); between grid points it takes the least of two true upper bounds: the
              value at the next smaller grid rank, and √(Σ_i σ²_{i,j+1}) from the line above.
`frobenius`   ‖E‖_F / ‖W‖_F = √(Σ_i Σ_{p>j} σ²_{i,p}) / ‖W‖_F. Exact.
`whitened`    √(tr E Σ Eᵀ / tr W Σ Wᵀ) with E unfolded to [f, cκ] and Σ the second moment of the
              input patches: the relative error of the layer's output. Folding 0 has whitened
              factors; one group of the others has fitted ones, and the curve of `alternating`:
              exact on a grid of ranks, interpolated between them. More groups of the others have
              plain factors. Exact for every rank, but for fitted factors, before the next step:
              with E = Σ_{i,p>j} s_ip u_ip v_ipᵀ the error is the sum over the tail of

                  P[p, q] = Σ_{i,i'} Σ_{d,d'} s_ip s_i'q (u_ip[d]ᵀ u_i'q[d']) (v_ipᵀ Σ_dd' v_i'q),

              d running over the taps of the decoder, Σ_dd' the block of Σ for a tap pair.
              Slices on the output side have disjoint rows and do not interact. Slices on the
              input side do, and neither they nor plain factors need give a falling curve: a
              rank whose successor does worse is given the successor's error (an upper bound).
              With Σ about the mean of the patches it is the error that the bias cannot take up.

Norms of different foldings are norms of different matrices, except `frobenius` and
`whitened`, which do not depend on the folding. Metrics that are no norms but rank rules of
other methods are in `energies`.
"""

from __future__ import annotations

from itertools import product
from math import sqrt
from typing import Literal, get_args

import numpy as np
from scipy.linalg import eigvalsh

from lissom.lowrank.alternating import fitted_errors, moment_by_tap
from lissom.lowrank.energies import (
    MOMENT_METRICS,
    Rule,
    energy_curve,
    nuclear_curve,
    rank_curve,
    scale_of,
    sensitivity_curve,
    tails,
)
from lissom.lowrank.factors import check_moment, is_fitted, terms
from lissom.lowrank.foldings import Array, Scheme, slices
from lissom.lowrank.spectra import shared_vectors, spectrum
from lissom.options import FloatArray, IntArray

Norm = Literal["code", "theorem", "spectral", "frobenius", "whitened"]
NORMS: tuple[Norm, ...] = get_args(Norm)

Metric = Norm | Rule

GRID = 48
"""The most ranks at which `spectral` is evaluated, per folding and number of groups."""


def error_curve(weight: Array, scheme: Scheme, metric: Metric, moment: FloatArray | None = None) -> FloatArray:
    """Relative error[max_rank + 1] of the pair of rank 0 … max_rank; never rising, 0 at the end.

    Args:
        weight: weight[f, c, *kernel].
        scheme: folding, side and groups.
        metric: see the module.
        moment: moment[cκ, cκ] of the input patches; for `whitened` only.

    Raises:
        ValueError: the scheme does not fit the weight, or `whitened` has no moment.
    """
    whole = residual_curve(weight, Scheme(scheme.folding), metric, moment)
    curve = whole if scheme.groups == 1 else residual_curve(weight, scheme, metric, moment)
    return relative(curve, scale_of(metric, whole[0]))


def relative(curve: FloatArray, scale: float) -> FloatArray:
    """The curve divided by the norm of the whole weight, each rank with the worst that follows it.

    A weight of norm 0 has no error.
    """
    falling: FloatArray = np.maximum.accumulate(curve[::-1])[::-1]
    return falling / scale if scale > 0 else np.zeros_like(curve)


def error_of(weight: Array, approximation: Array, moment: FloatArray | None = None) -> float:
    """‖E‖_F / ‖W‖_F of another weight, or √(tr E Σ Eᵀ / tr W Σ Wᵀ); 0 where the layer gives nothing.

    Args:
        weight: weight[f, c, *kernel].
        approximation: the weight in its place.
        moment: moment[cκ, cκ] of the input patches, or None.
    """
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    left = flat - approximation.reshape(flat.shape)
    lost, whole = (float((rows * (rows if moment is None else rows @ moment)).sum()) for rows in (left, flat))
    return sqrt(max(lost, 0.0) / whole) if whole > 0 else 0.0


def moment_for(metric: str, moment: FloatArray | None) -> FloatArray | None:
    """The second moment of a layer's input where `metric` measures with it, else None.

    Raises:
        ValueError: the metric needs a moment and there is none.
    """
    if metric not in MOMENT_METRICS:
        return None
    if moment is None:
        raise ValueError(f"the metric {metric!r} needs the second moment of the layer's input")
    return moment


def residual_curve(weight: Array, scheme: Scheme, metric: Metric, moment: FloatArray | None = None) -> FloatArray:
    """Norms[max_rank + 1] of the residual in `metric`, not yet divided by that of the weight.

    Raises:
        ValueError: as in `error_curve`.
    """
    moment = moment_for(metric, moment)
    if moment is not None:
        norms = _whitened(weight, scheme, moment)
        return norms if metric == "whitened" else sensitivity_curve(norms)
    if metric == "spectral" and scheme.groups > 1:
        return _spectral(shared_vectors(weight, scheme))
    sigma = spectrum(weight, scheme)
    if metric == "frobenius":
        return _root(energy_curve(sigma))
    if metric == "energy":
        return energy_curve(sigma)
    if metric == "nuclear":
        return nuclear_curve(sigma)
    if metric == "rank":
        return rank_curve(sigma.shape[1])
    worst: FloatArray = np.append(sigma.max(axis=0), 0.0)
    if metric == "theorem":
        worst *= sqrt(scheme.groups)
    return worst


def grid(maximum: int) -> IntArray:
    """At most `GRID` ranks from 0 to `maximum`, with 0, 1 and `maximum`, denser at the low end."""
    if maximum < GRID:
        return np.arange(maximum + 1)
    spaced = np.rint(maximum * np.linspace(0, 1, GRID - 1) ** 2).astype(np.int64)
    return np.union1d(spaced, [1])


def _root(squares: FloatArray) -> FloatArray:
    roots: FloatArray = np.sqrt(squares)
    return roots


def _spectral(shared: FloatArray) -> FloatArray:
    """Upper bounds of ‖E‖₂, exact on the grid, from shared[k, n, max_rank] of several slices.

    With B[n, max_rank·k] those scaled singular vectors, rank by rank, E Eᵀ (or Eᵀ E) is
    B_j B_jᵀ, B_j being the columns of B from j·k on. Its largest eigenvalue is that of the
    smaller of B_j B_jᵀ and B_jᵀ B_j, the latter a block of BᵀB.
    """
    k, extent, rank = shared.shape
    columns = shared.transpose(1, 2, 0).reshape(extent, rank * k)
    points = grid(rank)
    squares = np.zeros(len(points))
    if columns.shape[1] <= columns.shape[0]:
        gram = columns.T @ columns
        for n, point in enumerate(points[:-1]):
            squares[n] = _largest_eigenvalue(gram[point * k :, point * k :])
    else:
        gram = np.zeros((len(columns), len(columns)))
        for n in range(len(points) - 2, -1, -1):
            dropped = columns[:, points[n] * k : points[n + 1] * k]
            gram += dropped @ dropped.T
            squares[n] = _largest_eigenvalue(gram)
    ranks = np.arange(rank + 1)
    staircase = squares[np.searchsorted(points, ranks, side="right") - 1]
    blocks = np.append((shared**2).sum(axis=(0, 1)), 0.0)
    return _root(np.minimum(staircase, blocks))


def _largest_eigenvalue(gram: FloatArray) -> float:
    last = len(gram) - 1
    return max(float(eigvalsh(gram, subset_by_index=[last, last])[0]), 0.0)


def _whitened(weight: Array, scheme: Scheme, moment: FloatArray) -> FloatArray:
    """√(tr E Σ Eᵀ) for every rank; it may rise."""
    check_moment(moment, weight[0].size)
    if scheme.folding == 0 and (scheme.side == "output" or scheme.groups == 1):
        return _whitened_apart(weight, scheme.groups, moment)
    if is_fitted(scheme):
        return _root(fitted_errors(weight, scheme.folding, moment))
    left, scale, right = terms(weight, scheme, moment if scheme.folding == 0 else None)
    by_tap = moment_by_tap(moment, weight, scheme.folding)  # [d, column, d', column']
    taps = len(by_tap)
    k, rank, width = right.shape
    u = left.reshape(k, -1, taps, rank)
    v = right * scale[:, :, None]
    interaction = np.zeros((rank, rank))  # Σ_{i,i'} P, for every pair of ranks
    for i in range(k):
        on_input = scheme.side == "input"
        own = slice(i * width, (i + 1) * width) if on_input else slice(None)
        others = slice(None) if on_input else slice(i, i + 1)
        for d, e in product(range(taps), repeat=2):
            rows = u[i, :, d].T @ u[others, :, e]
            seen = (v[i] @ by_tap[d, own, e]).reshape(rank, -1, width).swapaxes(0, 1)
            interaction += (rows * (seen @ v[others].swapaxes(1, 2))).sum(axis=0)
    energies = np.diag(interaction) + 2 * np.triu(interaction, 1).sum(axis=1)
    return _root(tails(energies))


def _whitened_apart(weight: Array, groups: int, moment: FloatArray) -> FloatArray:
    """√(tr E Σ Eᵀ) where slices of disjoint rows do not interact: tails of the spectra of W_i Σ W_iᵀ.

    A slice of more rows than columns has those of R_i Σ R_iᵀ, W_i = Q_i R_i.
    """
    matrix = weight.reshape(len(weight), -1).astype(np.float64, copy=False)
    parts = slices(matrix, "output", groups)
    if parts.shape[1] > parts.shape[2]:
        parts = np.asarray(np.linalg.qr(parts, mode="r"))
    energies = np.linalg.eigvalsh(parts @ moment @ parts.swapaxes(1, 2))
    return _root(tails(np.maximum(energies[:, ::-1], 0).sum(axis=0)))
