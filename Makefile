# make course   install, run every notebook, render each to HTML, print a table of minutes and headlines
# make test     install, run the tests (notebooks at the smoke profile included)
# make lab      install, open JupyterLab on notebook 00
# make bench    install, time prediction and training on this machine
#
# Needs GNU make and Python 3.11 or newer, nothing else.  Choose another interpreter:   make course PYTHON=python3.12
# Linux without an NVIDIA card: torch's small CPU build saves a few GB of download:     make course TORCH=cpu

PYTHON ?= python3
TORCH ?= default
PROFILE ?= quick
VENV := .venv
BIN := $(VENV)/bin
PIP_INDEX := $(if $(filter cpu,$(TORCH)),--extra-index-url https://download.pytorch.org/whl/cpu,)
READY := $(VENV)/.ready

.PHONY: help course test lab bench install check clean
.DEFAULT_GOAL := help

help:
	@sed -n -e '/^$$/q' -e 's/^# \{0,1\}//p' Makefile

course: $(READY)
	$(BIN)/python -m dmplus.course run --profile $(PROFILE)

test: $(READY)
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

bench: $(READY)
	$(BIN)/python -m dmplus.course bench

# Seconds: style, and all that can be said of the notebooks without running them.
check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/python notebooks/build.py check

install: $(READY)

# Installed once; again when the dependencies or the pins change.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "dmplus needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || echo missing)."; \
	  echo "Install one (https://www.python.org/downloads, or your package manager) and name it: make PYTHON=python3.12 ..."; \
	  exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Could not make $(VENV). On Debian and Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_INDEX) -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf runs build dist .pytest_cache .ruff_cache
