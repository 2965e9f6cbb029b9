"""The kernels on builds and processors that Python's tests do not run on: native/exact.cc, compiled with them.

The Python tests of kernels and operators run on a library with sanitizers by `make test-sanitized`.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SIMDE = Path("/usr/include/simde/x86/avx512.h")
AVX2 = ("-mavx2", "-mfma")
AVX512 = ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma")
BEST_OF = {"x86_64": ("avx2", "avx512"), "aarch64": ("neon",)}

pytestmark = [pytest.mark.native, pytest.mark.slow]


@dataclass(frozen=True)
class Build:
    """A way to build and run the tests of the kernels.

    Attributes:
        kernel_flags: of the compiler, for kernels.
        flags: of the compiler, for everything.
        link_flags: of the compiler when it links.
        isa_flags: by instruction set, for the files whose names end in it.
        must_run: instruction sets of which variants must have been run.
        compiler: its name.
        runner: the emulator, if any.
        machine: what it is built for.
        quick: fewer random cases.
        obstacle: says why it cannot be run here, or None.
    """

    kernel_flags: tuple[str, ...] = ("-O3",)
    flags: tuple[str, ...] = ()
    link_flags: tuple[str, ...] = ()
    isa_flags: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"avx2": AVX2, "avx512": AVX512})
    must_run: frozenset[str] = frozenset({"scalar"})
    compiler: str = "g++"
    runner: tuple[str, ...] = ()
    machine: str = platform.machine()
    quick: bool = False
    obstacle: Callable[[], str | None] = lambda: None

    def sources(self) -> list[Path]:
        """Kernels for this machine, and their tests."""
        foreign = tuple(
            f"{isa}.cc" for isas in BEST_OF.values() for isa in isas if isa not in BEST_OF.get(self.machine, ())
        )
        kernels = sorted(p for p in (ROOT / "runtime/kernels").rglob("*.cc") if not p.name.endswith(foreign))
        return kernels + sorted((ROOT / "tests/kernels/native").glob("*.cc"))

    def skip_reason(self) -> str | None:
        for program in (self.compiler, *self.runner):
            if shutil.which(program) is None:
                return f"{program} is not installed"
        return self.obstacle()


def _no_emulation() -> str | None:
    processor = Path("/proc/cpuinfo").read_text(encoding="utf-8") if platform.machine() == "x86_64" else ""
    if "avx2" not in processor:
        return "AVX-512 is emulated by AVX2, which this processor lacks"
    if "avx512f" in processor:
        return "this processor has AVX-512 itself"
    return None if SIMDE.exists() else f"SIMDe is not installed (Debian: libsimde-dev): there is no {SIMDE}"


SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1")
BUILDS = {
    "sanitized": Build(
        kernel_flags=("-O1",),
        flags=SANITIZERS,
        link_flags=SANITIZERS,
        obstacle=lambda: "emulated AVX-512 is run with sanitizers too" if _no_emulation() is None else None,
    ),
    "sanitized, emulated avx512": Build(
        kernel_flags=("-O1",),
        flags=(*SANITIZERS, "-DLISSOM_EMULATE_AVX512"),
        link_flags=SANITIZERS,
        isa_flags={"avx2": AVX2, "avx512": ("-mavx2", "-mfma", "-Wno-psabi")},
        must_run=frozenset({"scalar", "avx2", "avx512"}),
        obstacle=_no_emulation,
    ),
    "aarch64": Build(
        link_flags=("-static",),
        must_run=frozenset({"scalar", "neon"}),
        compiler="aarch64-linux-gnu-g++",
        runner=("qemu-aarch64-static",),
        machine="aarch64",
        quick=True,
    ),
}


def call(*command: str | Path) -> str:
    """What the command prints; it must succeed."""
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, f"{' '.join(map(str, command))}\n{completed.stdout}{completed.stderr}"
    return completed.stdout


def compile_program(build: Build, folder: Path) -> Path:
    def compile_source(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        own = build.kernel_flags if "runtime" in source.relative_to(ROOT).parts else ("-O1",)
        isa = build.isa_flags.get(source.stem, ())
        standard = ("-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra")
        call(build.compiler, *standard, *own, *build.flags, *isa, "-c", source, "-o", target)
        return target

    with ThreadPoolExecutor(max_workers=2) as pool:
        objects = list(pool.map(compile_source, build.sources()))
    assert len(set(objects)) == len(objects)
    program = folder / "exact"
    call(build.compiler, *build.link_flags, *objects, "-o", program)
    return program


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_kernels_are_exact_and_stay_inside_their_arrays_on_every_build(build: Build, tmp_path: Path) -> None:
    reason = build.skip_reason()
    if reason is not None:
        pytest.skip(reason)
    program = compile_program(build, tmp_path)
    printed = call(*build.runner, program, *(["--quick"] if build.quick else []))
    assert build.must_run <= set(re.findall(r"__(\w+): [1-9]\d* cases", printed)), printed
    # Proves that the guard pages of this build are fatal: without them the run above would show less.
    overrun = subprocess.run([*build.runner, program, "--overrun"], capture_output=True, text=True, check=False)
    assert overrun.returncode != 0 and "FAILED" not in overrun.stdout
