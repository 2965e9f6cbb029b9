"""Reading an `.onnx` file that may be broken or hostile.

A model file is untrusted input: its external data must lie in its own folder and
within the bounds of the files there, and whatever the parser meets becomes one
sentence. Model-local functions are inlined, so that later steps see standard operators
only, and before an opset conversion, which loses them. A function may import other
versions of operators than the model, if they convert to the model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.external_data_helper
import onnx.inliner
import onnx.version_converter
from lissom_runtime.contract import DOMAIN, WINNER_MASK
from lissom_runtime.errors import LoadError, UsageError

from lissom.graph.inlining import calls
from lissom.graph.model import LEAST_IR, Model, all_nodes, is_variable
from lissom.graph.unpacking import with_dense_weights

LEAST_OPSET = 11
"""Oldest opset that the passes understand."""


def load(path: Path, convert_opset: int | None = None) -> Model:
    """Reads the model at `path`, external data included.

    Args:
        path: the `.onnx` file.
        convert_opset: opset to convert the model up to before anything else.

    Raises:
        LoadError: not a readable, supported ONNX model.
        UsageError: `convert_opset` is not above the model's opset or not known.
    """
    return from_proto(read_proto(path), convert_opset)


def read_proto(path: Path) -> onnx.ModelProto:
    """The protobuf at `path` with external data loaded.

    Raises:
        LoadError: the file is missing, truncated or no ONNX model, or its external data
            is missing, out of bounds or outside the model's folder.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LoadError(f"expected a readable model file, but {path} gave: {error.strerror}") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception as error:  # protobuf's error types differ between its implementations
        raise LoadError(
            f"expected an ONNX model, but {path} ({len(content)} bytes) is truncated or of another format"
        ) from error
    if not proto.ir_version or not proto.graph.output:
        raise LoadError(f"expected an ONNX model, but {path} ({len(content)} bytes) holds no graph with outputs")
    _load_external_data(proto, path.parent)
    return proto


def from_proto(proto: onnx.ModelProto, convert_opset: int | None = None) -> Model:
    """Takes over a protobuf (with external data loaded) for editing.

    Raises:
        LoadError: the model's opset is unknown or too old, its graph is malformed, its functions
            cannot be inlined, or it has a part that lissom cannot keep.
        UsageError: `convert_opset` is not above the model's opset or not known.
    """
    opset = _opset(proto)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise LoadError(f"expected an opset of at most {newest}, but the model's is {opset}")
    if convert_opset is not None:
        proto = _convert(proto, opset, convert_opset, newest)
    elif opset < LEAST_OPSET:
        raise LoadError(
            f"expected an opset of at least {LEAST_OPSET}, but the model's is {opset}; ask for a conversion with "
            f"--convert-opset {LEAST_OPSET} or higher"
        )
    try:
        onnx.checker.check_model(proto, full_check=False)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise LoadError(f"expected a valid ONNX model, but the checker says: {_first_line(error)}") from error
    sparse = sum(node.domain == DOMAIN and node.op_type != WINNER_MASK.name for node in proto.graph.node)
    model = Model(_inline(proto))
    _forget_shapes(model)
    if sparse:
        model.remarks.append(
            f"{sparse} sparse operators were read as dense layers: `lissom lower` makes them sparse again"
        )
    return model


def _forget_shapes(model: Model) -> None:
    """Takes away what the file says of extents that nobody has to keep to.

    ONNX Runtime goes by the inputs, and takes an extent below zero for a free one. What is written of the tensors
    between may be of older inputs: their shapes are inferred anew.
    """
    ends = [*model.graph.inputs, *model.graph.outputs]
    kept = {tensor.name for tensor in ends}
    for name, tensor in model.graph.tensors().items():
        if name not in kept and is_variable(tensor):
            tensor.shape = None
    for tensor in ends:
        if tensor.shape is not None:
            tensor.shape = [None if isinstance(extent, int) and extent < 0 else extent for extent in tensor.shape]
    for value in (*model.inputs, *model.outputs):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_value") and dimension.dim_value < 0:
                dimension.Clear()


