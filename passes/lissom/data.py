"""Reading images and labels for calibration and validation.

Data come as `.npz` (one array per graph input, by name, and `labels`), as `.npy` (a
model with one input), as a folder of images with a `preprocess.toml`, or from
`MODULE:FUNCTION`, which yields dictionaries like the arrays of an `.npz`. Nothing
is unpickled. A model's inputs decide what shapes and element types are accepted; no
array is cast silently, because an image scaled to 0..255 for a network that wants
0..1 looks like a bad network.
"""

from __future__ import annotations

import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from lissom_runtime.errors import UsageError
from lissom_runtime.functions import load_function

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
"""One array per input of the graph, by name."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm"})
LABELS = "labels"


@dataclass(frozen=True)
class InputSpec:
    """What an input of the graph accepts.

    Attributes:
        name: the input.
        dtype: its element type.
        shape: extent per axis; None where it is free.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Dataset:
    """Samples for a model, read batch by batch.

    Attributes:
        name: where the samples come from, as the user wrote it.
        size: number of samples.
        read: read(start, stop) returns the feeds of those samples and their labels (or None).
    """

    name: str
    size: int
    read: Callable[[int, int], tuple[Feeds, Array | None]]

    def batches(self, batch_size: int, limit: int | None = None) -> Iterator[tuple[Feeds, Array | None]]:
        """Feeds and labels of consecutive batches, up to `limit` samples."""
        end = self.size if limit is None else min(limit, self.size)
        for start in range(0, end, batch_size):
            yield self.read(start, min(start + batch_size, end))


def input_specs(inputs: Sequence[onnx.ValueInfoProto]) -> list[InputSpec]:
    """What the inputs of a graph accept."""
    specs = []
    for value in inputs:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)
        specs.append(InputSpec(value.name, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)), shape))
    return specs


def open_dataset(source: str, specs: Sequence[InputSpec]) -> Dataset:
    """Opens the data that the user named and checks it against the model's inputs.

    Args:
        source: path of an `.npz`, an `.npy` or a folder of images, or `MODULE:FUNCTION`.
        specs: the model's inputs.

    Raises:
        UsageError: the data cannot be read, are empty, or do not fit the inputs.
    """
    path = Path(source)
    if path.is_dir():
        dataset = _open_folder(path, specs)
    elif path.suffix in (".npz", ".npy"):
        dataset = _of_arrays(source, _read_arrays(path, specs), specs)
    elif ":" in source and not path.exists():
        dataset = _of_arrays(source, _call(source), specs)
    else:
        raise UsageError(f"expected data as .npz, .npy, a folder of images or MODULE:FUNCTION, but got {source!r}")
    if dataset.size == 0:
        raise UsageError(f"expected at least one sample, but {source!r} is empty")
    fixed = specs[0].shape[0] if specs[0].shape else None
    if fixed is not None and dataset.size % fixed:
        raise UsageError(
            f"expected a multiple of {fixed} samples for input {specs[0].name!r}, but {source!r} has {dataset.size}"
        )
    return dataset


def samples_of(feeds: Feeds) -> int:
    """How many samples feeds[n, ...] have; 1 where none has axes."""
    return next((len(values) for values in feeds.values() if values.ndim), 1)


