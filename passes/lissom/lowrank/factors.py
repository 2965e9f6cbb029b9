"""The numbers in a pair: every slice as a sum of rank-one terms, best first.

`terms` writes each slice of the folded weight as W_i = Σ_p s_p u_p v_pᵀ, in the order in
which a truncation should keep them. Keeping rank j of every slice gives the pair's weights,
with √s on both factors.

Plain: the singular value decomposition, optimal for ‖W_i − Ŵ_i‖ in every unitarily
invariant norm.

Whitened (folding 0): optimal for E‖(W_i − Ŵ_i) x‖², x the layer's input patch with second
moment Σ = E[x xᵀ], that is for ‖(W_i − Ŵ_i) Σ^{1/2}‖_F. Let W_i Σ^{1/2} = U S Xᵀ. Its best
rank-j approximation is U_j U_jᵀ W_i Σ^{1/2}, so Ŵ_i = U_j U_jᵀ W_i is optimal whether or not
Σ can be inverted: no inverse, no cut-off. (The pseudo-inverse solution agrees with it where
Σ > 0 and throws away what W_i does elsewhere; this one keeps its projection.) U are the
eigenvectors of W_i Σ W_iᵀ inside the range of W_i: with W_i = Q R, U = Q X with X from
R Σ Rᵀ. Hence all terms together always give W_i back. Here v_pᵀ is the unit row
u_pᵀ W_i / s_p; the v_p are not orthogonal. A slice on the input side sees its own diagonal
block of Σ, a slice on the output side all of it.

Fitted (foldings 1, 2 and 3, one group): minimises the same error, where there is no closed form
and the terms depend on the rank; see `alternating`. More groups of these foldings stay plain.

With Σ about the mean of x, what is minimised is the error that a bias of the layer cannot take up.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lissom.lowrank.alternating import Fitting
from lissom.lowrank.foldings import Array, Scheme, Side, decoder_axes, fold, slices
from lissom.options import FloatArray

Float32Array = npt.NDArray[np.float32]


class Terms(NamedTuple):
    """slice i = Σ_p left[i, :, p] scale[i, p] right[i, p, :], with unit columns and rows.

    Attributes:
        left: left[groups, rows, terms], orthonormal columns.
        scale: scale[groups, terms], at least 0.
        right: right[groups, terms, columns].
    """

    left: FloatArray
    scale: FloatArray
    right: FloatArray


def terms(weight: Array, scheme: Scheme, moment: FloatArray | None = None) -> Terms:
    """All terms of all slices of weight[f, c, *kernel], in float64, best first.

    Args:
        weight: the layer's weight.
        scheme: folding, side and groups.
        moment: moment[cκ, cκ], second moment of the input patches in the column order of
            folding 0; None for the plain decomposition.

    Raises:
        ValueError: a moment was given with a folding other than 0, or of the wrong shape.
    """
    matrix = fold(weight.astype(np.float64), scheme.folding)
    parts = slices(matrix, scheme.side, scheme.groups)
    if moment is None:
        return Terms(*np.linalg.svd(parts, full_matrices=False))
    if scheme.folding != 0:
        raise ValueError(f"whitened terms need folding 0, got folding {scheme.folding}")
    check_moment(moment, matrix.shape[1])
    basis, core = np.linalg.qr(parts)
    seen = np.stack([_own_moment(moment, scheme, i) for i in range(scheme.groups if scheme.side == "input" else 1)])
    _, rotation = np.linalg.eigh(core @ seen @ core.swapaxes(1, 2))
    rotation = rotation[:, :, ::-1]
    rows = rotation.swapaxes(1, 2) @ core
    scale = np.linalg.norm(rows, axis=2)
    return Terms(basis @ rotation, scale, rows / np.where(scale > 0, scale, 1)[:, :, None])


def check_moment(moment: FloatArray, columns: int) -> None:
    """Refuse a moment that is not [columns, columns].

    Raises:
        ValueError: it is not.
    """
    if moment.shape != (columns, columns):
        raise ValueError(f"expected a moment of shape {(columns, columns)}, got {moment.shape}")


def factors(
    weight: Array, scheme: Scheme, rank: int, moment: FloatArray | None = None
) -> tuple[Float32Array, Float32Array]:
    """Encoder and decoder weights of the pair of `rank`, in ONNX layout.

    Args:
        weight: weight[f, c, *kernel]; a linear layer has no kernel axes.
        scheme: folding, side and groups.
        rank: terms kept of every slice, 1 .. `max_rank`.
        moment: moment[cκ, cκ], second moment of the input patches in the column order of
            folding 0, under which the pair is whitened or fitted; None for a plain one.

    Returns:
        encoder[k·rank, c or c/k, *kernel] and decoder[f, rank·k or rank, *kernel], in the
        layout [out_channels, in_channels / group, *kernel]: "input" groups the encoder,
        "output" the decoder.

    Raises:
        ValueError: the rank is out of range, or the moment is of the wrong shape.
    """
    if moment is not None:
        check_moment(moment, weight[0].size)
    if moment is not None and is_fitted(scheme):
        left, scale, right = _fitted_terms(weight, scheme, rank, moment)
    else:
        left, scale, right = terms(weight, scheme, moment if scheme.folding == 0 else None)
        _require_rank(rank, scale.shape[1])
    root = np.sqrt(scale[:, :rank])
    f, c, *kernel = weight.shape
    owned = decoder_axes(scheme.folding, len(kernel))
    encoder_kernel = [1 if axis in owned else extent for axis, extent in enumerate(kernel)]
    decoder_kernel = [extent if axis in owned else 1 for axis, extent in enumerate(kernel)]
    k, on_input = scheme.groups, scheme.side == "input"

    encoder = right[:, :rank] * root[:, :, None]
    encoder = encoder.reshape(k * rank, c // k if on_input else c, *encoder_kernel)
    decoder = left[:, :, :rank] * root[:, None, :]
    if on_input:  # [k, f κ, rank] -> [f κ, k rank]: every output channel reads all slices
        decoder = decoder.swapaxes(0, 1).reshape(f, -1, k * rank)
    decoder = decoder.reshape(f, -1, decoder.shape[-1]).swapaxes(1, 2).reshape(f, -1, *decoder_kernel)
    return encoder.astype(np.float32), decoder.astype(np.float32)


def is_fitted(scheme: Scheme) -> bool:
    """Whether a moment makes the pairs of `scheme` fitted ones."""
    return scheme.folding != 0 and scheme.groups == 1


def recompose(encoder: Array, decoder: Array, side: Side, groups: int) -> Float32Array:
    """The dense weight[f, c, *kernel] of a pair in ONNX layout.

    The folding need not be known: on every axis one of the two kernels has extent 1, so
    the composed kernel is their outer product.

    Raises:
        ValueError: the channels between the factors do not agree.
    """
    between = decoder.shape[1] * (groups if side == "output" else 1)
    if encoder.shape[0] != between:
        raise ValueError(f"the encoder has {encoder.shape[0]} output channels, the decoder takes {between}")
    rank = between // groups
    inner = encoder.astype(np.float64).reshape(groups, rank, encoder.shape[1], -1)
    outer = decoder.astype(np.float64).reshape(*decoder.shape[:2], -1)
    dense: FloatArray
    if side == "input":
        outer = outer.reshape(decoder.shape[0], groups, rank, -1)
        dense = np.einsum("fgrd,grce->fgcde", outer, inner, optimize=True)
    else:
        outer = outer.reshape(groups, -1, rank, outer.shape[-1])
        dense = np.einsum("gfrd,grce->gfcde", outer, inner, optimize=True)
    channels = encoder.shape[1] * (groups if side == "input" else 1)
    axes = encoder.ndim - 2
    apart = dense.reshape(decoder.shape[0], channels, *decoder.shape[2:], *encoder.shape[2:])
    paired = (0, 1, *(2 + axis + half for axis in range(axes) for half in (0, axes)))
    kernel = np.multiply(decoder.shape[2:], encoder.shape[2:]).astype(int)
    return apart.transpose(paired).reshape(decoder.shape[0], channels, *kernel).astype(np.float32)


def _fitted_terms(weight: Array, scheme: Scheme, rank: int, moment: FloatArray) -> Terms:
    """The pair of `rank` that `alternating` fits, as terms of its one slice."""
    fitting = Fitting(weight, scheme.folding, moment)
    _require_rank(rank, fitting.max_rank)
    pair = fitting.pair(rank)
    basis, core = np.linalg.qr(pair.decoder)
    rotation, scale, right = np.linalg.svd(core @ pair.encoder, full_matrices=False)
    return Terms((basis @ rotation)[None], scale[None], right[None])


def _require_rank(rank: int, highest: int) -> None:
    if not 1 <= rank <= highest:
        raise ValueError(f"expected a rank in 1 .. {highest}, got {rank}")


def _own_moment(moment: FloatArray, scheme: Scheme, index: int) -> FloatArray:
    """The part of the moment that slice `index` sees."""
    if scheme.side == "output":
        return moment
    width = len(moment) // scheme.groups
    own = slice(index * width, (index + 1) * width)
    return moment[own, own]
