"""Makes ConvNet-5, which the paper of integral pruning has a table of: trained with labels on CIFAR-10 (JPEG).

    pip install 'lissom[recover]'
    python benchmarks/activations_convnet.py --cifar ../shared/data/cifar10-jpeg [--epochs 8] [--resume]
    python benchmarks/activations.py tables --keep 0.277 \
        --network build/convnet5/convnet5.onnx build/convnet5/calibration.npz build/convnet5/test.npz

Two convolutions of 64 channels and 5 × 5 weights, a MaxPool of 3 × 3 behind each, and layers of 384, 192 and 10
outputs, on 24 × 24 crops: the network of TensorFlow's tutorial, with batch normalisation in the place of its local
response normalisation. It is trained on random crops and flips of the 50,000 training images, one in `HELD` held out;
the files of calibration and test hold the central crops. What is written has its normalisations folded.

While it is trained the network reads 32 × 32 images and crops them itself: a shift of up to four pixels in front of a
central crop is a random crop.

Source: Integral Pruning on Activations and Weights for Efficient Neural Networks (ICLR 2019 submission), section 4.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from lissom.canonical import canonicalise
from lissom.data import Dataset, Feeds
from lissom.graph.load import from_proto
from lissom.train.schedule import Schedule
from lissom.train.scratch import randomised
from lissom.train.tuning import Tuning, tune
from lissom.train.writing import with_values

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.prepare_data import decode
from benchmarks.retraining.common import Told, top1

HELD = 50
"""One training image of so many is held out."""

CALIBRATION = 512
"""First training images, in the file of calibration."""

MARGIN = 4
"""Pixels on each side that a central crop of 24 × 24 leaves of 32 × 32."""

SHAPES: Mapping[str, tuple[int, ...]] = {
    "conv1": (64, 3, 5, 5),
    "conv2": (64, 64, 5, 5),
    "fc1": (384, 2304),
    "fc2": (192, 384),
    "fc3": (10, 192),
}
NORMALISED = ("conv1", "conv2", "fc1", "fc2")
"""Layers with a batch normalisation."""

BODY = """
    c1 = Conv <pads = [2, 2, 2, 2]> (image, conv1_weight, conv1_bias)
    n1 = BatchNormalization (c1, conv1_scale, conv1_shift, conv1_mean, conv1_var)
    relu1 = Relu (n1)
    pool1 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]> (relu1)
    c2 = Conv <pads = [2, 2, 2, 2]> (pool1, conv2_weight, conv2_bias)
    n2 = BatchNormalization (c2, conv2_scale, conv2_shift, conv2_mean, conv2_var)
    relu2 = Relu (n2)
    pool2 = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [0, 0, 1, 1]> (relu2)
    flat = Flatten (pool2)
    c3 = Gemm <transB = 1> (flat, fc1_weight, fc1_bias)
    n3 = BatchNormalization (c3, fc1_scale, fc1_shift, fc1_mean, fc1_var)
    relu3 = Relu (n3)
    c4 = Gemm <transB = 1> (relu3, fc2_weight, fc2_bias)
    n4 = BatchNormalization (c4, fc2_scale, fc2_shift, fc2_mean, fc2_var)
    relu4 = Relu (n4)
    logits = Gemm <transB = 1> (relu4, fc3_weight, fc3_bias)
"""


def convnet(crops: bool) -> onnx.ModelProto:
    """The network with weights of zero.

    Args:
        crops: it reads input[n, 3, 32, 32] and crops it, instead of input[n, 3, 24, 24].
    """
    size = 24 + 2 * MARGIN if crops else 24
    first = "image = Slice (input, crop_from, crop_to, crop_axes)" if crops else "image = Identity (input)"
    text = f'<ir_version: 8, opset_import: ["" : 13]>\nconvnet5 (float[N, 3, {size}, {size}] input) => (float[N, 10] '
    model = onnx.parser.parse_model(f"{text}logits) {{\n    {first}{BODY}}}")
    constants: dict[str, npt.NDArray[np.float32] | npt.NDArray[np.int64]] = {}
    for layer, shape in SHAPES.items():
        constants[f"{layer}_weight"] = np.zeros(shape, np.float32)
        constants[f"{layer}_bias"] = np.zeros(shape[0], np.float32)
        if layer in NORMALISED:
            for name in ("scale", "shift", "mean", "var"):
                constants[f"{layer}_{name}"] = np.full(shape[0], name in ("scale", "var"), np.float32)
    if crops:
        constants |= {"crop_from": np.array([MARGIN] * 2), "crop_to": np.array([MARGIN + 24] * 2)}
        constants["crop_axes"] = np.array([2, 3])
    for name, values in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def central(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The central crops[n, 3, 24, 24] of images[n, 3, 32, 32]."""
    return np.ascontiguousarray(images[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN])


def finished(trained: onnx.ModelProto) -> onnx.ModelProto:
    """The trained network without its crop, normalisations folded."""
    whole = convnet(crops=False)
    wanted = {tensor.name for tensor in whole.graph.initializer}
    values = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in trained.graph.initializer if tensor.name in wanted
    }
    feeds = {"input": np.zeros((1, 3, 24, 24), np.float32)}
    return canonicalise(from_proto(with_values(whole, values)), feeds).model.to_proto()


def tuning_of(epochs: int, rate: float, minutes: float | None) -> Tuning:
    """How it is trained."""
    return Tuning(
        Schedule(epochs, rate, warmup=0.2),
        decay=5e-4,
        batch=64,
        shift=MARGIN,
        flip=True,
        held=HELD,
        statistics="updated",
        minutes=minutes,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Trains the network and writes it beside its data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="folder with train.npz and test.npz")
    parser.add_argument("--out", type=Path, default=Path("build/convnet5"))
    parser.add_argument("--images", type=int, default=50_000, help="first training images that are trained on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=0.05, help="highest learning rate")
    parser.add_argument("--minutes", type=float, help="most time that training takes")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    arrays = decode(asked.cifar / "train.npz", 0, asked.images)
    tested = decode(asked.cifar / "test.npz", 0, 10_000)
    images, labels = arrays["input"], arrays["labels"]
    np.savez(asked.out / "calibration.npz", input=central(images[:CALIBRATION]), labels=labels[:CALIBRATION])
    np.savez(asked.out / "test.npz", input=central(tested["input"]), labels=tested["labels"])

    def read(start: int, stop: int) -> tuple[Feeds, npt.NDArray[np.int64]]:
        return {"input": images[start:stop]}, labels[start:stop]

    began = time.process_time()
    found = tune(
        randomised(convnet(crops=True)),
        Dataset("CIFAR-10 (JPEG)", len(labels), read),
        tuning_of(asked.epochs, asked.rate, asked.minutes),
        checkpoint=asked.out / "training.safetensors",
        resume=asked.resume,
        progress=Told(),
    )
    spent = time.process_time() - began
    proto = finished(found.proto)
    onnx.save(proto, asked.out / "convnet5.onnx")
    print(
        f"{asked.out / 'convnet5.onnx'}: {found.epochs} epochs in {found.seconds / 60:.0f} minutes "
        f"({spent / 60:.0f} of processor time in this process), held out {100 * found.after.accuracy:.2f} %, "
        f"test {top1(proto, asked.out / 'test.npz'):.2f} %"
    )


if __name__ == "__main__":
    main()
