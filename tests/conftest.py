"""What all tests share: one hypothesis profile, and the plugin execution provider."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import settings
from lissom_runtime.errors import LoadError
from lissom_runtime.providers import ProviderRequest, configure
from onnxruntime import SessionOptions

settings.register_profile("lissom", derandomize=True, deadline=None)
settings.load_profile("lissom")


@pytest.fixture(scope="session")
def openvino() -> None:
    """Skips where OpenVINO's plugin is not installed or takes no processor of this kind."""
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        pytest.skip("OpenVINO's plugin is not installed (pip install 'lissom[openvino]')")
    try:
        configure(SessionOptions(), ProviderRequest.parse(["openvino"]))
    except LoadError as error:
        pytest.skip(str(error))