def _inline(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own.

    Raises:
        LoadError: a function calls itself, or imports versions of operators that do not convert to the model's.
    """
    if not proto.functions:
        return proto
    proto = _inlined(with_dense_weights(proto), "expected functions that can be inlined, but")
    left = _called(proto)
    if left is not None:  # the inliner leaves what imports other versions, unless it is asked to convert
        refusal = (
            f"expected functions whose operators convert to the model's versions, {_imports(proto)}, but "
            f"{left.domain}.{left.name} imports {_imports(left)}"
        )
        proto = _inlined(proto, f"{refusal}, and", convert_version=True)
        if _called(proto) is not None:
            raise LoadError(refusal)
    del proto.functions[:]
    return proto


def _inlined(proto: onnx.ModelProto, refusal: str, convert_version: bool = False) -> onnx.ModelProto:
    """The model with the calls inlined that the inliner takes; `refusal` begins the sentence on what it raises."""
    try:
        return onnx.inliner.inline_local_functions(proto, convert_version)
    except Exception as error:  # whatever its C++ code throws
        raise LoadError(f"{refusal} the inliner says: {_first_line(error)}") from error


def _called(proto: onnx.ModelProto) -> onnx.FunctionProto | None:
    """The first function that a node of the graph calls."""
    nodes = list(all_nodes(proto.graph))
    return next((body for body in proto.functions if any(calls(node, body) for node in nodes)), None)


def _imports(proto: onnx.ModelProto | onnx.FunctionProto) -> str:
    """The versions of the domains that a model or a function imports."""
    return ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in proto.opset_import)


def _opset(proto: onnx.ModelProto) -> int:
    versions = [entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    if not versions:
        raise LoadError("expected an import of the standard ONNX operators, but the model names no opset")
    return int(max(versions))


def _convert(proto: onnx.ModelProto, opset: int, target: int, newest: int) -> onnx.ModelProto:
    if not opset <= target <= newest or target < LEAST_OPSET:
        least = max(opset, LEAST_OPSET)
        raise UsageError(f"expected --convert-opset between {least} and {newest}, but got {target}")
    if target == opset:
        return proto
    proto = _inline(proto)
    try:
        return _declare_initializers(onnx.version_converter.convert_version(proto, target))
    except Exception as error:  # the converter raises whatever its C++ adapters throw
        raise LoadError(
            f"expected a model that converts from opset {opset} to {target}, but the converter says: "
            f"{_first_line(error)}"
        ) from error


def _declare_initializers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Below IR 4 every initializer is an input as well; the converter adds some that are none."""
    if proto.ir_version < LEAST_IR:
        declared = {value.name for value in proto.graph.input}
        proto.graph.input.extend(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            for tensor in proto.graph.initializer
            if tensor.name not in declared
        )
    return proto


def _load_external_data(proto: onnx.ModelProto, folder: Path) -> None:
    root = folder.resolve()
    for tensor in _tensors(proto):
        if not onnx.external_data_helper.uses_external_data(tensor):
            continue
        try:
            info = onnx.external_data_helper.ExternalDataInfo(tensor)
        except ValueError as error:
            raise LoadError(f"expected a location of the external data of {tensor.name!r}, but {error}") from error
        if "\0" in info.location:
            raise LoadError(f"expected a file name for the external data of {tensor.name!r}, but it holds a NUL byte")
        location = Path(info.location)
        file = (root / location).resolve()
        if location.is_absolute() or not file.is_relative_to(root):
            raise LoadError(
                f"expected external data inside the model's folder, but tensor {tensor.name!r} names {info.location!r}"
            )
        if not file.is_file():
            raise LoadError(
                f"expected external data for tensor {tensor.name!r} in {info.location!r}, but there is no such file"
            )
        size = file.stat().st_size
        offset = info.offset or 0
        length = size - offset if info.length is None else info.length
        if offset < 0 or length < 0 or offset + length > size:
            raise LoadError(
                f"expected bytes {offset} to {offset + length} of {info.location!r} for tensor {tensor.name!r}, "
                f"but the file has {size}"
            )
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model, those in attributes and functions included."""

    def of_nodes(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                    yield from of_graph(graph)

    def of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
        yield from graph.initializer
        yield from of_nodes(iter(graph.node))

    yield from of_graph(proto.graph)
    for function in proto.functions:
        yield from of_nodes(iter(function.node))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
