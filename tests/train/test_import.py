"""Who does not train needs no torch."""

from __future__ import annotations

import subprocess
import sys


def test_torch_is_not_imported_with_lissom_and_its_command_line() -> None:
    code = "import lissom, lissom.cli, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
