"""Singular values of all slices of a folded weight, and their vectors on one side.

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


def shared_vectors(weight: Array, scheme: Scheme) -> FloatArray:
    """Scaled singular vectors[groups, n, max_rank] on the side that all slices share, descending.

    For sliced inputs these are the columns of U_i diag(σ_i), n being the rows of the folded
    matrix; for sliced outputs those of V_i diag(σ_i), n being its columns. They come from the
    eigenvectors of the smaller Gram matrix: of W_i W_iᵀ they are U_i, and of W_iᵀ W_i they are
    V_i, with U_i diag(σ_i) = W_i V_i.

    Raises:
        ValueError: the scheme does not fit the weight.
    """
    matrix = fold(weight.astype(np.float64, copy=False), scheme.folding)
    parts = slices(matrix, scheme.side, scheme.groups)
    shared = parts if scheme.side == "input" else parts.swapaxes(1, 2)
    squares, vectors = np.linalg.eigh(_small_gram(shared))
    vectors = vectors[:, :, ::-1]
    scaled: FloatArray
    if shared.shape[1] <= shared.shape[2]:
        scaled = vectors * np.sqrt(np.maximum(squares[:, None, ::-1], 0))
    else:
        scaled = shared @ vectors
    return scaled


def _small_gram(parts: FloatArray) -> FloatArray:
    """Gram[..., n, n] of parts[..., rows, columns] on the smaller side, n = min(rows, columns)."""
    transposed = parts.swapaxes(-1, -2)
    gram: FloatArray = parts @ transposed if parts.shape[-2] <= parts.shape[-1] else transposed @ parts
    return gram
