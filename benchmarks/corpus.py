"""What lissom's lossless steps make of the ONNX backend test corpus, as the tables of the documentation.

The families, the verdicts and the steps are those of `tests/end_to_end/corpus.py`; the tests hold floors for the
counts. It takes about two minutes of one core; `--without-light` leaves the nine networks out.

    python benchmarks/corpus.py [--without-light]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from end_to_end.corpus import FOLDERS, NODE_SHARDS, Case, folder_cases, frozen, judge, node_cases, table
from end_to_end.light import NAMES, light_case


def cases(with_light: bool) -> Iterator[Case]:
    """The whole corpus, one family after the other; one model at a time is in memory."""
    for family in FOLDERS:
        yield from folder_cases(family)
    for shard in range(NODE_SHARDS):
        yield from node_cases(shard)
        yield from frozen(node_cases(shard))
    for name in NAMES if with_light else ():
        yield light_case(name)


def main() -> int:
    """Judges every model and prints the tables; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-light", action="store_true")
    with_light = not parser.parse_args().without_light
    with tempfile.TemporaryDirectory() as folder:
        verdicts = [judge(case, Path(folder)) for case in cases(with_light)]
    print(table(verdicts))
    return int(any(verdict.status == "failed" for verdict in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
