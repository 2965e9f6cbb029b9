"""Text files, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lissom_runtime.errors import UsageError


def write_text(target: str, text: str) -> None:
    """Replaces the file `target` by `text`.

    Raises:
        UsageError: the folder cannot be written.
    """
    path = Path(target)
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as draft:
            draft.write(text)
        os.replace(draft.name, path)
    except OSError as error:
        raise UsageError(f"expected to write {path}, but got: {error.strerror}") from error
