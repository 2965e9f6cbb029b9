"""Writing a model so that a reader never sees half a file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from lissom_runtime.errors import UsageError

EXTERNAL_DATA_BYTES = 2_000_000_000
"""Models above this size get external data (protobuf stops at 2 GiB)."""


def require_writable(target: Path, overwrite: bool, source: Path | None = None) -> None:
    """Refuses an output before any work is done for it.

    Raises:
        UsageError: `target` is the input, exists without `overwrite`, or its folder cannot be written.
    """
    if source is not None and target.resolve() == source.resolve():
        raise UsageError(f"expected an output other than the input, but both are {target}")
    if target.is_dir():
        raise UsageError(f"expected a file as output, but {target} is a folder")
    if target.exists() and not overwrite:
        raise UsageError(f"expected a new output file, but {target} exists (--overwrite replaces it)")
    if not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UsageError(f"expected a folder that can be written, but {target.parent} is not")


def save(
    proto: onnx.ModelProto, target: Path, verify: Callable[[Path], None] | None = None, overwrite: bool = False
) -> int:
    """Writes `proto` to `target`: first beside it, then verified, then renamed.

    Args:
        proto: the model.
        target: where to write; large models get `<target>.data` beside it.
        verify: called with the temporary file before it is renamed; an exception
            from it leaves nothing behind.
        overwrite: replace a `<target>.data` that exists.

    Returns:
        Bytes written, external data included.

    Raises:
        UsageError: the folder cannot be written, or the external data would replace a file.
    """
    external = proto.ByteSize() > EXTERNAL_DATA_BYTES
    data_name = f"{target.name}.data"
    if external:
        require_writable(target.with_name(data_name), overwrite)
    try:
        with tempfile.TemporaryDirectory(prefix=".lissom-", dir=target.parent) as folder:
            draft = Path(folder) / target.name
            if external:
                onnx.save_model(proto, draft, save_as_external_data=True, location=data_name, size_threshold=1024)
            else:
                draft.write_bytes(proto.SerializeToString())
            if verify is not None:
                verify(draft)
            written = sum(file.stat().st_size for file in Path(folder).iterdir())
            if external:
                os.replace(draft.with_name(data_name), target.with_name(data_name))
            os.replace(draft, target)
    except OSError as error:
        raise UsageError(f"expected to write {target}, but got: {error.strerror}") from error
    return written