def random_feeds(specs: Sequence[InputSpec], shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Feeds:
    """Seeded random inputs: standard normal floats, integers 0 or 1.

    Args:
        specs: the model's inputs.
        shapes: shapes for the inputs that have free axes (and for any other that should differ).
        seed: of the generator.

    Raises:
        UsageError: an input with free axes has no shape, or a shape does not fit.
    """
    for name in shapes:
        if name not in {spec.name for spec in specs}:
            raise UsageError(f"expected a shape for one of {[spec.name for spec in specs]}, but got one for {name!r}")
    empty = {}
    for spec in specs:
        shape = shapes.get(spec.name, tuple(-1 if extent is None else extent for extent in spec.shape))
        if -1 in shape:
            raise UsageError(
                f"expected --shape {spec.name}:{_suggestion(spec)} (shapes= in Python) for the free axes of input "
                f"{spec.name!r} {_text(spec.shape)}, but none was given and there is no calibration data"
            )
        _require_fit(f"--shape {spec.name}", shape, spec)
        empty[spec.name] = np.empty(shape, spec.dtype)
    return random_like(empty, seed)


def random_like(feeds: Feeds, seed: int) -> Feeds:
    """Seeded random arrays of the shapes and types of `feeds`: standard normal floats, integers 0 or 1."""
    rng = np.random.default_rng(seed)

    def draw(like: Array) -> Array:
        floating = np.issubdtype(like.dtype, np.floating)
        drawn: Array = rng.standard_normal(like.shape) if floating else rng.integers(0, 2, like.shape)
        return drawn.astype(like.dtype)

    return {name: draw(values) for name, values in feeds.items()}


def first_feeds(
    specs: Sequence[InputSpec], data: str | Dataset | None, shapes: Mapping[str, tuple[int, ...]], seed: int = 0
) -> Feeds:
    """One input for a model: the first sample of the data, or random numbers of the asked-for shapes.

    Raises:
        UsageError: as `open_dataset` and `random_feeds`.
    """
    if data is None or shapes:
        return random_feeds(specs, shapes, seed)
    opened = open_dataset(data, specs) if isinstance(data, str) else data
    return opened.read(0, specs[0].shape[0] or 1)[0]


def _read_arrays(path: Path, specs: Sequence[InputSpec]) -> dict[str, Array]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if len(specs) != 1:
                raise UsageError(f"expected an .npz for {len(specs)} inputs, but {path} holds a single array")
            return {specs[0].name: loaded}
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except OSError as error:
        raise UsageError(f"expected readable data, but {path} gave: {error.strerror or error}") from error
    except (ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UsageError(f"expected arrays without pickled objects, but {path} is no such file: {error}") from error
    others = [name for name in arrays if name != LABELS]
    if len(specs) == 1 and len(others) == 1 and others[0] != specs[0].name:
        arrays[specs[0].name] = arrays.pop(others[0])
    return arrays


def _of_arrays(source: str, arrays: Mapping[str, Array], specs: Sequence[InputSpec]) -> Dataset:
    missing = [spec.name for spec in specs if spec.name not in arrays]
    if missing:
        raise UsageError(f"expected an array for input {missing[0]!r}, but {source!r} holds {sorted(arrays)}")
    sizes = {name: len(values) for name, values in arrays.items() if values.ndim}
    size = sizes.get(specs[0].name, 0)
    for name in (*(spec.name for spec in specs), *([LABELS] if LABELS in arrays else [])):
        if sizes.get(name, 0) != size:
            raise UsageError(
                f"expected {size} entries in array {name!r} of {source!r}, but it has {sizes.get(name, 0)}"
            )
    for spec in specs:
        values = arrays[spec.name]
        if values.dtype != spec.dtype:
            raise UsageError(
                f"expected {spec.dtype.name} for input {spec.name!r}, but {source!r} holds {values.dtype.name}"
            )
        if spec.dtype.kind == "f" and (wrong := int(values.size - np.isfinite(values).sum())):
            raise UsageError(
                f"expected finite numbers for input {spec.name!r}, but {source!r} has {wrong} that are NaN or infinite"
            )
        if size:
            fixed = spec.shape[0] if spec.shape and spec.shape[0] is not None else 1
            _require_fit(source, (fixed, *values.shape[1:]), spec)
    labels = arrays.get(LABELS)

    def read(start: int, stop: int) -> tuple[Feeds, Array | None]:
        return (
            {spec.name: arrays[spec.name][start:stop] for spec in specs},
            None if labels is None else labels[start:stop],
        )

    return Dataset(source, size, read)


def _call(source: str) -> dict[str, Array]:
    parts: dict[str, list[Array]] = {}
    function = load_function(source)
    try:
        for batch in function():
            for name, values in dict(batch).items():
                parts.setdefault(name, []).append(np.asarray(values))
        return {name: np.concatenate(values) for name, values in parts.items()}
    except Exception as error:  # the user's code may raise anything
        raise UsageError(
            f"expected {source!r} to yield dictionaries of arrays, but got {type(error).__name__}: {error}"
        ) from error


def _open_folder(folder: Path, specs: Sequence[InputSpec]) -> Dataset:
    """Images below `folder`, in order of their paths; subfolders are classes in order of their names."""
    if len(specs) != 1:
        raise UsageError(f"expected a model with one input for a folder of images, but it has {len(specs)}")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    classes = sorted({file.parent for file in files if file.parent != folder})
    prepare = read_preprocess(folder / "preprocess.toml", specs[0])

    def read(start: int, stop: int) -> tuple[Feeds, Array | None]:
        chosen = files[start:stop]
        images = np.stack([prepare(file) for file in chosen])
        labels = np.array([classes.index(file.parent) for file in chosen]) if classes else None
        return {specs[0].name: images}, labels

    if classes and any(file.parent == folder for file in files):
        raise UsageError(f"expected images either in {folder} or in folders per class, but found both")
    return Dataset(str(folder), len(files), read)


def read_preprocess(path: Path, spec: InputSpec) -> Callable[[Path], Array]:
    """A function that turns an image file into one sample of `spec`.

    The description is TOML: `size = [height, width]` (required), `color = "rgb" | "bgr" | "gray"`,
    `scale` (multiplies the 0..255 values, default 1/255), `mean` and `std` per channel (after scaling),
    `layout = "chw" | "hwc"`.

    Raises:
        UsageError: the description is missing or malformed, or gives another shape than the input's.
    """
    from PIL import Image

    try:
        text = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"expected a description of the preprocessing in {path}, but got: {error}") from error
    known = {"size", "color", "scale", "mean", "std", "layout"}
    if unknown := sorted(set(text) - known):
        raise UsageError(f"expected {sorted(known)} in {path}, but got {unknown[0]!r}")
    try:
        height, width = (int(extent) for extent in text["size"])
        color = {"rgb": "rgb", "bgr": "bgr", "gray": "gray"}[text.get("color", "rgb")]
        layout = {"chw": (2, 0, 1), "hwc": (0, 1, 2)}[text.get("layout", "chw")]
        scale = float(text.get("scale", 1 / 255))
        mean = np.asarray(text.get("mean", [0.0]), np.float64)
        std = np.asarray(text.get("std", [1.0]), np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"expected size, color, scale, mean, std and layout in {path}, but got: {error}") from error

    def prepare(file: Path) -> Array:
        try:
            with Image.open(file) as image:
                resized = image.convert("L" if color == "gray" else "RGB").resize((width, height))
        except OSError as error:
            raise UsageError(f"expected an image in {file}, but got: {error}") from error
        pixels = np.asarray(resized, np.float64).reshape(height, width, -1)
        if color == "bgr":
            pixels = pixels[:, :, ::-1]
        sample = (((pixels * scale) - mean) / std).astype(spec.dtype).transpose(layout)
        _require_fit(str(file), (1, *sample.shape), spec)
        return np.ascontiguousarray(sample)

    return prepare


def _require_fit(source: str, shape: tuple[int, ...], spec: InputSpec) -> None:
    fits = len(shape) == len(spec.shape) and all(
        extent > 0 and wanted in (None, extent) for extent, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        raise UsageError(
            f"expected shape {_text(spec.shape)} for input {spec.name!r}, but {source} gives {_text(shape)}"
        )


def _suggestion(spec: InputSpec) -> str:
    """A shape to paste: one sample, and letters where only the user knows."""
    free = iter("HWDEFG")
    return ",".join(
        str(extent) if extent is not None else "1" if axis == 0 else next(free, "N")
        for axis, extent in enumerate(spec.shape)
    )


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if extent is None else str(extent) for extent in shape) + "]"
