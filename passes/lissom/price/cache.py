"""A folder of small JSON files, one a measurement, named by the hash of what was measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import platformdirs

from lissom.data import Feeds
from lissom.files import write_text

FORMAT = 1
"""Part of every key; raised when what is stored changes its meaning."""


def content_of(proto: onnx.ModelProto, batches: Iterable[Feeds]) -> str:
    """Hash of a model and its samples, as part of a key."""
    content = hashlib.sha256(proto.SerializeToString(deterministic=True))
    for feeds in batches:
        for name in sorted(feeds):
            content.update(np.ascontiguousarray(feeds[name]).tobytes())
    return content.hexdigest()


class Cache:
    """Measurements by content.

    Args:
        folder: where they are kept; default: the user's cache folder.
        section: what is measured, a folder of its own.

    A file that cannot be read is as good as none; one that cannot be written is not
    missed, because the cache only saves time.
    """

    def __init__(self, folder: Path | None = None, section: str = "latency") -> None:
        self.section = section
        self.folder = Path(platformdirs.user_cache_dir("lissom")) if folder is None else folder

    def get(self, key: Mapping[str, Any]) -> float | None:
        """The measurement stored under `key`, or None."""
        try:
            stored = json.loads(self._path(key).read_text(encoding="utf-8"))
            value = float(stored["value"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return value if value > 0 else None

    def put(self, key: Mapping[str, Any], value: float) -> None:
        """Stores a measurement."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({"key": key, "value": value}))
        except OSError:
            return

    def _path(self, key: Mapping[str, Any]) -> Path:
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / self.section / digest[:2] / f"{digest}.json"
