# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SETUP  := $(PYTHON) images/setup
CACHE  := $(shell $(PYTHON) images/setup cache)
# The Python whose PyTorch the benchmarks compare with.
TORCH  ?= /usr/bin/python3
# Compiled once at installation: else each process of a shell that forbids it (PYTHONDONTWRITEBYTECODE) compiles TensorFlow, 7 s.
UV     := $(BIN)/uv pip install --system-certs --quiet --compile-bytecode --python $(BIN)/python
# Exact versions and hashes; `make lock` writes them.
LOCKED := $(UV) --require-hashes
# Two files at a time, in the order of their names: a file's tests share fixtures.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
# The machine's certificates: behind a proxy that signs for itself, the lists that pip and uv bring refuse every package.
CERTIFICATES := $(wildcard /etc/ssl/certs/ca-certificates.crt)
ifneq ($(CERTIFICATES),)
export PIP_CERT ?= $(CERTIFICATES)
endif
# When the command was given: what it ran for is printed at its end.
export RESNEXT_STARTED := $(shell date +%s)
export PATH := $(CACHE)/bin:$(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo try test test-unit test-e2e test-faults test-soak bench bench-operator check format generate docs lock image-cuda down clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 16

demo: $(VENV)/.operator ## Bring up a cluster here and train a ResNeXt on it with kubectl apply
	@$(SETUP) cluster images
	@$(BIN)/python hack/demo.py

try: $(VENV)/.trainer ## Train the sample without a cluster: two ranks under mpirun on this machine
	@$(BIN)/python hack/local_demo.py

test: $(VENV)/.trainer $(VENV)/.dev ## Everything: checks, unit, golden, chart and end-to-end tests
	@$(SETUP) clients
	@mkdir -p build
	@$(MAKE) --no-print-directory check >build/check.log 2>&1 & check=$$!; \
	status=0; $(SETUP) ssh timm kwok cluster images || status=$$?; \
	wait $$check || status=$$?; cat build/check.log; exit $$status
	@# Tests that need the whole cluster wait most of their time: they run next to those that need none.
	@RESNEXT_SOAK_SECONDS=180 $(BIN)/pytest -s -m exclusive tests/e2e >build/exclusive.log 2>&1 & exclusive=$$!; \
	status=0; $(PYTEST) tests/parity tests/unit tests/golden || status=$$?; \
	wait $$exclusive || status=$$?; cat build/exclusive.log; \
	$(PYTEST) -m "not exclusive" tests/e2e || status=$$?; exit $$status

test-unit: $(VENV)/.trainer $(VENV)/.dev ## The tests that need no cluster and little time
	@$(SETUP) clients ssh
	@$(PYTEST) tests/unit tests/golden -m "not slow"

test-e2e: $(VENV)/.dev ## The end-to-end tests on the kind cluster (or on KUBECONFIG)
	@$(SETUP) kwok cluster images
	@status=0; $(BIN)/pytest -m exclusive tests/e2e || status=$$?; \
	$(PYTEST) -m "not exclusive" tests/e2e || status=$$?; exit $$status

test-faults: $(VENV)/.dev ## A fault at every write of the operator, where `make test` takes a sample; lost nodes, ranks that stand still (25 minutes)
	@$(SETUP) kwok cluster images
	@RESNEXT_FAULTS=all $(BIN)/pytest -s tests/e2e/test_faults.py tests/e2e/test_nodes.py tests/e2e/test_stalled.py

test-soak: $(VENV)/.dev ## Odd objects of one tenant next to another's ordinary trainings (30 minutes; RESNEXT_SOAK_SEED=N for others)
	@$(SETUP) kwok cluster images
	@RESNEXT_SOAK_SECONDS=1800 $(BIN)/pytest -s tests/e2e/test_soak.py

bench-operator: $(VENV)/.dev ## 100 and 1,000 trainings at a time, beside the MPI Operator's figures (about 15 minutes)
	@$(SETUP) kwok cluster
	@$(BIN)/python -m benchmarks.operator --json build/bench/operator.json

bench: $(VENV)/.trainer ## Speed and memory on this machine's CPUs (BENCH=input for one, TORCH=PYTHON for another PyTorch)
	@$(SETUP) torch turbojpeg
	@$(BIN)/python -m benchmarks --torch $(TORCH) --folder $(CACHE)/bench $(BENCH)

check: $(VENV)/.dev ## Format, lint, types, import contracts, generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(SETUP) clients
	@$(BIN)/python -m hack.codegen --check
	@$(BIN)/codespell
	@$(MAKE) --no-print-directory docs

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

generate: $(VENV)/.dev ## Regenerate CRD, install.yaml, dashboards, reference
	@$(SETUP) clients
	@$(BIN)/python -m hack.codegen

docs: $(VENV)/.dev ## Build the documentation site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lock: $(VENV)/.dev ## Lock the packages of every extra and dependency group (ARGS=--upgrade for newer versions)
	@$(BIN)/python -m hack.lock $(ARGS)

image-cuda: ## Build the trainer's CUDA image and prove that its libraries load (large: ~15 GB of disk)
	@$(SETUP) cuda

down: ## Delete the cluster; images and caches stay
	@$(SETUP) down

clean: ## Delete cluster, images, caches and the virtual environment
	@$(SETUP) clean
	@rm -rf $(VENV)

# The virtual environment grows with what is asked of it: the operator's side first, then TensorFlow, then the tools.
$(VENV)/.operator: pyproject.toml requirements/build.txt requirements/operator.txt
	@echo "· Python packages of the operator"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { apt-get install -y python3-venv >/dev/null && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/build.txt
	@$(LOCKED) --requirement requirements/operator.txt
	@$(UV) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.trainer: $(VENV)/.operator $(addprefix requirements/,trainer.txt native.txt source.txt) images/trainer/build-wheels
	@echo "· TensorFlow, Horovod and DALI (Horovod is compiled once, about 3 minutes)"
	@$(LOCKED) --requirement requirements/trainer.txt
	@$(SETUP) wheels --python $(BIN)/python
	@touch $@

$(VENV)/.dev: $(VENV)/.operator $(addprefix requirements/,onnx.txt dev.txt docs.txt)
	@echo "· Tools for tests and checks"
	@$(LOCKED) $(addprefix --requirement requirements/,onnx.txt dev.txt docs.txt)
	@touch $@
