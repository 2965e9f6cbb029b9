"""Runs the kernel library on several versions of ONNX Runtime, each in an environment of its own.

    python benchmarks/compatibility.py [VERSION ...] [--folder FOLDER] [-o docs/compatibility.md]

One file a sparse operator is written here, with inputs of small integers and the outputs of the dense layer. Each
version opens every file with the library and without it (through the function bodies) and compares. Attacks are files
whose packed weight is malformed. The environments are kept in FOLDER and used again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from lissom_runtime import get_library_path
from lissom_runtime.contract import CHAIN_STAGES, WINNER_MASK, chain_signatures, signatures
from lissom_runtime.target import Machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from runtime.chain_models import Chain, chain_model, dense_chain_model
from runtime.mask_models import mask_model
from runtime.ops_models import (
    ROUNDED,
    Array,
    Node,
    dense_model,
    feeds,
    integers,
    session,
    sparse_model,
    sparse_weight,
)

VERSIONS = ("1.18.1", "1.20.1", "1.23.2", "1.32.0")
NUMPY = {"1.18.1": "numpy<2"}
"""What a version was built for, where that is not the newest NumPy."""

HEADER = """# Compatibility

The kernel library on several versions of ONNX Runtime, each in its own environment; this page is written by
`python benchmarks/compatibility.py`. A file is one operator, of a layer, a chain of layers or a mask, with its function
body; "native" is with the library registered, "portable" without it. The numbers count files whose output equals that
of the dense layers (of the mask's body, where this page was written) bit by bit (for hard-swish and SiLU: within
2·10⁻⁶ of the largest), and files with a malformed packed weight that are refused in a sentence.

The library declares version 18 of ONNX Runtime's C interface and is not linked with ONNX Runtime. A version older than
1.18 refuses to register it, in one sentence; models run there through their function bodies.
"""

CHILD = """
import json, sys
from pathlib import Path
import numpy, onnxruntime
folder, library = Path(sys.argv[1]), sys.argv[2]
counts = {"numpy": numpy.__version__, "native": 0, "portable": 0, "threads": 0, "refused": 0, "wrong": []}
def opened(path, native, threads=1):
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, threads
    if native:
        options.register_custom_ops_library(library)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
for path in sorted(folder.glob("good_*.onnx")):
    arrays = dict(numpy.load(path.with_suffix(".npz")))
    expected, tolerance = arrays.pop("expected"), float(arrays.pop("tolerance"))
    for key, native, threads in (("native", True, 1), ("threads", True, 2), ("portable", False, 1)):
        try:
            (y,) = opened(path, native, threads).run(None, arrays)
            bound = tolerance * float(numpy.abs(expected).max())
            good = y.shape == expected.shape and numpy.allclose(y, expected, rtol=0, atol=bound)
            why = "another output"
        except Exception as error:
            good, why = False, str(error)
        counts[key] += int(good)
        if not good:
            counts["wrong"].append(f"{path.stem}, {key}: {why}")
for path in sorted(folder.glob("bad_*.onnx")):
    try:
        opened(path, True)
        counts["wrong"].append(f"{path.stem}: accepted")
    except Exception as error:
        counts["refused"] += int("expected" in str(error))
print(json.dumps(counts))
"""


def main() -> None:
    """Writes the page, and prints what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", default=list(VERSIONS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "lissom-compatibility")
    parser.add_argument("-o", "--output", type=Path, default=Path("docs/compatibility.md"))
    arguments = parser.parse_args()
    models = arguments.folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    good, bad = write_models(models)
    rows = []
    for version in arguments.versions:
        python = environment(arguments.folder / f"onnxruntime-{version}", version)
        counts = run_child(python, models)
        print(*counts["wrong"], sep="\n", end="\n" if counts["wrong"] else "")
        rows.append(row(version, counts, good, bad))
        print(rows[-1], flush=True)
    arguments.output.write_text(page(rows), encoding="utf-8")


