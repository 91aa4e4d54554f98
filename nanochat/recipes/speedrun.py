"""The speedrun: a GPT-2-grade model on 8 × H100."""

from __future__ import annotations

from nanochat.recipes.outline import Outline
from nanochat.recipes.recipe import Recipe, tell_where

_OUTLINE = Outline(
    dataset="fineweb-edu",
    depth=26,
    first_shards=8,
    all_shards=370,
    tokenizer=("--vocab-size=32768",),
    pretrain=("--target-param-data-ratio=8.25", "--device-batch-size=16", "--fp8"),
    eval_base=("--core=on",),
    sft=("--mixture=smoltalk+mmlu*3+gsm8k*4+identity*2+spelling+spellingbee",),
    eval_chat=("--suite=chatcore",),
)

SPEEDRUN = Recipe("speedrun", "a GPT-2-grade model (d26), fine-tuned to chat", _OUTLINE.stages, tell_where)
