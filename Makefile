# The only set-up there is: `make run`, `make test`. A first call makes .venv, later ones find it ready.
PYTHON ?= python3
# make run DEMO=--tiny: the models that ship with the program, no download.
DEMO ?=
# make test TESTS=tests/core, make bench BENCH="--only bench_signs"
TESTS ?=
BENCH ?=
# Test processes at once; each computes on one thread.
WORKERS ?= 2

# Waiting threads that spin make everything several times slower beside another busy process.
export OMP_WAIT_POLICY ?= PASSIVE

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable

.PHONY: run test bench pictures lint env clean
.DEFAULT_GOAL := run

# With a display the window, which makes the demo pair in the background; without one the same job and its report.
run: $(VENV)/.system
	@if $(BIN)/python -m app.display; then $(BIN)/python -m app window --demo $(DEMO); else \
		$(BIN)/python -m app demo build/demo$(if $(filter --tiny,$(DEMO)),-tiny) $(DEMO) && \
		QT_QPA_PLATFORM=offscreen $(BIN)/python -m app.screenshots build/screenshots \
			--demo build/demo$(if $(filter --tiny,$(DEMO)),-tiny); fi

test: $(VENV)/.installed-dev $(VENV)/.system
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(TESTS)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m tests.benchmarks $(BENCH)

# The pictures in README.md, from a real job on the demo pair.
pictures: $(VENV)/.system
	$(BIN)/python -m app demo build/demo $(DEMO)
	$(BIN)/python -m app.screenshots build/screenshots --demo build/demo
	cp build/screenshots/compress.png build/screenshots/compare.png resources/pictures/
	cp build/screenshots/run-done.png resources/pictures/run.png

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

# What Qt needs of the system on Debian and Ubuntu, beyond what is usually there.
PACKAGES := libegl1 libgl1 libdbus-1-3 libfontconfig1 libxkbcommon-x11-0 libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 \
	libxcb-image0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0 fonts-dejavu-core

$(VENV)/.system: $(VENV)/.installed
	@QT_QPA_PLATFORM=offscreen $(BIN)/python -m app.display --check || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing the system libraries that the window needs: $(PACKAGES)"; \
			apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(PACKAGES) >/dev/null; \
			QT_QPA_PLATFORM=offscreen $(BIN)/python -m app.display --check; \
		else echo "The window needs system libraries. On Debian and Ubuntu: sudo apt-get install $(PACKAGES)" >&2; exit 1; fi; }
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the test tools into $(VENV)."
	@$(INSTALL) '.[dev,evals]'
	@touch $@
