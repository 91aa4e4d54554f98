#!/usr/bin/env bash
# The whole pipeline on this machine, without GPU or download of data, then sample answers: bash runs/quickstart.sh
# Resumes after an interruption. Takes the options of `nanochat run`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash runs/setup.sh
exec .venv/bin/nanochat run quickstart "$@"
