# Everything happens in .venv and build/; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO := build/demo
SANITIZED := build/sanitized
# The package as it is installed, with bench/ and export/ inside, for the type checker.
TYPED := build/typed

# A newer file than the sources of the native core means that the installed package is up to date: with what it needs to
# run, and with the development tools as well.
RUNNABLE := $(VENV)/runnable
INSTALLED := $(VENV)/installed
CORE := CMakeLists.txt pyproject.toml constraints.txt $(shell find cmake csrc -type f)
CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.cu' -o -name '*.h')
# The CUDA kernels as tests run them where there is no GPU.
CUDA_ON_HOST := build/cuda/cuda_on_host
# What `make wheel-cuda` compiles for; all: every architecture that this nvcc knows.
CUDA_ARCHITECTURES ?= all
# Names a wheel for the systems that it runs on, manylinux_2_xx; tests/wheel.sh sees to it that no library is added.
PORTABLE := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir
TESTS ?= tests

.DEFAULT_GOAL := help

.PHONY: help
help:  ## These verbs.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: setup
setup: $(INSTALLED)  ## Create .venv, and build and install the package in it, editable, with the development tools.

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here: choose a Python >= 3.10 with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "DynamicSeg needs Python >= 3.10; choose one with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "this Python has no venv: apt install python3-venv (or the package for your version)" >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || { echo "this Python has no headers for C++ modules: apt install python3-dev (or the package for your version)" >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || { echo "no C++ compiler: apt install g++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# After a change of the sources it is there already.
HAS_TORCH := test -d $(VENV)/lib/python3.*/site-packages/torch

# PIP_CONSTRAINT also holds inside the environments that pip makes for builds.
$(RUNNABLE) $(INSTALLED): export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
$(RUNNABLE): $(VENV)/bin/python $(CORE)
	@$(HAS_TORCH) || echo "Installing PyTorch into $(VENV): a large download, minutes"
	$(PIP) install --quiet torch
	@echo "Building the native core and installing it: one to three minutes"
	$(PIP) install --quiet --editable .
	@touch $@

$(INSTALLED): $(VENV)/bin/python $(CORE)
	@$(HAS_TORCH) || echo "Installing PyTorch into $(VENV): a large download, minutes"
	$(PIP) install --quiet torch
	@echo "Building the native core, installing it and the tools: one to three minutes"
	$(PIP) install --quiet --editable '.[dev]'
	@touch $(RUNNABLE) $@

