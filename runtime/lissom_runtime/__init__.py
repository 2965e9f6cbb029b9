"""What a deployed lissom model needs, and what measures it: needs numpy and onnxruntime, nothing else."""

from __future__ import annotations

from lissom_runtime.accuracy import Score, evaluate, evaluate_all
from lissom_runtime.errors import GoalMissed, LissomError, LoadError, UsageError, VerificationError
from lissom_runtime.intervals import Interval
from lissom_runtime.latency import PairedLatency, Samples, Schedule, compare, compare_many, measure
from lissom_runtime.library import available, describe, get_library_path, register
from lissom_runtime.providers import ProviderRequest
from lissom_runtime.session import nodes_by_provider, open_session
from lissom_runtime.target import Machine

__all__ = [
    "GoalMissed",
    "Interval",
    "LissomError",
    "LoadError",
    "Machine",
    "PairedLatency",
    "ProviderRequest",
    "Samples",
    "Schedule",
    "Score",
    "UsageError",
    "VerificationError",
    "available",
    "compare",
    "compare_many",
    "describe",
    "evaluate",
    "evaluate_all",
    "get_library_path",
    "measure",
    "nodes_by_provider",
    "open_session",
    "register",
]
