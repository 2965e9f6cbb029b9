"""lissom: an ONNX-in, ONNX-out compression compiler.

`compress` and `lower` do exactly what the commands `lissom compress` and `lissom lower` do.
"""

from __future__ import annotations

from lissom_runtime.errors import GoalMissed, LissomError, LoadError, UsageError, VerificationError

from lissom.driver import Result, compress
from lissom.lowering.lower import Lowered, lower
from lissom.recipe import Bounds, Recipe
from lissom.version import __version__

__all__ = [
    "Bounds",
    "GoalMissed",
    "LissomError",
    "LoadError",
    "Lowered",
    "Recipe",
    "Result",
    "UsageError",
    "VerificationError",
    "__version__",
    "compress",
    "lower",
]
