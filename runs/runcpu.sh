#!/usr/bin/env bash
# A demonstration for a laptop: a d6 on real text, through every stage. It learns to form sentences, no more.
# The same stages as a recipe, which skips what is done: nanochat run cpu
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export NANOCHAT_BASE_DIR="${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat}"
export WANDB_RUN="${WANDB_RUN:-dummy}"

bash runs/setup.sh
source .venv/bin/activate
python -m nanochat.report reset

# --- text and tokenizer ---
python -m nanochat.dataset -n 2
nanochat tokenizer train --dataset=fineweb-edu --vocab-size=8192 --max-chars=200000000
nanochat tokenizer eval

# --- the base model ---
nanochat pretrain --dataset=fineweb-edu --vocab-size=8192 --depth=6 --max-seq-len=512 --target-param-data-ratio=2 \
    --resume=auto --run="$WANDB_RUN"
nanochat eval base --model-tag=baserun

# --- the chat model ---
nanochat sft --mixture=smoltalk+identity+spelling --num-iterations=1500 --resume=auto --run="$WANDB_RUN"
nanochat eval chat --model-tag=sft --suite=chatcore --max-items=100

python -m nanochat.report generate
echo "talk to it: source .venv/bin/activate && nanochat chat"
