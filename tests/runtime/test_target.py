"""Facts about a machine, read from descriptions of several."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from lissom_runtime.target import Machine

X86 = """processor\t: 0
model name\t: A Processor @ 2.80GHz
flags\t\t: fpu sse2 avx2 avx512f

processor\t: 1
flags\t\t: none
"""
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n"


@pytest.mark.parametrize(
    ("text", "isa"), [(X86, {"fpu", "sse2", "avx2", "avx512f"}), (ARM, {"fp", "asimd"}), ("", set())]
)
def test_the_first_processors_flags_are_read(tmp_path: Path, text: str, isa: set[str]) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    machine = Machine.here(path)
    assert machine.isa == isa
    assert machine.cpu == ("A Processor @ 2.80GHz" if text == X86 else machine.cpu)
    assert machine.cpu


def test_a_system_without_the_file_still_has_a_description(tmp_path: Path) -> None:
    machine = Machine.here(tmp_path / "absent")
    assert machine.cpu
    assert machine.isa == frozenset()
    assert machine.cores >= 1


@pytest.mark.parametrize(
    ("architecture", "isa", "block"),
    [
        ("x86_64", {"avx2", "avx512f"}, 16),
        ("x86_64", {"avx2"}, 8),
        ("AMD64", set(), 8),
        ("aarch64", {"asimd"}, 4),
    ],
)
def test_the_channel_block_is_the_width_of_the_vectors(architecture: str, isa: set[str], block: int) -> None:
    assert replace(Machine.here(), architecture=architecture, isa=frozenset(isa)).block() == block


def test_the_facts_are_json() -> None:
    facts = json.loads(json.dumps(Machine.here().to_json()))
    assert set(facts) == {"cpu", "architecture", "isa", "cores", "system", "onnxruntime"}
    assert facts["isa"] == sorted(facts["isa"])
