# Two commands on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
# Both keep their own environment in .venv; it is made again only when what it was made from has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/lissom-installed
INSTALLED_DEV := $(VENV)/lissom-installed-dev
SOURCES := pyproject.toml runtime/CMakeLists.txt $(shell find runtime -name '*.cc' -o -name '*.h')
BENCH_SECONDS ?= 3
EMULATOR ?=
TORCH ?= torch>=2.6

.PHONY: demo test test-plugin-ep test-train test-sanitized lint bench clean

demo: $(INSTALLED)
	$(BIN)/lissom demo

test: lint
	$(BIN)/pytest -n 2 --dist loadgroup

# OpenVINO's plugin offers a device on Intel processors only. On others the same plugin runs in an emulator (20 minutes):
#   make test-plugin-ep EMULATOR='qemu-x86_64-static -cpu Haswell-noTSX'
test-plugin-ep: $(INSTALLED_DEV)
	$(EMULATOR) $(BIN)/python -m pytest -m plugin_ep tests/runtime/test_plugins.py \
	  tests/runtime/test_ops_plugin.py tests/end_to_end/test_check_inspect.py

# The tests of training: they need torch (0.9 GB), and are skipped by `make test` where it is not installed.
#   make test-train TORCH=torch==2.13.0
test-train: $(INSTALLED_DEV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' 'safetensors>=0.4'
	$(BIN)/pytest -n 2 tests/train tests/end_to_end/test_recover.py

# The tests of kernels and operators, malformed models included, on a library with AddressSanitizer and UBSan (5 minutes).
test-sanitized: $(INSTALLED_DEV)
	cmake -S runtime -B build/sanitized -DLISSOM_SANITIZE=ON -DCMAKE_CXX_FLAGS_RELEASE=-O1
	cmake --build build/sanitized --parallel 2
	LISSOM_LIBRARY=build/sanitized/liblissom_runtime.so ASAN_OPTIONS=detect_leaks=0 \
	  LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
	  $(BIN)/python -m pytest -m "native and not slow" tests/kernels tests/runtime

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	$(BIN)/python benchmarks/self_latency.py --seconds $(BENCH_SECONDS)

clean:
	rm -rf $(VENV) build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version)'
	$(PYTHON) -m venv $(VENV)

# Editable: the Python sources run in place, the kernels are built once and installed.
$(INSTALLED): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@$(BIN)/python -c 'import lissom_runtime; print(lissom_runtime.describe())'
	@touch $@

$(INSTALLED_DEV): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,openvino]'
	@$(BIN)/python -c 'import lissom_runtime; print(lissom_runtime.describe())'
	@touch $@ $(INSTALLED)
