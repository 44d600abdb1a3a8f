# make course   install, run every notebook, render each to HTML, print a table of minutes and headlines
# make test     install, run the tests (notebooks at the smoke profile included)
# make test-browser  install, run every notebook in JupyterLab in your Chromium or Chrome, move every control
# make lab      install, open JupyterLab on notebook 00
# make slides   install, make a deck of slides of every notebook (runs/slides; arrow keys, S for the speaker)
# make results  install, compute every table and claim from the committed rows of the experiments
# make bench    install, time prediction and training on this machine
#
# Needs GNU make and Python 3.11 or newer, nothing else.  Choose another interpreter:   make course PYTHON=python3.12
# Linux without an NVIDIA card: torch's small CPU build saves a few GB of download:     make course TORCH=cpu
# A fresh checkout with the newest versions instead of the pinned ones:                 make test CONSTRAINTS=

PYTHON ?= python3
TORCH ?= default
PROFILE ?= quick
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
PIP_INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu,)
READY := $(VENV)/.ready

.PHONY: help course test test-browser lab slides results bench install check clean
.DEFAULT_GOAL := help

help:
	@sed -n -e '/^$$/q' -e 's/^# \{0,1\}//p' Makefile

course: $(READY)
	$(BIN)/python -m dmplus.course run --profile $(PROFILE)

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

test-browser: $(READY)
	@$(BIN)/python -c 'import playwright' 2>/dev/null || \
	  $(BIN)/python -m pip install --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) -e '.[browser]'
	DMPLUS_BROWSER=1 $(BIN)/python -m pytest tests/test_browser.py

lab: $(READY)
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

slides: $(READY)
	$(BIN)/python notebooks/slides.py

results: $(READY)
	$(BIN)/python -m dmplus.claims

bench: $(READY)
	$(BIN)/python -m dmplus.course bench

# Seconds: style, and all that can be said of the notebooks without running them.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python notebooks/build.py check

install: $(READY)

# Installed once; again when the dependencies or the pins change.
$(READY): pyproject.toml constraints.txt
	@found=; if ! command -v $(PYTHON) >/dev/null; then found=missing; \
	elif ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then found=$$($(PYTHON) --version 2>&1); fi; \
	test -z "$$found" || { \
	  echo "dmplus needs Python 3.11 or newer; '$(PYTHON)' is $$found."; \
	  echo "Install one (https://www.python.org/downloads, or your package manager) and name it: make PYTHON=python3.12 ..."; \
	  exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Could not make $(VENV). On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_INDEX) $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]'
	@touch $@

clean:
	rm -rf runs build dist .pytest_cache .ruff_cache
