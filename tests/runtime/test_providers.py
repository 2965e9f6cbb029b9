"""The words of a command line as a provider request."""

from pathlib import Path

import pytest
from lissom_runtime.errors import UsageError
from lissom_runtime.providers import ALIASES, CPU, ProviderRequest, available, full_name

CUDA, OPENVINO = "CUDAExecutionProvider", "OpenVINOExecutionProvider"


@pytest.mark.parametrize("alias", ALIASES)
def test_aliases_in_any_case_and_full_names_mean_the_same(alias: str) -> None:
    full = ALIASES[alias]
    assert full_name(alias) == full_name(alias.upper()) == full_name(full) == full


def test_nothing_asked_for_is_the_cpu_with_one_thread() -> None:
    assert ProviderRequest.parse() == ProviderRequest() == ProviderRequest(names=(CPU,), threads=1)


def test_order_is_kept_and_repeats_are_dropped() -> None:
    assert ProviderRequest.parse(["openvino", "cpu", OPENVINO]).names == (OPENVINO, CPU)


def test_options_belong_to_the_first_provider_or_to_the_named_one() -> None:
    request = ProviderRequest.parse(["cuda", "openvino"], ["device_id=1", 'openvino:load_config={"CPU": {"A": "b=c"}}'])
    assert request.options == {CUDA: {"device_id": "1"}, OPENVINO: {"load_config": '{"CPU": {"A": "b=c"}}'}}


def test_libraries_are_names_and_paths() -> None:
    request = ProviderRequest.parse(libraries=["mine=/a/b=c.so"], custom_op_libraries=["ops.so"])
    assert request.libraries == {"mine": Path("/a/b=c.so")}
    assert request.custom_op_libraries == (Path("ops.so"),)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"options": ["fast"]}, "expected KEY=VALUE or EP:KEY=VALUE, got 'fast'"),
        ({"options": ["=1"]}, "expected KEY=VALUE or EP:KEY=VALUE, got '=1'"),
        ({"options": ["cuda:a=1"]}, f"expected an option of {CPU}, got 'cuda:a=1' for {CUDA}"),
        ({"libraries": ["path.so"]}, "expected NAME=PATH, got 'path.so'"),
        ({"threads": 0}, "expected at least 1 thread, got 0"),
    ],
)
def test_malformed_words_are_quoted_back(arguments: dict[str, list[str]], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ProviderRequest.parse(**arguments)


def test_the_cpu_is_always_available() -> None:
    assert CPU in available()
