"""Iterative decomposition: pairs become layers again, which are decomposed to a smaller budget and trained.

One round, as a `Change` for `in_rounds`:

1. every pair is multiplied back into its layer (`lowrank/recomposing.py`), and batch normalisations are folded;
2. a recipe chooses and makes pairs anew, under a budget of parameters; no two layers share a constant;
3. where normalisations are asked for, each convolution that no other one reads directly gets one back, with the
   statistics that its outputs have, so that the network computes what it did (`normalising.py`).

The budget is a share of the parameters of the dense network with its normalisations folded: the same in every round.

Source: Liebenwein et al., ALDS (2021), section 3 and appendix, and the authors' program; what is decomposed there has
its normalisations apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from lissom_runtime.errors import UsageError

from lissom import study
from lissom.applying import Candidate, apply
from lissom.data import Feeds
from lissom.graph.load import from_proto
from lissom.graph.steps import apply_steps
from lissom.job import open_job
from lissom.lowrank.recomposing import recompose
from lissom.recipe import Recipe
from lissom.search import Budget, Search
from lissom.train.layering import STEPS
from lissom.train.normalising import with_norms
from lissom.train.rounds import Change, Changed


def decompose(keep: float, recipe: Recipe, calibration: Path, norms: Sequence[Feeds] = ()) -> Change:
    """Decomposes a network to a budget, whether its layers are pairs already or not.

    Args:
        keep: share of the parameters.
        recipe: how layers are decomposed.
        calibration: samples that say which inputs the network has, and that the recipe may measure on.
        norms: samples that normalisations take their statistics of; without any there are none.

    Raises:
        GoalMissed: no choice of pairs is that small.
        UsageError: the recipe or the samples are not acceptable.
    """
    others = [name for name, kind in recipe.kinds.items() if kind.enabled and name != "low_rank"]
    if others:
        raise UsageError(f"expected a recipe of pairs alone, which become layers again, but it has {', '.join(others)}")

    def change(proto: onnx.ModelProto) -> Changed:
        model = from_proto(proto)
        pairs = len(recompose(model).layers)
        job = open_job(model.to_proto(), calibration=str(calibration))
        priced = study.price(job, study.propose(job, recipe), timed=False)
        totals = priced.canonical.totals
        budget = Budget("params", totals.params, lambda found: found.totals.params / totals.params, keep)
        found: Candidate = Search(priced, [budget], lambda plan: apply(priced, plan)).candidate(keep).candidate
        made = found.model
        apply_steps(made, STEPS)
        if norms:
            with_norms(made, norms)
        facts = {
            "error": found.plan.level,
            "params": found.totals.params / totals.params,
            "macs": found.totals.macs / totals.macs,
            "pairs": len(found.plan.changed),
            "recomposed": pairs,
        }
        return Changed(made.to_proto(), facts)

    return change
