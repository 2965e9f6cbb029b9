"""How many singular values of a matrix are not noise: empirical variational Bayes, solved analytically.

The model is Y[L, M] = A Bᵀ + noise of variance σ², L ≤ M, with Gaussian priors on A and B whose variances are estimated
too. With α = L / M, s_h the singular values of Y and x_h = s_h² / (M σ²), the best estimate of A Bᵀ keeps
the h-th component exactly if

    x_h > x̄ = (1 + τ̄)(1 + α / τ̄),      τ̄ = 2.5129 √α,

and the best σ² is that of least

    Σ_h ψ(x_h),   ψ(x) = x − log x + [x > x̄] (log(τ + 1) + α log(τ / α + 1) − τ),
    τ(x) = ½ (x − (1 + α) + √((x − (1 + α))² − 4 α)),

between these bounds, m being ⌈L / (1 + α)⌉ − 1, the most components that the estimate can have:

    max(s²_{m+1} / (M x̄), mean of s²_{m+1} … s²_L / M)  ≤  σ²  ≤  Σ_h s_h² / (L M).

τ̄ = 2.5129 √α is the authors' fit to the zero of a function without closed form. The sum is looked at on a grid of σ² on
a log scale, because it may have several minima, and then minimised near the best point. Squares of
singular values below `ROUNDING` of the largest are rounding: they count as that much noise.

Source: Nakajima, Sugiyama, Babacan and Tomioka, "Global Analytic Solution of Fully-observed Variational Bayesian
Matrix Factorization", JMLR 14, 2013, theorems 2 and 9. As a rule for the ranks of a kernel: Kim et al., "Compression of
Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications", ICLR 2016, section 3.2.
"""

from __future__ import annotations

from math import ceil

import numpy as np
from scipy.optimize import minimize_scalar

from lissom.options import FloatArray

ROUNDING = 1e-13
"""Squares of singular values of a float32 weight, as a fraction of the largest, that mean nothing."""

GRID = 200
"""Noise variances at which the sum is looked at."""


def significant(squares: FloatArray, columns: int) -> int:
    """The number of components of a matrix[L, columns] that are not noise, 0 to L.

    Args:
        squares: squares[L] of all its singular values, descending, L being its shorter side.
        columns: its longer side M.
    """
    rows = len(squares)
    if squares[0] <= 0:
        return 0
    alpha = rows / columns
    fit = 2.5129 * np.sqrt(alpha)
    edge = (1 + fit) * (1 + alpha / fit)
    energies = np.maximum(squares, ROUNDING * squares[0]) / columns
    most = ceil(rows / (1 + alpha)) - 1
    high = float(energies.mean())
    low = min(max(float(energies[most]) / edge, float(energies[most:].mean())), high)

    def sums(log_noise: FloatArray) -> FloatArray:
        x = energies / np.exp(log_noise)[:, None]
        above = np.maximum(x, edge) - (1 + alpha)
        tau = (above + np.sqrt(np.maximum(above**2 - 4 * alpha, 0))) / 2
        gain = np.log(tau + 1) + alpha * np.log(tau / alpha + 1) - tau
        total: FloatArray = (x - np.log(x) + np.where(x > edge, gain, 0)).sum(axis=1)
        return total

    grid = np.linspace(np.log(low), np.log(high), GRID)
    best = int(sums(grid).argmin())
    near = grid[[max(best - 1, 0), min(best + 1, GRID - 1)]]
    log_noise = float(grid[best])
    if near[1] > near[0]:
        found = minimize_scalar(lambda at: float(sums(np.array([at]))[0]), bounds=tuple(near), method="bounded")
        log_noise = float(found.x)
    return int((energies > np.exp(log_noise) * edge).sum())
