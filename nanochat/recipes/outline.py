"""The stages that all recipes share, from text to a chat model and its report."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nanochat.recipes import showcase
from nanochat.recipes.recipe import ModelNames, Stage
from nanochat.recipes.results import (
    report_begun,
    report_written,
    shards_downloaded,
    tokenizer_trained,
    training_finished,
)


@dataclass(frozen=True)
class Outline:
    """What differs between recipes; each tuple holds the flags of one stage."""

    dataset: str
    depth: int
    first_shards: int | None = None
    """Shards of a hub dataset to download first, for the tokenizer."""
    all_shards: int | None = None
    """Shards that training at `depth` reads, downloaded while the tokenizer trains; None: the first ones suffice."""
    tokenizer: tuple[str, ...] = ()
    pretrain: tuple[str, ...] = ()
    eval_base: tuple[str, ...] = ()
    sft: tuple[str, ...] = ()
    eval_chat: tuple[str, ...] = ()
    eval_before: tuple[str, ...] | None = None
    """Flags of a task evaluation of the base model, before fine-tuning; None: no such stage."""
    showcase: bool = False
    """Ask the finished model a few questions."""

    def stages(self, names: ModelNames, depth: int | None = None) -> tuple[Stage, ...]:
        """The stages for these names and this depth (None: the outline's own)."""
        depth = self.depth if depth is None else depth
        made = (*self._text(depth), *self._base(names, depth), *self._chat(names))
        ends = tuple(
            stage.name for stage in made if stage.name.startswith("eval") or stage.name == "showcase"
        )
        report = Stage("report", ("report", "generate"), needs=ends, left=report_written)
        return (Stage("reset", ("report", "reset"), left=report_begun), *made, report)

    def _text(self, depth: int) -> list[Stage]:
        """Shards, if the dataset is the hub's, and the tokenizer."""
        dataset = f"--dataset={self.dataset}"
        train = Stage("tokenizer", ("tokenizer", "train", dataset, *self.tokenizer), left=tokenizer_trained)
        if self.first_shards is None:
            return [train]
        download = ("data", "download", dataset)
        stages = [
            Stage("shards", (*download, f"--num-shards={self.first_shards}"), left=shards_downloaded),
        ]
        if self.all_shards is not None:
            # Training tokens grow with the parameters, and those with the cube of the depth.
            shards = max(self.first_shards, math.ceil(self.all_shards * (depth / self.depth) ** 3))
            stages.append(
                Stage(
                    "all-shards",
                    (*download, f"--num-shards={shards}"),
                    needs=("shards",),
                    copies=("dataset=shards.dataset",),
                    left=shards_downloaded,
                    background=True,
                )
            )
        copies = ("dataset=shards.dataset", "need-shards=shards.num-shards")
        evaluate = Stage(
            "eval-tokenizer",
            ("tokenizer", "eval"),
            needs=("tokenizer",),
            copies=("dataset=tokenizer.dataset", "vocab-size=tokenizer.vocab-size", copies[1]),
        )
        stages.append(
            Stage("tokenizer", train.argv, needs=("shards",), copies=copies, left=tokenizer_trained)
        )
        return [*stages, evaluate]

    def _base(self, names: ModelNames, depth: int) -> list[Stage]:
        """Pretraining and the evaluations of the base model."""
        shards = [] if self.first_shards is None else ["all-shards" if self.all_shards else "shards"]
        stages = [
            Stage(
                "pretrain",
                (
                    "pretrain",
                    f"--depth={depth}",
                    *self.pretrain,
                    f"--model-tag={names.base}",
                    "--resume=auto",
                ),
                needs=("tokenizer", *shards),
                copies=(
                    "dataset=tokenizer.dataset",
                    "vocab-size=tokenizer.vocab-size",
                    *(f"need-shards={name}.num-shards" for name in shards),
                ),
                left=training_finished,
                trains=True,
                distributed=True,
            ),
            Stage(
                "eval-base",
                ("eval", "base", f"--model-tag={names.base}", *self.eval_base),
                needs=("pretrain",),
                distributed=True,
            ),
        ]
        if self.eval_before is not None:
            stages.append(
                Stage(
                    "eval-before",
                    ("eval", "chat", f"--model-tag={names.base}", *self.eval_before),
                    needs=("pretrain",),
                    distributed=True,
                )
            )
        return stages

    def _chat(self, names: ModelNames) -> list[Stage]:
        """Fine-tuning and the evaluations of the chat model."""
        stages = [
            Stage(
                "sft",
                ("sft", f"--from-tag={names.base}", *self.sft, f"--model-tag={names.chat}", "--resume=auto"),
                needs=("pretrain",),
                left=training_finished,
                trains=True,
                distributed=True,
            ),
            Stage(
                "eval-chat",
                ("eval", "chat", f"--model-tag={names.chat}", *self.eval_chat),
                needs=("sft",),
                distributed=True,
            ),
        ]
        if self.showcase:
            stages.append(Stage("showcase", (names.chat,), needs=("sft",), module=showcase.__name__))
        return stages
