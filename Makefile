# `make check` is what a change must pass; runs/test.sh sets the environment up first.
PYTHON ?= $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)
BIN := $(if $(wildcard .venv/bin),.venv/bin/,)

.PHONY: check format lint types layers test test-fast

check: lint types layers test

lint:
	$(BIN)ruff check .
	$(BIN)ruff format --check .

types:
	$(BIN)mypy

layers:
	$(BIN)lint-imports

test:
	$(PYTHON) -m pytest -n auto

test-fast:
	$(PYTHON) -m pytest -n auto -m "not slow"

format:
	$(BIN)ruff check --fix .
	$(BIN)ruff format .
