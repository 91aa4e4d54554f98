#!/usr/bin/env bash
# Sets up and runs every check and test: bash runs/test.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash runs/setup.sh --dev
source .venv/bin/activate

ruff check .
ruff format --check .
mypy
lint-imports
pytest -n auto -m "not slow" --durations=10
pytest -n 3 --dist worksteal -m slow --durations=10  # many wait for processes: a third worker uses the time
