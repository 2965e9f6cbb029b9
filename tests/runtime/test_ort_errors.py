"""onnxruntime's messages, stripped of what only its developers need."""

import pytest
from lissom_runtime.errors import LoadError, UsageError
from lissom_runtime.ort_errors import plain, reported


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("[ONNXRuntimeError] : 1 : FAIL : Node (a) Op (MatMul) is bad.", "Node (a) Op (MatMul) is bad"),
        (
            "[ONNXRuntimeError] : 6 : FAIL : /src/a.cc:12 void onnxruntime::B::Load(int) No factory\nhere",
            "No factory here",
        ),
        ("plain words: with a colon", "plain words: with a colon"),
    ],
)
def test_noise_is_removed_and_words_are_kept(raw: str, expected: str) -> None:
    assert plain(RuntimeError(raw)) == expected


def test_foreign_errors_are_reported_and_our_own_pass() -> None:
    with pytest.raises(LoadError, match=r"^expected a thing, got: broken$"), reported("expected a thing"):
        raise RuntimeError("broken")
    with pytest.raises(UsageError, match=r"^mine$"), reported("expected a thing"):
        raise UsageError("mine")
