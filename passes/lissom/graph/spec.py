"""The grammar of a legal graph, checked between steps.

1. Every tensor has one producer: a node, an input of the graph, or it is a constant.
2. Nodes stand in topological order: each input is a constant, an input of the graph
   or of an enclosing one, or the output of an earlier node.
3. Node names are unique and not empty.
4. The graph's inputs and outputs are the declared ones, by name and order, and every
   output is produced.
5. Constants have the shape they claim.
"""

from __future__ import annotations

import onnx
from lissom_runtime.errors import VerificationError

from lissom.graph.model import Graph, Model, is_constant


def violations(model: Model) -> list[str]:
    """Every breach of the grammar, as one sentence each."""
    found = [
        f"the {what} are {[t.name for t in tensors]}, but the file declares {[v.name for v in declared]}"
        for what, tensors, declared in (
            ("inputs", model.graph.inputs, model.inputs),
            ("outputs", model.graph.outputs, model.outputs),
        )
        if [t.name for t in tensors] != [v.name for v in declared]
    ]
    names: set[str] = set()
    for node in model.graph.nodes:
        if not node.name or node.name in names:
            found.append(f"node name {node.name!r} of a {node.op} is empty or used twice")
        names.add(node.name)
    _check_scope(model.graph, set(), found)
    return found


def _check_scope(graph: Graph, outer: set[str], found: list[str]) -> None:
    known = outer | {tensor.name for tensor in graph.inputs}
    produced = {tensor.name for tensor in graph.inputs}
    for tensor in graph.tensors().values():
        if is_constant(tensor):
            known.add(tensor.name)
            if tensor.inputs:
                found.append(f"constant {tensor.name!r} is produced by a node as well")
    for node in graph.nodes:
        found.extend(
            f"input {tensor.name!r} of node {node.name!r} is read before it is produced"
            for tensor in node.inputs
            if tensor.name and tensor.name not in known
        )
        for subgraph in node.subgraphs():
            _check_scope(subgraph, known, found)
        for tensor in node.outputs:
            if not tensor.name:
                continue
            if tensor.name in produced:
                found.append(f"tensor {tensor.name!r} is produced twice")
            produced.add(tensor.name)
            known.add(tensor.name)
    found.extend(f"output {t.name!r} is not produced" for t in graph.outputs if t.name not in known)


def require_legal(model: Model, after: str) -> None:
    """Raises what `violations` finds.

    Args:
        model: the model to check.
        after: the step that ran last, named in the message.

    Raises:
        VerificationError: the graph is not legal.
    """
    found = violations(model)
    if found:
        raise VerificationError(f"expected a legal graph after step {after!r}, but {found[0]} ({len(found)} breaches)")


def require_valid(proto: onnx.ModelProto, original: onnx.ModelProto) -> None:
    """Runs the ONNX checker, with its shape inference if `original` passes that.

    Args:
        proto: the model to check.
        original: what it was made from; onnx itself fails on some operators of legal models
            (`MeanVarianceNormalization` in onnx 1.23).

    Raises:
        VerificationError: the checker refuses the model.
    """
    complaint = _complaint(proto, full=True)
    if complaint is not None and _complaint(original, full=True) is not None:
        complaint = _complaint(proto, full=False)
    if complaint is not None:
        raise VerificationError(f"expected a model that onnx.checker accepts, but it says: {complaint}")


def _complaint(proto: onnx.ModelProto, full: bool) -> str | None:
    """The first line of what the checker has to say (only up to 2 GiB it can infer shapes), or None."""
    try:
        onnx.checker.check_model(proto, full_check=full and proto.ByteSize() < 2**31)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        return str(error).strip().splitlines()[0]
    return None
