"""The quickstart: the whole pipeline on a CPU in minutes, over the embedded dataset.

Its numbers stand here and nowhere else; how they were found is in docs/log.md.
"""

from __future__ import annotations

from nanochat.paths import Paths
from nanochat.recipes import showcase
from nanochat.recipes.recipe import Recipe, Stage, tell_where

DATASET = "builtin:small"
VOCAB_SIZE = 2048
PRETRAIN = ("--depth=3", "--num-iterations=1000", "--total-batch-size=2048")
SFT = ("--mixture=builtin", "--epochs=1")
EVALUATE = ("--suite=builtin",)
EVALUATE_BEFORE = (*EVALUATE, "--max-items=100")  # a base model guesses: a glance is enough


def _closing(paths: Paths) -> None:
    showcase.show(showcase.recorded(paths, "sft"))
    tell_where(paths)


QUICKSTART = Recipe(
    name="quickstart",
    about="a small model of a small world, from text to chat",
    stages=(
        Stage("reset", ("report", "reset"), files=("report/system.json",)),
        Stage(
            "tokenizer",
            ("tokenizer", "train", f"--dataset={DATASET}", f"--vocab-size={VOCAB_SIZE}"),
            files=(f"tokenizers/tok{VOCAB_SIZE}.tiktoken",),
        ),
        Stage(
            "pretrain",
            ("pretrain", f"--dataset={DATASET}", f"--vocab-size={VOCAB_SIZE}", *PRETRAIN, "--resume=auto"),
            needs=("tokenizer",),
            run="baserun",
            distributed=True,
        ),
        Stage("eval-base", ("eval", "base", "--model-tag=baserun"), needs=("pretrain",), distributed=True),
        Stage("eval-before", ("eval", "chat", "--model-tag=baserun", *EVALUATE_BEFORE), needs=("pretrain",)),
        Stage("sft", ("sft", *SFT, "--resume=auto"), needs=("pretrain",), run="sft", distributed=True),
        Stage("eval-chat", ("eval", "chat", "--model-tag=sft", *EVALUATE), needs=("sft",)),
        Stage("showcase", ("sft",), needs=("sft",), module=showcase.__name__),
        Stage(
            "report",
            ("report", "generate"),
            needs=("eval-base", "eval-before", "eval-chat", "showcase"),
            files=("report/report.md", "report/report.html"),
        ),
    ),
    closing=_closing,
)
