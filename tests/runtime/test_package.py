"""The package as a whole."""

import subprocess
import sys

import lissom_runtime


def test_public_names_exist_and_are_listed_in_order() -> None:
    assert lissom_runtime.__all__ == sorted(lissom_runtime.__all__)
    assert all(hasattr(lissom_runtime, name) for name in lissom_runtime.__all__)


def test_only_numpy_and_onnxruntime_are_needed() -> None:
    code = (
        "import sys, numpy, onnxruntime; before = set(sys.modules); import lissom_runtime;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(result.stdout.split()) - {"numpy", "onnxruntime"} == {"lissom_runtime"}
