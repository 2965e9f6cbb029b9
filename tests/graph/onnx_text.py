"""Small models as ONNX text, for the tests of `lissom.graph`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx.parser
from lissom.graph.load import from_proto
from lissom.graph.model import Model
from lissom_runtime.session import open_session

Arrays = Mapping[str, npt.NDArray[Any]]


def parse(text: str, opset: int = 17, ir: int = 8, **constants: npt.NDArray[Any]) -> onnx.ModelProto:
    """A model from the text of its graph; `constants` become initializers."""
    proto = onnx.parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]> {text}')
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return proto


def model(text: str, opset: int = 17, ir: int = 8, **constants: npt.NDArray[Any]) -> Model:
    """The same, loaded."""
    return from_proto(parse(text, opset, ir, **constants))


def run(source: Model | onnx.ModelProto, feeds: Arrays) -> list[npt.NDArray[Any]]:
    """Outputs of a model on the CPU."""
    proto = source.to_proto() if isinstance(source, Model) else source
    return open_session(proto.SerializeToString()).run(None, dict(feeds))


def floats(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Seeded standard normal numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    """Seeded small integers as floats: sums of their products are exact."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)
