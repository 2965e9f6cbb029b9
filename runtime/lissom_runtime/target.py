"""Facts about the machine that runs a model, for reports and for defaults."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnxruntime

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """A processor and the software on it.

    Attributes:
        cpu: marketing name of the processor.
        architecture: as the operating system calls it ("x86_64", "aarch64").
        isa: instruction-set flags in the kernel's spelling ("avx2", "avx512f", "asimd"); empty where it tells none.
        cores: logical processors that this process may use.
        system: operating system and its release.
        onnxruntime: version.
    """

    cpu: str
    architecture: str
    isa: frozenset[str]
    cores: int
    system: str
    onnxruntime: str

    @classmethod
    def here(cls, cpuinfo: Path = CPUINFO) -> Machine:
        """The machine this process runs on; `cpuinfo` is Linux's file of that name."""
        facts = _cpu_facts(cpuinfo.read_text(encoding="utf-8", errors="replace")) if cpuinfo.exists() else {}
        flags = facts.get("flags", facts.get("Features", ""))
        return cls(
            cpu=facts.get("model name") or platform.processor() or platform.machine(),
            architecture=platform.machine(),
            isa=frozenset(flags.split()),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            system=f"{platform.system()} {platform.release()}",
            onnxruntime=onnxruntime.__version__,
        )

    def block(self) -> int:
        """Channels (per group) come in multiples of this on onnxruntime's CPU provider, elements.

        On x86 it is the block width of onnxruntime's NCHWc convolutions for float32: 16 with AVX-512F, 8 with narrower
        vectors. Elsewhere 4, the floats of a 128-bit vector, is a guess that a measurement should replace.
        """
        if "avx512f" in self.isa:
            return 16
        return 8 if self.architecture.lower() in {"x86_64", "amd64"} else 4

    def to_json(self) -> dict[str, Any]:
        """All facts, for a report; `isa` is sorted."""
        return {**asdict(self), "isa": sorted(self.isa)}


def _cpu_facts(text: str) -> dict[str, str]:
    """Key -> value of the first processor that a /proc/cpuinfo describes."""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}
