"""Names that nothing else bears."""

from __future__ import annotations

from lissom.graph.model import Model
from lissom.graph.steps import Change, Outcome


def name_nodes(model: Model) -> Outcome:
    """Names unnamed and namesake nodes after their operator and first output."""
    outcome = Outcome()
    taken: set[str] = {node.name for node in model.graph.nodes}
    seen: set[str] = set()
    for node in model.graph.nodes:
        if not node.name or node.name in seen:
            old = node.name
            stem = f"{node.op}_{node.outputs[0].name}" if node.outputs else node.op
            name = node.name = fresh_name(stem, taken)
            outcome.changes.append(Change(name, f"named (was {old!r})"))
        seen.add(node.name)
    return outcome


def fresh_name(stem: str, taken: set[str]) -> str:
    """`stem`, or `stem` with the least number from 2 on that makes it new; it is added to `taken`."""
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}_{count}"
    taken.add(name)
    return name


def fresh_stem(stem: str, model: Model) -> str:
    """A name for a node whose constants will be called "<name>_…", none of which the graph has.

    It is `stem`, or `stem` with the least number from 2 on that makes it new.
    """
    taken = {node.name for node in model.graph.nodes} | model.graph.tensors().keys()
    name, count = stem, 1
    while any(known == name or known.startswith(f"{name}_") for known in taken):
        count += 1
        name = f"{stem}_{count}"
    return name
