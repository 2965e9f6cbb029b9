"""ConvNet-5 of the benchmarks: what is trained on whole images is what is written for their central crops."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph.onnx_text import floats, run
from lissom.canonical import canonicalise
from lissom.graph.load import from_proto

pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")
pytest.importorskip("PIL", reason="Pillow decodes the images of the benchmark")

sys.path.append(str(Path(__file__).parents[2]))

from lissom.train.scratch import randomised
from lissom.train.tuning import tune
from train.runs import of_arrays

from benchmarks.activations_convnet import central, convnet, finished, tuning_of

pytestmark = pytest.mark.ort


@pytest.fixture(scope="module")
def trained() -> onnx.ModelProto:
    """The network after a few steps, with statistics that are no longer 0 and 1."""
    rng = np.random.default_rng(0)
    arrays = {"input": 1 + rng.standard_normal((192, 3, 32, 32)).astype(np.float32)}
    data = of_arrays(arrays, rng.integers(10, size=192))
    return tune(randomised(convnet(crops=True)), data, tuning_of(1, 0.05, None)).proto


def test_what_is_written_gives_for_central_crops_what_was_trained_gives_for_whole_images(
    trained: onnx.ModelProto,
) -> None:
    images = floats(1, 4, 3, 32, 32)
    written = finished(trained)
    assert [node.op_type for node in written.graph.node].count("BatchNormalization") == 0
    (whole,), (crops,) = run(trained, {"input": images}), run(written, {"input": central(images)})
    np.testing.assert_allclose(crops, whole, rtol=1e-4, atol=1e-4 * np.abs(whole).max())


def test_it_has_the_layers_and_multiplications_of_the_paper(trained: onnx.ModelProto) -> None:
    layers = canonicalise(from_proto(finished(trained)), {"input": np.zeros((1, 3, 24, 24), np.float32)}).layers
    assert [layer.geometry.macs for layer in layers] == [
        24 * 24 * 64 * 75, 12 * 12 * 64 * 1600, 2304 * 384, 384 * 192, 192 * 10,
    ]  # fmt: skip
