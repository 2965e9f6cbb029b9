"""Un-shares the constants that layers read, and shares equal ones again at the end.

A pass that changes the weight of one layer must not change another's: so each layer
gets weights of its own before any rewrite. `share_constants` undoes it for those that
stayed equal, so that the file does not grow.
"""

from __future__ import annotations

import hashlib

from lissom.graph.model import Model, Tensor, constant, is_constant
from lissom.graph.naming import fresh_name
from lissom.graph.steps import Change, Outcome

_OWNERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"})


def unshare_constants(model: Model) -> Outcome:
    """Gives every layer its own copy of the constants that it reads with others."""
    outcome = Outcome()
    taken = set(model.graph.tensors())
    readers: dict[int, int] = {}
    for node in model.graph.nodes:
        for tensor in node.inputs:
            readers[id(tensor)] = readers.get(id(tensor), 0) + 1
    used_inside = {name for graph in model.graph.subgraphs(recursive=True) for name in graph.tensors()}
    for node in model.graph.nodes:
        if node.op not in _OWNERS:
            continue
        for position, tensor in enumerate(node.inputs):
            if not is_constant(tensor) or (readers[id(tensor)] == 1 and tensor.name not in used_inside):
                continue
            name = fresh_name(f"{tensor.name}/{node.name}", taken)
            node.inputs[position] = constant(name, tensor.values)
            readers[id(tensor)] -= 1
            readers[id(node.inputs[position])] = 1
            outcome.changes.append(Change(node.name, f"got its own copy of {tensor.name}"))
    return outcome


def share_constants(model: Model) -> Outcome:
    """Lets nodes that read equal constants read one."""
    outcome = Outcome()
    first: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}
    known: set[int] = set()
    for node in model.graph.nodes:
        for position, tensor in enumerate(node.inputs):
            if not is_constant(tensor) or id(tensor) in known:
                continue
            values = tensor.values
            digest = hashlib.sha256(values.tobytes()).digest()
            original = first.setdefault((str(values.dtype), values.shape, digest), tensor)
            if original is tensor:
                known.add(id(tensor))
            elif not any(tensor is out for out in model.graph.outputs):
                node.inputs[position] = original
                outcome.changes.append(Change(node.name, f"shares {original.name} in place of {tensor.name}"))
    return outcome
