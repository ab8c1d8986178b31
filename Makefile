# `make demo` and `make test` do all the set-up; a second call skips what is done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-interop test-topology faults faults-long lint types contracts pytest format clean

demo: $(VENV)/installed
	$(BIN)/assay run --preset demo

test: lint types contracts pytest

test-interop: $(VENV)/installed-interop
	$(BIN)/python -m pytest -m interop tests/interop

faults: $(VENV)/installed-dev
	$(BIN)/python -m tests.faults replay

MINUTES ?= 120
faults-long: $(VENV)/installed-dev
	$(BIN)/python -m tests.campaign --minutes $(MINUTES)

test-topology: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m topology

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

contracts: $(VENV)/installed-dev
	$(BIN)/lint-imports --no-cache

# Files go to two processes as they come; those that share a finished run keep it. Both must name tests alike.
pytest: $(VENV)/installed-dev
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n 2 --dist loadfile

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) *.egg-info build

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: " + sys.executable + " is Python " + sys.version.split()[0] + ", should be 3.11 or newer\n\nhint: make PYTHON=python3.12")'
	@echo "installing into $(VENV); this takes a few minutes once"
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.lock requirements-servers.lock
	$(PIP) -r requirements-dev.lock
	@touch $@

$(VENV)/installed-interop: $(VENV)/installed-dev requirements-interop.lock
	@echo "building llama.cpp; this takes some ten minutes once"
	CMAKE_ARGS="-DLLAVA_BUILD=OFF" $(PIP) -r requirements-interop.lock
	@touch $@
