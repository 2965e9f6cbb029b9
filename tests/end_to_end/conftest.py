"""What all tests of whole runs share: latencies of few samples."""

from __future__ import annotations

from functools import partial

import pytest
from lissom_runtime import latency


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies of models are taken, but of as few samples as may be: no test here looks at them."""
    monkeypatch.setattr(latency, "Schedule", partial(latency.Schedule, max_pairs=40))
