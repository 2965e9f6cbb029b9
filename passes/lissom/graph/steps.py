"""The contract of an exact rewrite: it edits a model and says what it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lissom.graph.model import Model
from lissom.graph.spec import require_legal
from lissom.options import Refusal


@dataclass(frozen=True)
class Change:
    """One edit: the node it touched and what became of it."""

    node: str
    what: str


@dataclass
class Outcome:
    """What a step did to a model, and what it declined."""

    changes: list[Change] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """A named rewrite. `run` edits the model in place."""

    name: str
    run: Callable[[Model], Outcome]


def apply_steps(model: Model, steps: Sequence[Step]) -> dict[str, Outcome]:
    """Runs `steps` in order on `model`; after each the graph must be legal.

    Returns:
        What each step did, by its name.

    Raises:
        VerificationError: a step left an illegal graph (a defect of that step).
    """
    outcomes = {}
    for step in steps:
        outcomes[step.name] = step.run(model)
        require_legal(model, after=step.name)
    return outcomes
