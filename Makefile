# Everything sets itself up: a fresh clone, Python 3.11 or newer, and the package index are enough.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
# The constraints also hold for what builds a package: in the variable for pip before 25.3, in the other one since.
PIP := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip --disable-pip-version-check install --quiet
AUDIT := $(VENV)/audit

.DEFAULT_GOAL := help
.PHONY: help demo test check bench docs audit sbom clean

help:  ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.run  ## set up, then draw a picture with the embedded model, offline
	HF_HUB_OFFLINE=1 $(BIN)/sfumato run "a red apple" --seed 7 -o apple.png

test: $(VENV)/.dev  ## set up, then run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q  # a thread a worker: more would only wait for each other

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

audit: $(AUDIT)/.made  ## look up known faults of the pinned packages; needs the package index
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict --progress-spinner off

sbom: $(VENV)/.run $(AUDIT)/.made  ## list the installed packages in sbom.json, as CycloneDX
	$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom.json $(BIN)/python

clean:  ## remove what these commands made
	rm -rf $(VENV) site build dist sbom.json .pytest_cache .ruff_cache .hypothesis

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

# These tools look at the other packages, so they are in an environment of their own.
$(AUDIT)/.made: Makefile
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip --disable-pip-version-check install --quiet pip-audit==2.10.1 cyclonedx-bom==7.5.0
	@touch $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e ".[docs]"
	@touch $@
