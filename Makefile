# Everything here stays inside this folder: the environment in .venv, caches and temporary files in .cache.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCRATCH := $(CURDIR)/.cache
export PIP_NO_CACHE_DIR := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TMPDIR := $(SCRATCH)/tmp
# Tests start Python by the hundred: without its bytecode each start takes twice as long, and pytest compiles all tests.
unexport PYTHONDONTWRITEBYTECODE
# `make test COVERAGE=1` measures branch coverage of app/ and fails under 90 %.
COVERAGE ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test lint check bench cuda-wheels lock audit sbom format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed  ## make .venv with the locked packages of the CPU build

demo: install  ## run the service with four live simulated cameras, until Ctrl-C
	@$(BIN)/vidette demo $(ARGS)

PYTEST := $(if $(COVERAGE),$(BIN)/coverage run,$(BIN)/python) -m pytest -o cache_dir=.cache/pytest
# What ARGS leaves of a half may be nothing, which pytest calls 5.
OR_NONE := || [ $$? = 5 ]

test: $(VENV)/.tested  ## run all tests (ARGS="-k name" for some)
	@rm -f .coverage .coverage.*
	$(PYTEST) -n logical --maxprocesses 4 --dist loadfile -m "not alone" $(ARGS) $(OR_NONE)
	$(PYTEST) -m alone $(ARGS) $(OR_NONE)
ifdef COVERAGE
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered --fail-under=90
endif

lint: $(VENV)/.tested  ## ruff and mypy --strict
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

check: lint cuda-wheels  ## what CI runs: lint, all tests, coverage
	$(MAKE) test COVERAGE=1

bench: install  ## measure this machine (ARGS="--cameras 8 --seconds 30 --out bench.json")
	@$(BIN)/python scripts/bench.py $(ARGS)

cuda-wheels: $(VENV)/.tested  ## install NVIDIA's packages in .cache/cuda, for the tests that read them (0.7 GB, no GPU)
	@mkdir -p $(TMPDIR)
	@$(BIN)/python scripts/cuda_wheels.py $(ARGS)

format: $(VENV)/.tested  ## let ruff format and mend the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:  ## write the lock files anew from pyproject.toml (needs uv)
	uv pip compile -q --upgrade --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
	  --extra cpu pyproject.toml -o requirements.lock
	uv pip compile -q --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
	  --extra cpu --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

audit: $(VENV)/.tested  ## is all that is installed locked by hash, and are there known vulnerabilities (needs a network)
	@mkdir -p $(TMPDIR)
	@$(BIN)/python scripts/audit.py $(ARGS)

sbom: | $(VENV)/bin/python  ## write sbom.cdx.json, a CycloneDX bill of the locked packages
	@$(BIN)/python deploy/container/sbom.py requirements.lock app/__init__.py > sbom.cdx.json

clean:  ## remove .venv and all caches
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .coverage .coverage.*

$(VENV)/bin/python:
	@mkdir -p $(TMPDIR)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "make: $(PYTHON) is older than Python 3.10; name a newer one: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "make: $(PYTHON) cannot make a virtual environment (on Debian: apt install python3-venv)" >&2; exit 2; }

$(VENV)/.installed: requirements.lock pyproject.toml | $(VENV)/bin/python
	@mkdir -p $(TMPDIR)
	@echo "installing the locked packages into $(VENV) (a minute or two) ..."
	@$(BIN)/pip install -q --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --no-deps -e .
	@touch $@

$(VENV)/.tested: requirements-dev.lock $(VENV)/.installed
	@echo "installing the test tools ..."
	@$(BIN)/pip install -q --require-hashes -r requirements-dev.lock
	@touch $@
