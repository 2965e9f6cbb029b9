"""Singular values of all slices of a folded weight, without singular vectors.

The squares are the eigenvalues of the Gram matrix on the smaller side of a slice, n × n in
float64: an n³ problem with n = min(rows, columns), batched over the slices. The squaring
costs accuracy only far down: a singular value below about 1e-8 of the largest of its slice
is not resolved, and a negative eigenvalue is rounding and means 0. Weights are float32.
"""

from __future__ import annotations

import numpy as np

from lissom.lowrank.foldings import Array, Scheme, fold, slices
from lissom.options import FloatArray


def spectrum(weight: Array, scheme: Scheme) -> FloatArray:
    """Singular values[groups, max_rank] of the slices of weight[f, c, *kernel], descending.

    Raises:
        ValueError: the scheme does not fit the weight.
    """
    matrix = fold(weight.astype(np.float64, copy=False), scheme.folding)
    squares = np.linalg.eigvalsh(_small_gram(slices(matrix, scheme.side, scheme.groups)))
    sigma: FloatArray = np.sqrt(np.maximum(squares[:, ::-1], 0))
    return sigma


def _small_gram(parts: FloatArray) -> FloatArray:
    """Gram[..., n, n] of parts[..., rows, columns] on the smaller side, n = min(rows, columns)."""
    transposed = parts.swapaxes(-1, -2)
    gram: FloatArray = parts @ transposed if parts.shape[-2] <= parts.shape[-1] else transposed @ parts
    return gram
