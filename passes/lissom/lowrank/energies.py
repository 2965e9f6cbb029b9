"""Rank rules as error curves: what other methods threshold or add up, as allocators take it.

Most published rules give layer ℓ, through one threshold τ for all layers,

    j_ℓ = #{r ≥ 0 : score_ℓ[r] > τ}     with a score that never rises and ends at 0.

1. That is the least j with score_ℓ[j] ≤ τ. With score_ℓ[j] as the error at rank j, and a cost that rises with the rank,
   it is the cheapest option of a ladder whose error is at most τ: what `minimax` takes at the level τ. So the
   rule with the τ that meets a budget is the objective "minimax" over that metric. `minimax` finds the least such
   τ among all scores, where bisection only comes near it. It keeps at least rank 1, and a layer whose pair
   is not smaller stays as it is.
2. Any strictly rising function of the score gives the same j at another τ. The score of SVD-Energy is
   Σ_{r>j} σ_r² / Σ σ_r², the square of the metric `frobenius`: minimax over `frobenius` is SVD-Energy.

Scores beside the norms of `errors`, σ_{i,p} being the p-th singular value of slice i and j the rank:

`nuclear`       Σ_i Σ_{p>j} σ_{i,p} / ‖W‖_*. The same rule with sums in the place of sums of squares.
`rank`          1 − j / max_rank. Then j = ⌈(1 − τ) max_rank⌉: the same relative rank in all layers.
`sensitivity`   s_{j+1} / (s_1 + … + s_{j+1}) / (MACs of one rank), s the eigenvalues of the covariance of the layer's
                output: by which share the kept variance falls with the last rank kept, per multiply-accumulate saved.
                Zhang et al. maximise Π_ℓ Σ_{r≤j} s_{ℓ,r} within a number of MACs and take rank by rank away
                where that share is least. s falls and the sum rises with r, so what is taken from one layer comes
                in the order of its score, and what is gone when the greedy choice ends are the scores ≤ τ:
                the same plan.
                It is taken from the curve of `whitened`, whose square is E[j] = Σ_{r>j} s_r, as (E[j] − E[j+1]) /
                (E[0] − E[j+1]); for one group of folding 0 that is the line above, for other pairs its generalisation.
`energy`        Σ_i Σ_{p>j} σ_{i,p}² = ‖W − Ŵ‖_F², absolute. Squared distances of layers add up to that of all weights,
                so this metric goes with the objective "total". L-Rank takes in every layer the j of least
                λ MACs_ℓ(j) + energy_ℓ[j]. No other choice of ranks that costs no more than this one has less energy
                (else its λ MACs + energy were less in sum), so what L-Rank finds at any λ is a plan of "total" at
                the MACs that it costs; budgets between those of two λ are reached by "total" only.

Source: Liebenwein et al., "Compressing Neural Networks: Towards Determining the Optimal Layer-wise Decomposition",
NeurIPS 2021, section 3 and the baselines of the program that came with it; Zhang et al., "Accelerating Very Deep
Convolutional Networks for Classification and Detection", 2015, section 3.2 (`sensitivity`); Idelbayev and
Carreira-Perpiñán, "Low-rank Compression of Neural Nets: Learning the Rank of Each Layer", CVPR 2020 (`energy`).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from lissom.options import FloatArray

Rule = Literal["nuclear", "rank", "sensitivity", "energy"]
RULES: tuple[Rule, ...] = get_args(Rule)

MOMENT_METRICS = frozenset({"whitened", "sensitivity"})
"""The metrics that need the moment of a layer's input."""


def nuclear_curve(sigma: FloatArray) -> FloatArray:
    """The discarded sum[max_rank + 1] of singular values sigma[groups, max_rank]."""
    return tails(sigma.sum(axis=0))


def energy_curve(sigma: FloatArray) -> FloatArray:
    """The discarded sum[max_rank + 1] of squares of singular values sigma[groups, max_rank]."""
    return tails((sigma**2).sum(axis=0))


def rank_curve(max_rank: int) -> FloatArray:
    """The discarded share[max_rank + 1] of the ranks."""
    return 1 - np.arange(max_rank + 1) / max_rank


def sensitivity_curve(norms: FloatArray) -> FloatArray:
    """The relative gain[max_rank + 1] of kept variance by one rank more, from the falling norms of `whitened`.

    0 at the highest rank, and where nothing is kept by one rank more either.
    """
    left: FloatArray = np.maximum.accumulate(norms[::-1])[::-1] ** 2
    gained, kept = left[:-1] - left[1:], left[0] - left[1:]
    return np.append(np.divide(gained, kept, out=np.zeros_like(kept), where=kept > 0), 0.0)


def scale_of(metric: str, norm: float, macs_per_rank: float = 1.0) -> float:
    """What the curve of a metric is divided by.

    Args:
        metric: its name.
        norm: the first entry of the curve of the whole weight.
        macs_per_rank: multiply-accumulates of the pair of rank 1.
    """
    if metric == "sensitivity":
        return macs_per_rank
    return 1.0 if metric in ("rank", "energy") else norm


def tails(energies: FloatArray) -> FloatArray:
    """tail[j] = Σ_{p ≥ j} energies[p], with the empty tail at the end; rounding below 0 is cut."""
    sums: FloatArray = np.append(np.cumsum(energies[::-1])[::-1], 0.0)
    return np.maximum(sums, 0.0)
