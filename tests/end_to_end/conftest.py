"""What all tests of whole runs share: latencies of few samples, and torch on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
from lissom_runtime import latency


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies of models are taken, but of as few samples as may be: no test here looks at them."""
    monkeypatch.setattr(latency, "Schedule", partial(latency.Schedule, max_pairs=40))


@pytest.fixture
def trains() -> Iterator[None]:
    """Skips without torch; sums are in the same order in every run."""
    torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'lissom[recover]')")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
