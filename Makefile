# `make compare` and `make test` are the two commands of the README. Both set up .venv when needed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: compare test lint types peer clean

compare: .venv/ready
	$(BIN)/lfp-bench compare

test: .venv/ready lint types
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/mypy

peer: .venv/ready
	$(BIN)/tox -e peer

# Written last, so that an interrupted installation is done again.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .tox .mypy_cache .pytest_cache .ruff_cache .hypothesis
