# The only set-up there is: `make run`, `make test`. A first call makes .venv, later ones find it ready.
PYTHON ?= python3
# make run DEMO=--tiny: the models that ship with the program, no download.
DEMO ?=
# make test TESTS=tests/core, make bench BENCH="--only bench_signs"
TESTS ?=
BENCH ?=

# Waiting threads that spin make everything several times slower beside another busy process.
export OMP_WAIT_POLICY ?= PASSIVE

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: run test bench lint env clean
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	$(BIN)/python -m app demo build/demo$(if $(filter --tiny,$(DEMO)),-tiny) $(DEMO)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(TESTS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks $(BENCH)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

env: $(VENV)/.installed-dev

clean:
	rm -rf build $(VENV)

# The stamps are written last, so an installation that broke off is taken up again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Deltadeck needs Python 3.11 or newer, and $(PYTHON) is missing or older." >&2; \
		echo "Name another one: make $(or $(MAKECMDGOALS),run) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) could not make $(VENV). On Debian and Ubuntu, install the package python3-venv." >&2; exit 1; }
	@echo "Installing what Deltadeck needs into $(VENV); the first time takes some minutes."
	@$(INSTALL) .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the test tools into $(VENV)."
	@$(INSTALL) '.[dev]'
	@touch $@
