#!/usr/bin/env bash
# The speedrun: a GPT-2-grade model (d26) trained, fine-tuned and ready to chat, in hours on 8 × H100.
#   bash runs/speedrun.sh                          # in screen or tmux, since it takes hours
#   WANDB_RUN=my_run bash runs/speedrun.sh         # after `wandb login`
# Rerun it to resume after an interruption. Takes the options of `nanochat run`; `nanochat run speedrun --dry-run`
# shows the commands.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export NANOCHAT_BASE_DIR="${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat}"
export WANDB_RUN="${WANDB_RUN:-dummy}"

bash runs/setup.sh
exec .venv/bin/nanochat run speedrun --nproc "${NPROC_PER_NODE:-8}" "$@"
