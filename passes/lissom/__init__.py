"""lissom: an ONNX-in, ONNX-out compression compiler.

`compress` does exactly what the command `lissom compress` does.
"""

from __future__ import annotations

from lissom_runtime.errors import GoalMissed, LissomError, LoadError, UsageError, VerificationError

from lissom.driver import Result, compress
from lissom.recipe import Bounds, Recipe
from lissom.version import __version__

__all__ = [
    "Bounds",
    "GoalMissed",
    "LissomError",
    "LoadError",
    "Recipe",
    "Result",
    "UsageError",
    "VerificationError",
    "__version__",
    "compress",
]
