# make demo | test | lint | docs | bench | clean
#
# Everything is installed into .venv, made with PYTHON (3.11 or newer). A stamp remembers what is in it, so that the second run
# starts at once. Arguments go through: make demo DEMO_ARGS="--once", make test TEST_ARGS="-k config -x".

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

# A plain "pip install -e" hides twisted/plugins/tqdbproxy_plugin.py from twistd; editable_mode=compat does not.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat --editable

.PHONY: help demo test lint format docs bench clean

help:
	@echo "make demo    an embedded PostgreSQL, the proxy in front of it, and what batching does"
	@echo "make test    all tests"
	@echo "make lint    format, lint, types, import contracts"
	@echo "make format  format the sources"
	@echo "make docs    the documentation, in docs/_build/html"
	@echo "make bench   the benchmarks, side by side with what is installed of the peers"
	@echo "make clean   remove what was made, the venv included"

demo: $(VENV)/installed-embedded
	@$(BIN)/tqdbproxy demo $(DEMO_ARGS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports --config setup.cfg

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/installed-dev
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: setup.cfg pyproject.toml | $(VENV)/bin/python
	@echo "installing tqdbproxy[$*] into $(VENV)"
	@$(INSTALL) '.[$*]'
	@touch $@

clean:
	rm -rf $(VENV) .venv-system build dist *.egg-info docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f twisted/plugins/dropin.cache
	find tqdbproxy twisted tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
