"""The demonstration for a laptop: a d6 on real text, stage for stage as `runs/runcpu.sh` tells it."""

from __future__ import annotations

from nanochat.recipes.recipe import Recipe, Stage, tell_where

SHARDS = 2  # half a billion characters, more than the horizon reads
VOCAB_SIZE = 8192
MAX_CHARS = 200_000_000  # enough text for a vocabulary of this size


CPU = Recipe(
    name="cpu",
    about="a d6 on real text, for a laptop",
    stages=(
        Stage("reset", ("report", "reset"), files=("report/system.json",)),
        Stage("shards", ("data", "download", f"--num-shards={SHARDS}")),
        Stage(
            "tokenizer",
            (
                "tokenizer",
                "train",
                "--dataset=fineweb-edu",
                f"--vocab-size={VOCAB_SIZE}",
                f"--max-chars={MAX_CHARS}",
            ),
            needs=("shards",),
            files=(f"tokenizers/tok{VOCAB_SIZE}.tiktoken",),
        ),
        Stage("eval-tokenizer", ("tokenizer", "eval"), needs=("tokenizer",)),
        Stage(
            "pretrain",
            (
                "pretrain",
                "--dataset=fineweb-edu",
                f"--vocab-size={VOCAB_SIZE}",
                "--depth=6",
                "--max-seq-len=512",
                "--target-param-data-ratio=2",
                "--resume=auto",
            ),
            needs=("tokenizer",),
            run="baserun",
            distributed=True,
        ),
        Stage("eval-base", ("eval", "base", "--model-tag=baserun"), needs=("pretrain",), distributed=True),
        Stage(
            "sft",
            ("sft", "--mixture=smoltalk+identity+spelling", "--num-iterations=1500", "--resume=auto"),
            needs=("pretrain",),
            run="sft",
            distributed=True,
        ),
        Stage(
            "eval-chat",
            ("eval", "chat", "--model-tag=sft", "--suite=chatcore", "--max-items=100"),
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
