# Everything sets itself up: a fresh clone, Python 3.11 or newer, and the package index are enough.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs clean

help:  ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.run  ## set up, then draw a picture with the embedded model, offline
	HF_HUB_OFFLINE=1 $(BIN)/sfumato run "a red apple" --seed 7 -o apple.png

test: $(VENV)/.dev  ## set up, then run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -q  # a thread a worker: more would only wait for each other

check: $(VENV)/.dev  ## what CI runs: ruff, pyright strict, import-linter, the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache
	$(MAKE) test

bench: $(VENV)/.bench  ## measure: overhead, denoising, start-up, each beside its peer in one run; or AGAINST=../other-checkout
ifdef AGAINST
	for what in overhead start; do $(BIN)/python tests/benchmarks/bench_$$what.py --against "$(AGAINST)" || exit 1; done
else
	for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done
endif

docs: $(VENV)/.docs  ## build the documentation into site/
	$(BIN)/python -m mkdocs build --strict --quiet

clean:  ## remove what these commands made
	rm -rf $(VENV) site build dist .pytest_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# Each stamp is one set of packages; it is made anew when what it installs from changes.
$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[dev]"
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/.dev
	$(PIP) -e ".[dev,bench]"
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[docs]"
	@touch $@
