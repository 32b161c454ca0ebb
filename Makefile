# Two commands on a fresh machine: `make demo` and `make test`. Everything runs inside .venv, which `setup` makes once.
# On a machine without a GPU give pip the CPU wheels of PyTorch: make setup PIP_ARGS="--extra-index-url <CPU wheel index>".

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := --cov=lightning_unlearn --cov=unlearn_kernels
WORKERS ?= $(shell getconf _NPROCESSORS_ONLN)
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 8 --dist worksteal
export TOKENIZERS_PARALLELISM = false

.PHONY: setup demo test test-all lint format bench docs clean

setup: $(STAMP)

# torch first, from the constraints: the other packages then meet the version that is there
$(STAMP): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[dev]"
	touch $@

demo: setup
	$(BIN)/lightning-unlearn demo

test: lint
	$(PYTEST) -m "not slow" $(PACKAGES) --cov-report=term

# the slow tests, which `test` leaves out: killed runs, several processes, every compiled configuration
test-all: setup
	$(PYTEST) -m slow $(PACKAGES) --cov-append --cov-report=term

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	for name in $(basename $(notdir $(shell grep -l __main__ benchmarks/*.py))); do \
	    $(BIN)/python -m benchmarks.$$name || exit 1; done

docs: setup
	$(BIN)/python docs/build.py build/docs

clean:
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .coverage *.egg-info kernels/*.egg-info
	find lightning_unlearn kernels tests -name __pycache__ -type d -prune -exec rm -rf {} +