def write_models(folder: Path) -> tuple[int, int]:
    """Writes the files; how many are good, how many are attacks."""
    good = 0
    for name, model, dense, given, exact in [*layers(), *chains(), mask()]:
        (expected,) = session(dense).run(None, given)
        onnx.save(model, folder / f"good_{name}.onnx")
        np.savez(folder / f"good_{name}.npz", expected=expected, tolerance=0.0 if exact else 2e-6, **given)
        good += 1
    attacks = list(malformed())
    for index, model in enumerate(attacks):
        onnx.save(model, folder / f"bad_{index}.onnx")
    return good, len(attacks)


Case = tuple[str, onnx.ModelProto, onnx.ModelProto, dict[str, Array], bool]
"""Name of an operator, a model of it, the dense one, inputs, and whether the two must give the same bits."""


def layers() -> Iterator[Case]:
    """A case for each operator of one layer."""
    for signature in signatures():
        conv = signature.operator == "SparseConv"
        shape = (16, 4, 3, 3) if conv else (32, 48)
        node = Node(
            sparse_weight(3, *shape, block=4, orientation=signature.orientation),
            4,
            signature.orientation,
            signature.columns,
            signature.activation,
            signature.residual,
            pads=(1, 1, 1, 1),
        )
        given = feeds(node, integers(1, *((2, 4, 24, 25) if conv else (9, 48))))
        yield signature.name, sparse_model(node), dense_model(node), given, signature.activation not in ROUNDED


def chains() -> Iterator[Case]:
    """A case for each operator of a chain of layers."""
    for signature in chain_signatures():
        counts = [24]
        for stage in CHAIN_STAGES[signature.shape]:
            counts.append(counts[-1] if stage == "depthwise" else counts[-1] + 8)
        exact = not {signature.inner, signature.last} & ROUNDED
        wide = {} if exact else dict.fromkeys(signature.stages, (-1e7, 1e7))  # no cut hides how large a sum was
        chain = Chain(signature, tuple(counts), block=4, limits=wide)
        yield signature.name, chain_model(chain), dense_chain_model(chain), chain.feeds(chain.x(2, 24, 25)), exact


def mask() -> Case:
    """The case of the operator WinnerMask; what its function body gives in this version is what all must give."""
    model = mask_model(0.3, 7)
    return WINNER_MASK.name, model, model, {"x": integers(1, 2, 4, 24, 25)}, True


def malformed() -> Iterator[onnx.ModelProto]:
    """Models whose packed weight is none."""
    node = Node(sparse_weight(0, 16, 8, 3, 3, block=4), 4, columns="u16", pads=(1, 1, 1, 1))
    row_ptr, columns, values = node.packed.row_ptr, node.packed.columns, node.packed.values
    for replaced in (
        {"row_ptr": row_ptr[::-1].copy()},
        {"row_ptr": row_ptr[:-1]},
        {"columns": np.full_like(columns, 65535)},
        {"columns": columns[::-1].copy()},
        {"values": values[:-1]},
        {"shape": np.array([16, -8, 3, 3], np.int64)},
        {"shape": np.array([2**62, 8, 3, 3], np.int64)},
        {"bias": np.zeros(15, np.float32)},
        {"values": None},
    ):
        yield sparse_model(node, body=False, replace=replaced)


def environment(folder: Path, version: str) -> Path:
    """The Python of an environment with this version of ONNX Runtime."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)  # noqa: S603  # no part comes from outside
        packages = [f"onnxruntime=={version}", NUMPY.get(version, "numpy")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)  # noqa: S603  # as above
    return python


def run_child(python: Path, models: Path) -> dict[str, Any]:
    """What one version counts."""
    command = [python, "-c", CHILD, models, get_library_path()]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603  # as above
    counts: dict[str, Any] = json.loads(finished.stdout)
    return counts


def row(version: str, counts: dict[str, Any], good: int, bad: int) -> str:
    """One line of the table."""
    exact = " | ".join(f"{counts[key]}/{good}" for key in ("native", "threads", "portable"))
    return f"| {version} | {counts['numpy']} | {exact} | {counts['refused']}/{bad} |"


def page(rows: list[str]) -> str:
    """The whole page."""
    machine = Machine.here()
    python = ".".join(map(str, sys.version_info[:2]))
    table = [
        "| ONNX Runtime | NumPy | native, 1 thread | native, 2 threads | portable | refused |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([HEADER, *table, *rows, "", f"{machine.cpu}, Python {python}.", ""])


if __name__ == "__main__":
    main()
