"""The demonstration for a laptop: a d6 on real text."""

from __future__ import annotations

from nanochat.recipes.outline import Outline
from nanochat.recipes.recipe import Recipe, tell_where

_OUTLINE = Outline(
    dataset="fineweb-edu",
    depth=6,
    first_shards=2,  # half a billion characters, more than training reads
    tokenizer=("--vocab-size=8192", "--max-chars=200000000"),
    pretrain=("--regime=cpu", "--max-seq-len=512", "--target-param-data-ratio=2"),
    sft=("--mixture=smoltalk+identity+spelling", "--num-iterations=1500"),
    eval_chat=("--suite=chatcore", "--max-items=100"),
)

CPU = Recipe("cpu", "a d6 on real text, for a laptop", _OUTLINE.stages, tell_where)
