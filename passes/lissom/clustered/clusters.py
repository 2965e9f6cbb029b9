"""Clusters of equal size: items that lie near a common subspace are put together.

An item i is a list of matrices X_i[b, ambient, vectors], a channel as each block b sees it. A cluster S of items has
a basis U_S[b, ambient, dim] per block, the leading left singular vectors of its items side by side, and what it
*captures* of an item is

    score[i, S] = Σ_b ‖U_S[b]ᵀ X_i[b]‖²,      Σ_b ‖X_i[b]‖² − score[i, S] being what is lost of it.

All clusters have the same number of items, because a grouped convolution has equal groups.

1. With the bases fixed the best clusters of equal size are an assignment problem, solved exactly.
2. With the clusters fixed the best bases are those above. So no round of both captures less than the round before it;
   it ends where one gains less than `GAIN`, or after `ROUNDS`.
3. Where to begin is `seeded`: an item as far as can be from all before it begins each cluster. `embedded` gives items
   of several vectors one point each, their rows in the leading eigenvectors of the affinities ‖X_iᵀ X_k‖² (spectral
   clustering).
4. Nothing is drawn at random. The first of several equal candidates is taken.

Source: Bradley and Mangasarian, "k-Plane Clustering", J. Global Optimization 16, 2000, for rounds of bases and
clusters; equal sizes by assignment, and the blocks, are ours. Denton et al., NeurIPS 2014, section 3.3, use a spectral
subspace clustering for the same purpose.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import eigh
from scipy.optimize import linear_sum_assignment

from lissom.options import FloatArray, IntArray

ROUNDS = 20
"""Most rounds of bases and clusters."""

GAIN = 1e-6
"""A round that captures less than this share more is the last."""

ROUNDING = 1e-12
"""Squares of singular values, as a share of the largest, that mean nothing."""


def balanced(scores: FloatArray) -> IntArray:
    """The labels[n] of highest total score[n, clusters] with which all clusters are of one size.

    Raises:
        ValueError: the number of clusters does not divide the items.
    """
    items, clusters = scores.shape
    if items % clusters:
        raise ValueError(f"{clusters} clusters do not divide {items} items")
    size = items // clusters
    _, seats = linear_sum_assignment(np.repeat(scores, size, axis=1), maximize=True)
    labels: IntArray = np.asarray(seats // size, np.int64)
    return labels


def order_of(labels: IntArray) -> IntArray:
    """The items[n] cluster by cluster: clusters by their first item, items of one by their number."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order: IntArray = np.argsort(first[inverse], kind="stable")
    return order


def refined(items: FloatArray, labels: IntArray, clusters: int, dim: int) -> tuple[IntArray, float]:
    """Better labels[n] than the given ones, if there are any, and the squares that they capture.

    Args:
        items: items[n, blocks, ambient, vectors].
        labels: labels[n] to begin with, of clusters of one size.
        clusters: how many.
        dim: of the subspaces.
    """
    best, kept = -1.0, labels
    for _ in range(ROUNDS):
        scores = captured(items, np.stack([bases(items[labels == n], dim) for n in range(clusters)]))
        total = float(scores[np.arange(len(labels)), labels].sum())
        if total <= best * (1 + GAIN):
            break
        best, kept = total, labels
        labels = balanced(scores)
    return kept, max(best, 0.0)


def bases(items: FloatArray, dim: int) -> FloatArray:
    """The basis[blocks, ambient, dim] that captures most of items[n, blocks, ambient, vectors]; zeros where it is full.

    Of the two Gram matrices of a block the smaller is taken apart.
    """
    count, blocks, ambient, vectors = items.shape
    wide = items.transpose(1, 2, 0, 3).reshape(blocks, ambient, count * vectors)
    found = np.zeros((blocks, ambient, dim))
    for block, matrix in enumerate(wide):
        taken = min(dim, *matrix.shape)
        if ambient <= matrix.shape[1]:
            found[block, :, :taken] = _leading(matrix @ matrix.T, taken)[1]
        else:
            squares, right = _leading(matrix.T @ matrix, taken)
            keep = squares > ROUNDING * max(squares[0], 0.0)
            found[block, :, :taken][:, keep] = matrix @ right[:, keep] / np.sqrt(squares[keep])
    return found


def captured(items: FloatArray, subspaces: FloatArray) -> FloatArray:
    """The score[n, clusters] of items[n, blocks, ambient, vectors] for subspaces[clusters, blocks, ambient, dim]."""
    count, blocks, ambient, vectors = items.shape
    scores = np.zeros((count, len(subspaces)))
    for block in range(blocks):
        flat = items[:, block].transpose(1, 0, 2).reshape(ambient, count * vectors)
        for cluster, basis in enumerate(subspaces[:, block]):
            scores[:, cluster] += ((basis.T @ flat) ** 2).reshape(-1, count, vectors).sum(axis=(0, 2))
    return scores


def seeded(points: FloatArray, clusters: int) -> IntArray:
    """Labels[n] to begin with for points[n, dim] whose sign does not matter: each seed is far from those before it."""
    lengths = np.linalg.norm(points, axis=1)
    unit = points / np.where(lengths > 0, lengths, 1)[:, None]
    seeds = [int(np.argmax(lengths))]
    near = (unit @ unit[seeds[0]]) ** 2
    near[seeds[0]] = np.inf
    for _ in range(clusters - 1):
        seeds.append(int(np.argmin(near)))
        near = np.maximum(near, (unit @ unit[seeds[-1]]) ** 2)
        near[seeds[-1]] = np.inf
    return balanced((unit @ unit[seeds].T) ** 2)


def embedded(items: FloatArray, clusters: int) -> FloatArray:
    """One point[n, clusters] an item of items[n, blocks, ambient, vectors], near for those that span alike."""
    count, blocks, ambient, vectors = items.shape
    affinity = np.zeros((count, count))
    for block in range(blocks):
        flat = items[:, block].transpose(0, 2, 1).reshape(count * vectors, ambient)
        affinity += ((flat @ flat.T) ** 2).reshape(count, vectors, count, vectors).sum(axis=(1, 3))
    own = np.sqrt(np.maximum(np.diag(affinity), np.finfo(np.float64).tiny))
    affinity /= np.outer(own, own)
    degree = np.sqrt(np.maximum(affinity.sum(axis=1), np.finfo(np.float64).tiny))
    return _leading(affinity / np.outer(degree, degree), clusters)[1]


def _leading(gram: FloatArray, count: int) -> tuple[FloatArray, FloatArray]:
    """The largest eigenvalues[count], descending, and their vectors[n, count]."""
    last = len(gram) - 1
    values, vectors = eigh(gram, subset_by_index=[last - count + 1, last])
    return values[::-1], vectors[:, ::-1]
