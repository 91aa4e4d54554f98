#!/usr/bin/env bash
# The speedrun: a GPT-2-grade model (d26) trained, fine-tuned and ready to chat, in hours on 8 × H100.
#   bash runs/speedrun.sh                          # in screen or tmux, since it takes hours
#   WANDB_RUN=my_run bash runs/speedrun.sh         # after `wandb login`
# Called again, the training stages go on from their newest checkpoint. The same stages as a recipe, which
# remembers what is done and skips it: nanochat run speedrun --nproc 8
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export NANOCHAT_BASE_DIR="${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat}"
export WANDB_RUN="${WANDB_RUN:-dummy}"
on_all_gpus=(torchrun --standalone --nproc_per_node="${NPROC_PER_NODE:-8}" -m nanochat)

bash runs/setup.sh
source .venv/bin/activate
python -m nanochat.report reset

# --- text: 8 shards for the tokenizer now, the 370 of the horizon beside it ---
python -m nanochat.dataset -n 8
python -m nanochat.dataset -n 370 > "$NANOCHAT_BASE_DIR/download.log" 2>&1 &
download=$!
trap 'kill "$download" 2> /dev/null || true' EXIT

# --- tokenizer: 32,768 tokens from two billion characters ---
nanochat tokenizer train --dataset=fineweb-edu --need-shards=8 --vocab-size=32768
nanochat tokenizer eval

wait "$download" || { echo "the download failed: see $NANOCHAT_BASE_DIR/download.log" >&2; exit 1; }

# --- the base model ---
"${on_all_gpus[@]}" pretrain --dataset=fineweb-edu --need-shards=370 --depth=26 --target-param-data-ratio=8.25 \
    --device-batch-size=16 --fp8 --vocab-size=32768 --resume=auto --run="$WANDB_RUN"
"${on_all_gpus[@]}" eval base --model-tag=baserun --core=on

# --- the chat model; identity conversations are generated, unless you put your own identity_conversations.jsonl
#     into NANOCHAT_BASE_DIR ---
"${on_all_gpus[@]}" sft --mixture="smoltalk+mmlu*3+gsm8k*4+identity*2+spelling+spellingbee" \
    --resume=auto --run="$WANDB_RUN"
"${on_all_gpus[@]}" eval chat --model-tag=sft --suite=chatcore

python -m nanochat.report generate
echo "talk to it: source .venv/bin/activate && nanochat chat"
