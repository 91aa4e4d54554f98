"""The quickstart: the whole pipeline in minutes, on a CPU or a GPU, over the embedded dataset.

docs/log.md says how its numbers were chosen.
"""

from __future__ import annotations

from nanochat.paths import Paths
from nanochat.recipes import showcase
from nanochat.recipes.outline import Outline
from nanochat.recipes.recipe import ModelNames, Recipe, tell_where

_OUTLINE = Outline(
    dataset="builtin:small",
    depth=3,
    tokenizer=("--vocab-size=2048",),
    pretrain=("--regime=cpu", "--num-iterations=910", "--total-batch-size=2048", "--eval-bytes=200000"),
    eval_base=("--max-bytes=200000",),
    sft=("--mixture=builtin", "--epochs=1.15"),
    eval_chat=("--suite=builtin",),
    eval_before=(
        "--suite=builtin",
        "--max-items=100",
    ),  # a base model only guesses: a few items suffice to show it
    showcase=True,
)


def _closing(paths: Paths, names: ModelNames) -> None:
    showcase.show(showcase.recorded(paths, names.chat))
    tell_where(paths, names)


QUICKSTART = Recipe(
    "quickstart", "a small model of a small world, from text to chat", _OUTLINE.stages, _closing
)
