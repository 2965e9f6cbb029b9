"""The standard ONNX operators that `TorchGraph` runs, from opset `LEAST_OPSET` on.

What is not here is refused when a graph is built, and so are the attributes that a maker does not know.
"""

from __future__ import annotations

from lissom.train.elementwise import ELEMENTWISE
from lissom.train.layers import LAYERS
from lissom.train.node import Maker
from lissom.train.norms import NORMS
from lissom.train.pooling import POOLING
from lissom.train.reductions import REDUCTIONS
from lissom.train.resizing import RESIZING
from lissom.train.shaping import SHAPING

OPERATORS: dict[str, Maker] = {**LAYERS, **POOLING, **NORMS, **ELEMENTWISE, **REDUCTIONS, **SHAPING, **RESIZING}
