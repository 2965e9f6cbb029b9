"""The accuracy of `alds` without retraining, over the parameters removed.

    python benchmarks/alds_curve.py --cifar ../shared/data/cifar10-jpeg

On the CIFAR-10 (JPEG) ResNet-20, all test images, beside the drop that the paper's figure
5(a) shows for its own ResNet-20 (a network and data of its own: a shape to compare with, not
numbers). Needs `build/data` from `benchmarks/prepare_data.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lissom import pipeline
from lissom.canonical import canonicalise
from lissom.data import first_feeds, input_specs, open_dataset
from lissom.graph.load import load
from lissom.recipe import read_recipe
from lissom.search import Budget, Search
from lissom_runtime.accuracy import evaluate
from lissom_runtime.session import open_session

PUBLISHED_DROP = {
    0.099: -0.1,
    0.174: 0.4,
    0.237: 1.5,
    0.301: 3.4,
    0.357: 5.2,
    0.409: 7.4,
    0.453: 10.5,
    0.500: 25.2,
    0.575: 44.0,
    0.642: 55.0,
    0.718: 66.9,
}
"""Share of parameters removed -> points lost, read off the paper's figure by a third party."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cifar", type=Path, required=True)
    arguments = parser.parse_args()
    model = load(arguments.cifar / "resnet20.onnx")
    specs = input_specs(model.inputs)
    data = open_dataset("build/data/cifar10_test.npz", specs)
    canonical = canonicalise(model, first_feeds(specs, data, {}))
    study = pipeline.propose_menus(canonical, read_recipe("alds"), block=1, moments={})
    original = canonical.original.params
    search = Search(study, [Budget("params", original, lambda candidate: candidate.totals.params / original)])

    def top1(proto: bytes) -> float:
        return 100 * evaluate(open_session(proto), data.batches(50), "top1").value

    base = top1(model.to_proto().SerializeToString())
    print(f"baseline {base:.2f} % (n={data.size})")
    print("| parameters removed % | MACs removed % | top-1 % | drop | published drop |")
    print("|---|---|---|---|---|")
    for removed, published in PUBLISHED_DROP.items():
        candidate = search.candidate(1 - removed).candidate
        totals, before = candidate.totals, canonical.original
        score = top1(candidate.model.to_proto().SerializeToString())
        print(
            f"| {100 * (1 - totals.params / before.params):.1f} | {100 * (1 - totals.macs / before.macs):.1f} "
            f"| {score:.2f} | {base - score:.1f} | {published} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
