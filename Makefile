# Two commands for a fresh clone: `make quickstart` and `make test`. Everything lives in .venv inside the checkout.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
STAMPS := pyproject.toml constraints.txt

.PHONY: quickstart test slow lint format docs package release-check lowest clean help

help:
	@echo "make quickstart  install what running needs, then: polyrank run"
	@echo "make test        install what testing needs, then the quick tests, on all cores"
	@echo "make slow        the tests that take minutes of real processes"
	@echo "make lint        ruff and mypy"
	@echo "make docs        the documentation as a site that opens from disk: site/index.html"
	@echo "make package     wheel, source distribution and bill of materials in dist/, checked and tried"
	@echo "make release-check  the wheel in empty environments, on several Pythons and the lowest dependencies; gigabytes"
	@echo "make lowest      the quick tests with the lowest versions of the dependencies, in an environment of their own"
	@echo "make clean       remove the environment and caches (runs/ stays)"

quickstart: $(VENV)/.run
	$(BIN)/polyrank run

# a process per core, in the order of the folders; what stays together is in tests/conftest.py
CORES := -n logical --maxprocesses 8 --no-loadscope-reorder
PYTEST := $(BIN)/python -m pytest $(CORES)

test: $(VENV)/.test
	$(PYTEST)

# of the files that have such tests: to collect all the others takes half a minute
slow: $(VENV)/.test
	$(PYTEST) -m 'slow and not long' $$(grep -rl --include='test_*.py' 'pytest.mark.slow' tests | sort)

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# a warning is an error (strict in mkdocs.yml)
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

# both are built twice and have to be the same
package: $(VENV)/.release
	$(BIN)/python -m tools.package

# make release-check PYTHONS='python3.11 python3.13'
PYTHONS := $(PYTHON)
release-check: package
	$(BIN)/python -m tools.release $(PYTHONS)
	$(BIN)/python -m tools.release --lowest $(PYTHON)

# pip has no resolver for the lowest; what one library needs of another may lie above pyproject.toml's bound
LOWEST := .venv-lowest
lowest: $(VENV)/.test
	$(BIN)/uv venv --quiet --allow-existing --python $(PYTHON) $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[test,flower]'
	$(LOWEST)/bin/python -m pytest $(CORES)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else "PolyRank needs Python 3.11 or newer, found " + v + "; name another one: make quickstart PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python $(STAMPS)
	@echo "installing PolyRank into $(VENV); the first time this downloads PyTorch and takes some minutes"
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e '.[test,flower]'
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(PIP) -e '.[lint]'
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.release: $(VENV)/.run
	$(PIP) -e '.[release]'
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis dist
