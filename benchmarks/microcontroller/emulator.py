"""Compiles the program for a Cortex-M4, and counts what it executes in QEMU.

With `-icount shift=0` each instruction takes one nanosecond of QEMU's clock, by which SysTick ticks at 25 MHz. So what
is counted is instructions executed, each as one, those of an IT block that are skipped as well, in steps of 40. It is
not cycles: on the processor a load takes two unless it follows another, a taken branch two to four, and flash adds
waits. The count of the same image is the same each time. Before each network the program runs loops of known length;
where they are not counted as long as they are, that is an error.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lissom_runtime.errors import LoadError

HERE = Path(__file__).parent

COMPILER, EMULATOR = "arm-none-eabi-gcc", "qemu-system-arm"

SOURCES = ("main.c", "board.c", "network.c", "kernels.c")

OPTIONS = (
    *("-std=c99", "-O2", "-mcpu=cortex-m4", "-mthumb", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-fno-tree-loop-distribute-patterns", "-nostdlib"),  # no call of a library, asked for or not
)

MACHINE = (
    *("-M", "mps2-an386", "-icount", "shift=0", "-display", "none", "-serial", "none", "-monitor", "none"),
    *("-chardev", "stdio,id=console", "-semihosting-config", "enable=on,target=native,chardev=console"),
)

TICK = 40
"""Instructions of a tick of SysTick."""

IMAGE_AT = 0x00100000
"""Where board.ld expects the image of the network."""

LONGEST = 120
"""Seconds that a run may take."""


@dataclass(frozen=True)
class Run:
    """What the program printed.

    Attributes:
        loops: turns of a loop of two instructions → instructions counted.
        layers: instructions of each layer.
        total: instructions of all layers.
        outputs: the network's output.
    """

    loops: dict[int, int]
    layers: list[int]
    total: int
    outputs: list[int]


def missing() -> list[str]:
    """The programs that are needed and not installed."""
    return [program for program in (COMPILER, EMULATOR) if shutil.which(program) is None]


def versions() -> list[str]:
    """The first line of what each program says of itself.

    Raises:
        LoadError: one of them is not installed.
    """
    return [_call([_found(program), "--version"]).splitlines()[0] for program in (COMPILER, EMULATOR)]


def compile_program(folder: Path) -> Path:
    """The program, in `folder`; it runs any image.

    Raises:
        LoadError: there is no cross compiler, or it rejects the sources.
    """
    program = folder / "microcontroller.elf"
    sources = [str(HERE / source) for source in SOURCES]
    _call([_found(COMPILER), *OPTIONS, "-T", str(HERE / "board.ld"), *sources, "-lgcc", "-o", str(program)])
    return program


def run(program: Path, image: bytes) -> Run:
    """Runs the program once on an image of a network.

    Args:
        program: of `compile_program`; the image is written beside it.
        image: of `image_of`.

    Raises:
        LoadError: there is no emulator, the program fails, or known loops are not counted as long as they are.
    """
    beside = program.with_suffix(".image")
    beside.write_bytes(image)
    loader = f"loader,file={beside},addr={IMAGE_AT:#x},force-raw=on"
    printed = _call([_found(EMULATOR), *MACHINE, "-kernel", str(program), "-device", loader])
    found = _read(printed)
    for turns, counted in found.loops.items():
        if abs(counted - 2 * turns) > TICK:
            raise LoadError(f"expected {2 * turns} instructions for a loop of {turns} turns, but counted {counted}")
    return found


def _read(printed: str) -> Run:
    """The lines that main.c describes."""
    ticks = {name: re.findall(rf"^{name} (\d+) (\d+)$", printed, re.MULTILINE) for name in ("loop", "layer", "total")}
    outputs = [int(value) for value in re.findall(r"^output (-?\d+)$", printed, re.MULTILINE)]
    if not (ticks["loop"] and ticks["total"] and outputs):
        raise LoadError(f"expected counts and outputs from the program, but got {printed!r}")
    counts = {name: {int(which): TICK * int(many) for which, many in pairs} for name, pairs in ticks.items()}
    layers = [counts["layer"][number] for number in sorted(counts["layer"])]
    return Run(counts["loop"], layers, sum(counts["total"].values()), outputs)


def _found(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise LoadError(f"expected {program} (Debian: gcc-arm-none-eabi, qemu-system-arm), but it is not installed")
    return path


def _call(command: Sequence[str]) -> str:
    """What a command prints."""
    done = subprocess.run(  # noqa: S603  # no shell, own words
        command, capture_output=True, text=True, check=False, timeout=LONGEST, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise LoadError(
            f"expected {Path(command[0]).name} to succeed, but it said: {(done.stderr or done.stdout).strip()}"
        )
    return done.stdout
