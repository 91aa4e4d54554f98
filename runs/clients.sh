#!/usr/bin/env bash
# An environment of its own, .venv-clients, for API clients that the newest openai package excludes; tests/serve uses it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="$PATH:$PWD/.uv/bin:${HOME:-/nonexistent}/.local/bin"
uv venv --quiet --allow-existing .venv-clients
uv pip install --quiet --python .venv-clients/bin/python "openai>=2,<3" llama-index-llms-openai-like
