"""Text files, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replaces the file at `path` by `text`; leaves nothing behind when it cannot.

    Raises:
        OSError: the folder cannot be written, or `path` is a folder.
    """
    with tempfile.TemporaryDirectory(prefix=".lissom-", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
