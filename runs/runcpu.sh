#!/usr/bin/env bash
# A laptop demonstration: every stage for a d6 on real text. It learns to form sentences, no more.
# Rerun it to resume after an interruption. Takes the options of `nanochat run`; `nanochat run cpu --dry-run` shows
# the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export NANOCHAT_BASE_DIR="${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat}"
export WANDB_RUN="${WANDB_RUN:-dummy}"

bash runs/setup.sh
exec .venv/bin/nanochat run cpu "$@"
