"""The speedrun: a GPT-2-grade model on 8 × H100, stage for stage as `runs/speedrun.sh` tells it."""

from __future__ import annotations

from nanochat.recipes.recipe import Recipe, Stage, tell_where

TOKENIZER_SHARDS = 8
TRAINING_SHARDS = 370  # what the horizon of a d26 at this ratio reads
VOCAB_SIZE = 32_768
MIXTURE = "smoltalk+mmlu*3+gsm8k*4+identity*2+spelling+spellingbee"


SPEEDRUN = Recipe(
    name="speedrun",
    about="a GPT-2-grade model (d26), fine-tuned to chat",
    stages=(
        Stage("reset", ("report", "reset"), files=("report/system.json",)),
        Stage("first-shards", ("data", "download", f"--num-shards={TOKENIZER_SHARDS}")),
        Stage(
            "all-shards",
            ("data", "download", f"--num-shards={TRAINING_SHARDS}"),
            needs=("first-shards",),
            background=True,
        ),
        Stage(
            "tokenizer",
            (
                "tokenizer",
                "train",
                "--dataset=fineweb-edu",
                f"--need-shards={TOKENIZER_SHARDS}",
                f"--vocab-size={VOCAB_SIZE}",
            ),
            needs=("first-shards",),
            files=(f"tokenizers/tok{VOCAB_SIZE}.tiktoken",),
        ),
        Stage("eval-tokenizer", ("tokenizer", "eval"), needs=("tokenizer",)),
        Stage(
            "pretrain",
            (
                "pretrain",
                "--dataset=fineweb-edu",
                f"--need-shards={TRAINING_SHARDS}",
                "--depth=26",
                "--target-param-data-ratio=8.25",
                "--device-batch-size=16",
                "--fp8",
                f"--vocab-size={VOCAB_SIZE}",
                "--resume=auto",
            ),
            needs=("tokenizer", "all-shards"),
            run="baserun",
            distributed=True,
        ),
        Stage(
            "eval-base",
            ("eval", "base", "--model-tag=baserun", "--core=on"),
            needs=("pretrain",),
            distributed=True,
        ),
        Stage(
            "sft",
            ("sft", f"--mixture={MIXTURE}", "--resume=auto"),
            needs=("pretrain",),
            run="sft",
            distributed=True,
        ),
        Stage(
            "eval-chat",
            ("eval", "chat", "--model-tag=sft", "--suite=chatcore"),
            needs=("sft",),
            distributed=True,
        ),
        Stage(
            "report",
            ("report", "generate"),
            needs=("eval-tokenizer", "eval-base", "eval-chat"),
            files=("report/report.md", "report/report.html"),
        ),
    ),
    closing=tell_where,
)
