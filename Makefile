# The main targets are `make demo` and `make test`; `make help` lists all targets.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SETUP  := $(PYTHON) hack/devenv
CACHE  := $(shell $(PYTHON) hack/devenv cache)
# Python interpreter with the PyTorch that the benchmarks compare with.
TORCH  ?= /usr/bin/python3
# Bytecode is compiled at installation: with PYTHONDONTWRITEBYTECODE set, each process would compile TensorFlow again (7 s).
UV     := $(BIN)/uv pip install --system-certs --quiet --compile-bytecode --python $(BIN)/python
# Exact versions and hashes; `make lock` writes them.
LOCKED := $(UV) --require-hashes
# Two workers, one test file each at a time, because the tests of a file share fixtures.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
# pip uses the system's certificate authorities, which may include that of a TLS proxy; its bundled ones do not.
CERTIFICATES := $(wildcard /etc/ssl/certs/ca-certificates.crt)
ifneq ($(CERTIFICATES),)
export PIP_CERT ?= $(CERTIFICATES)
endif
# Start time of make, from which the demo computes the total duration.
export RESNEXT_STARTED := $(shell date +%s)
export PATH := $(CACHE)/bin:$(CURDIR)/$(BIN):$(PATH)

.PHONY: help demo try test test-unit test-e2e test-faults test-soak bench bench-operator check format generate install-yaml docs lock image-cuda down clean

help: ## List all targets
	@awk -F ':.*## ' '/^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Trying it

demo: $(VENV)/.operator ## Create a local kind cluster and train a ResNeXt on it
	@$(SETUP) cluster images
	@$(BIN)/python -m hack.demo

try: $(VENV)/.trainer ## Train the digits sample without a cluster, as two ranks under mpirun
	@$(BIN)/python -m hack.local_demo

##@ Tests

test: $(VENV)/.trainer $(VENV)/.dev ## Run all checks and all unit, golden, parity and end-to-end tests
	@$(SETUP) clients prometheus
	@mkdir -p build
	@$(MAKE) --no-print-directory check >build/check.log 2>&1 & check=$$!; \
	status=0; $(SETUP) ssh timm kwok cluster images || status=$$?; \
	wait $$check || status=$$?; cat build/check.log; exit $$status
	@# Tests that need the whole cluster mostly wait, so they run in parallel with tests that need no cluster.
	@RESNEXT_SOAK_SECONDS=180 $(BIN)/pytest -s -m exclusive tests/e2e >build/exclusive.log 2>&1 & exclusive=$$!; \
	status=0; $(PYTEST) tests/parity tests/unit tests/golden || status=$$?; \
	wait $$exclusive || status=$$?; cat build/exclusive.log; \
	$(PYTEST) -m "not exclusive" tests/e2e || status=$$?; exit $$status

test-unit: $(VENV)/.trainer $(VENV)/.dev ## Run the unit and golden tests that need no cluster and are not slow
	@$(SETUP) clients ssh prometheus
	@$(PYTEST) tests/unit tests/golden -m "not slow"

test-e2e: $(VENV)/.dev ## Run the end-to-end tests on the kind cluster
	@$(SETUP) kwok cluster images
	@status=0; $(BIN)/pytest -m exclusive tests/e2e || status=$$?; \
	$(PYTEST) -m "not exclusive" tests/e2e || status=$$?; exit $$status

test-faults: $(VENV)/.dev ## Inject a fault at every API write of the operator; test lost nodes and stalled ranks (about 20 minutes; `make test` runs a sample)
	@$(SETUP) kwok cluster images
	@RESNEXT_FAULTS=all $(BIN)/pytest -s tests/e2e/test_faults.py tests/e2e/test_nodes.py tests/e2e/test_stalled.py

test-soak: $(VENV)/.dev ## Soak test: one tenant creates malformed objects while another runs trainings (30 minutes; RESNEXT_SOAK_SEED=N)
	@$(SETUP) kwok cluster images
	@RESNEXT_SOAK_SECONDS=1800 $(BIN)/pytest -s tests/e2e/test_soak.py

##@ Benchmarks

bench: $(VENV)/.trainer ## Benchmark the trainer on this machine's CPUs (BENCH=input selects one, TORCH=PYTHON another PyTorch)
	@$(SETUP) torch turbojpeg
	@$(BIN)/python -m benchmarks --torch $(TORCH) --folder $(CACHE)/bench $(BENCH)

bench-operator: $(VENV)/.dev ## Benchmark the operator with 100 and 1,000 concurrent trainings, compared with the MPI Operator (about 15 minutes)
	@$(SETUP) kwok cluster
	@$(BIN)/python -m benchmarks.operator --json build/bench/operator.json

##@ Development

check: $(VENV)/.dev ## Check formatting, lint, types, import contracts and generated files
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(SETUP) clients
	@$(BIN)/python -m hack.codegen --check
	@$(BIN)/codespell --builtin=clear,rare,en-GB_to_en-US --dictionary=- --dictionary=hack/discouraged-words.txt
	@$(MAKE) --no-print-directory docs

format: $(VENV)/.dev ## Format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

generate: $(VENV)/.dev ## Regenerate CRD, manifests, values schema, dashboards and reference
	@$(SETUP) clients
	@$(BIN)/python -m hack.codegen

install-yaml: $(VENV)/.operator ## Write build/install.yaml for installation without Helm (IMAGE=REFERENCE TRAINER_IMAGE=REFERENCE)
	@$(SETUP) clients
	@$(BIN)/python -m hack.install_yaml --image "$(IMAGE)" --trainer-image "$(TRAINER_IMAGE)"

lock: $(VENV)/.dev ## Lock the packages of every extra and dependency group (ARGS=--upgrade for newer versions)
	@$(BIN)/python -m hack.lock $(ARGS)

docs: $(VENV)/.dev ## Build the documentation site into build/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

image-cuda: ## Build the trainer's CUDA image and verify that its libraries load (about 15 GB of disk)
	@$(SETUP) cuda

##@ Cleanup

down: ## Delete the cluster; keep images and caches
	@$(SETUP) down

clean: ## Delete the cluster, images, caches and the virtual environment
	@$(SETUP) clean
	@rm -rf $(VENV)

# Each stamp adds the packages that its targets need: the operator's, the trainer's with TensorFlow, the development tools.
$(VENV)/.operator: pyproject.toml requirements/build.txt requirements/operator.txt
	@echo "· Installing the operator's Python packages"
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { apt-get install -y python3-venv >/dev/null && $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/build.txt
	@$(LOCKED) --requirement requirements/operator.txt
	@$(UV) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.trainer: $(VENV)/.operator $(addprefix requirements/,trainer.txt native.txt source.txt) images/trainer/build-wheels $(wildcard trainer/native/*.* trainer/native/*/*.py)
	@echo "· Installing TensorFlow, Horovod and DALI (Horovod is compiled once, about 3 minutes)"
	@$(LOCKED) --requirement requirements/trainer.txt
	@$(SETUP) wheels --python $(BIN)/python
	@touch $@

$(VENV)/.dev: $(VENV)/.operator $(addprefix requirements/,onnx.txt dev.txt docs.txt)
	@echo "· Installing the tools for tests and checks"
	@$(LOCKED) $(addprefix --requirement requirements/,onnx.txt dev.txt docs.txt)
	@touch $@