.PHONY: demo
demo: $(RUNNABLE)  ## Segment three photos that scikit-image carries, and say where the results are.
	@$(BIN)/python tests/demo_photos.py $(DEMO)/photos
	$(BIN)/dynamicseg segment $(DEMO)/photos -o $(DEMO) --verbose
	@echo "Label maps:"; ls -1 $(DEMO)/*_labels.png
	@echo "Overlays:"; ls -1 $(DEMO)/*_overlay.png

$(CUDA_ON_HOST)/built: $(INSTALLED) $(shell find tests/cuda_on_host -type f)
	@echo "Building the CUDA kernels for tests without a GPU: about a minute"
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/cuda_on_host/build.sh build/cuda
	@touch $@

.PHONY: cuda-on-host
cuda-on-host: $(CUDA_ON_HOST)/built  ## Build the CUDA kernels for tests without a GPU, which `make test` does by itself.

.PHONY: test
test: $(INSTALLED) $(CUDA_ON_HOST)/built  ## Run the tests.
	$(BIN)/pytest

.PHONY: lint
lint: $(INSTALLED)  ## Check format, style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@! grep -rnE '^(<{7}|>{7}) ' *.md bench csrc docs dynamicseg export tests || { echo "a merge has left its marks" >&2; exit 1; }
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	@rm -rf $(TYPED) && mkdir -p $(TYPED) && cp -r dynamicseg $(TYPED)/ && cp -r bench $(TYPED)/dynamicseg/bench && cp -r export $(TYPED)/dynamicseg/export
	MYPYPATH=$(TYPED) $(BIN)/mypy $(TYPED)/dynamicseg tests docs/hooks

.PHONY: format
format: $(INSTALLED)  ## Put sources into their format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

.PHONY: sanitize
sanitize: $(INSTALLED)  ## Run the kernel tests under the address and undefined-behaviour sanitizers.
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tests/sanitize.sh $(SANITIZED)

.PHONY: docs
docs: $(INSTALLED)  ## Build the documentation into build/docs; a warning is an error.
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation: build/docs/index.html"

.PHONY: bench
bench: $(INSTALLED)  ## Measure the fused loss against PyTorch on this machine.
	$(BIN)/dynamicseg bench loss

.PHONY: cuda-report
cuda-report: $(INSTALLED)  ## Registers, spills and shared memory of each CUDA kernel, into bench/results/; needs nvcc, no GPU.
	$(BIN)/python tests/cuda_resources.py bench/results/cuda-resources-sm_90.json

.PHONY: gpu-check
gpu-check:  ## Build, test, sanitize and measure on an NVIDIA GPU, offline, with PYTHON's own PyTorch; OPTIONS="--quick" and others.
	@PYTHONSAFEPATH= $(PYTHON) tests/gpu_check.py $(OPTIONS)

.PHONY: wheel
wheel: export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
wheel: $(INSTALLED)  ## Build the source distribution, and a wheel for the CPU from it, into dist/.
	@rm -rf build/wheel && mkdir -p dist && rm -f dist/*.whl
	$(BIN)/pyproject-build --outdir build/wheel --config-setting=cmake.define.DYNAMICSEG_CUDA=OFF
	@mv build/wheel/*.tar.gz dist/
	$(PORTABLE) dist build/wheel/*.whl

.PHONY: wheel-cuda
wheel-cuda: export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
wheel-cuda: $(INSTALLED)  ## Build a wheel with CUDA kernels into dist/cuda/; needs nvcc, no GPU.
	@command -v "$${CUDACXX:-nvcc}" >/dev/null || { echo "there is no nvcc: install the CUDA toolkit 12.4 or newer, put nvcc on PATH or set CUDACXX" >&2; exit 1; }
	@rm -rf build/wheel-cuda && mkdir -p dist/cuda && rm -f dist/cuda/*.whl
	$(BIN)/pyproject-build --wheel --outdir build/wheel-cuda --config-setting=cmake.define.DYNAMICSEG_CUDA=ON \
	  --config-setting=cmake.define.DYNAMICSEG_CUDA_ARCHITECTURES="$(CUDA_ARCHITECTURES)" \
	  --config-setting=wheel.build-tag="1cu$$("$${CUDACXX:-nvcc}" --version | sed -n 's/.*release \([0-9]*\)\.\([0-9]*\).*/\1\2/p')"
	$(PORTABLE) dist/cuda build/wheel-cuda/*.whl

# In build/wheel-test, from where the sources cannot be imported.
.PHONY: test-wheel
test-wheel: export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
test-wheel:  ## Run the tests against the wheel in dist/, installed; TESTS="tests/test_io.py ..." for some of them.
	@ls dist/dynamicseg-*.whl >/dev/null || { echo "there is no wheel in dist/: make wheel" >&2; exit 1; }
	@rm -rf build/wheel-test && mkdir -p build/wheel-test
	$(PYTHON) -m venv build/wheel-test/venv
	build/wheel-test/venv/bin/python -m pip install --quiet torch
	build/wheel-test/venv/bin/python -m pip install --quiet "$$(ls dist/dynamicseg-*.whl)[dev]"
	cd build/wheel-test && venv/bin/pytest --config-file=$(CURDIR)/pyproject.toml $(addprefix $(CURDIR)/,$(TESTS))

.PHONY: clean
clean:  ## Remove .venv and everything that was built.
	rm -rf $(VENV) build dist
