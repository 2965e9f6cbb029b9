"""lissom: an ONNX-in, ONNX-out compression compiler.

`compress`, `sweep`, `lower` and `recover` do exactly what the commands of these names do.
"""

from __future__ import annotations

from lissom_runtime.errors import GoalMissed, LissomError, LoadError, UsageError, VerificationError

from lissom.driver import compress
from lissom.lowering.lower import Lowered, lower
from lissom.recipe import Bounds, Recipe
from lissom.recovering import Recovered, recover
from lissom.sweeping import Swept, sweep
from lissom.version import __version__
from lissom.workbench import Result

__all__ = [
    "Bounds",
    "GoalMissed",
    "LissomError",
    "LoadError",
    "Lowered",
    "Recipe",
    "Recovered",
    "Result",
    "Swept",
    "UsageError",
    "VerificationError",
    "__version__",
    "compress",
    "lower",
    "recover",
    "sweep",
]
