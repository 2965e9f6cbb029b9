"""Saving leaves a whole file or none, with external data too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, parse
from lissom.graph import save as saving
from lissom.graph.load import read_proto
from lissom.graph.save import save
from lissom_runtime.errors import UsageError, VerificationError


@pytest.fixture
def proto() -> onnx.ModelProto:
    return parse("net (float[N, 64] x) => (float[N, 64] y) { y = MatMul(x, w) }", w=floats(0, 64, 64))


def refuse(_: Path) -> None:
    raise VerificationError("no")


def test_a_file_that_fails_verification_is_not_left_behind(tmp_path: Path, proto: onnx.ModelProto) -> None:
    with pytest.raises(VerificationError):
        save(proto, tmp_path / "out.onnx", refuse)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_fails_verification_does_not_replace_another(tmp_path: Path, proto: onnx.ModelProto) -> None:
    (tmp_path / "out.onnx").write_bytes(b"precious")
    with pytest.raises(VerificationError):
        save(proto, tmp_path / "out.onnx", refuse, overwrite=True)
    assert (tmp_path / "out.onnx").read_bytes() == b"precious"


def test_a_large_model_is_written_with_external_data(
    tmp_path: Path, proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "EXTERNAL_DATA_BYTES", 1000)
    written = save(proto, tmp_path / "out.onnx")
    names = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert set(names) == {"out.onnx", "out.onnx.data"}
    assert written == sum(names.values())
    read = read_proto(tmp_path / "out.onnx")
    weight = onnx.numpy_helper.to_array(read.graph.initializer[0])
    np.testing.assert_array_equal(weight, floats(0, 64, 64))


def test_external_data_replace_no_file_unasked(
    tmp_path: Path, proto: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "EXTERNAL_DATA_BYTES", 1000)
    (tmp_path / "out.onnx.data").write_bytes(b"precious")
    with pytest.raises(UsageError, match="--overwrite"):
        save(proto, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").read_bytes() == b"precious"
    save(proto, tmp_path / "out.onnx", overwrite=True)
    assert (tmp_path / "out.onnx.data").stat().st_size >= 4 * 64 * 64
