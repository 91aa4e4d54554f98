"""A chat model's accuracy on tasks: multiple choice by one forward pass, free answers by the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from nanochat.console import ProgressBar, progress
from nanochat.eval.batching import length_batches, pad_right
from nanochat.infer.engine import Engine
from nanochat.infer.request import Completion
from nanochat.infer.sampler import SamplingParams
from nanochat.model.gpt import GPT
from nanochat.runtime import Runtime
from nanochat.tasks.task import Item, Task
from nanochat.tokenizer.chat_format import parse_reply, render_prompt
from nanochat.tokenizer.tokenizer import Tokenizer

KEPT_FAILURES = 3
_GENERATED_AT_ONCE = 256  # items per update of the progress bar


@dataclass(frozen=True)
class Failure:
    """A wrong answer, and what is wrong with it."""

    prompt: str
    expected: str
    answer: str
    reason: str


@dataclass(frozen=True)
class TaskResult:
    """`baseline` is the accuracy of guessing; `too_long` counts items whose prompt exceeds the context."""

    name: str
    accuracy: float
    n: int
    baseline: float
    too_long: int
    failures: tuple[Failure, ...]

    @property
    def centred(self) -> float:
        """The accuracy rescaled to 0 for guessing and 1 for all right."""
        return (self.accuracy - self.baseline) / (1 - self.baseline)


Answers = tuple[list[str], int]
"""An answer to each item, and how many items were too long for the context."""


@dataclass(frozen=True)
class _Asker:
    """The model and what it needs to answer items."""

    model: GPT
    tokenizer: Tokenizer
    engine: Engine
    device: torch.device
    batch_tokens: int


def evaluate_task(
    model: GPT,
    tokenizer: Tokenizer,
    engine: Engine,
    task: Task,
    items: Sequence[Item],
    runtime: Runtime,
    *,
    max_items: int | None = None,
    batch_tokens: int = 16_384,
) -> TaskResult:
    """Score a chat model on a task, split across processes; every process gets the same result but for `failures`.

    Args:
        model: uncompiled, since batches differ in shape.
        engine: over the same model, idle.
        items: of the task's test split.
        max_items: the most items, evenly spaced over all.
        batch_tokens: the most tokens per forward pass of a multiple-choice task.
    """
    chosen = _spread(items, max_items)
    processes = runtime.processes
    mine = chosen[processes.rank :: processes.world_size]
    asker = _Asker(model, tokenizer, engine, runtime.device, batch_tokens)
    with (
        processes.together(task.name),
        progress(task.name, len(mine), "item", enabled=runtime.is_main) as bar,
    ):
        answers, too_long = _ANSWER[task.kind](asker, task, mine, bar)
        scores = [task.check(item, answer) for item, answer in zip(mine, answers, strict=True)]
    mine_right = sum(score.right for score in scores)
    right, all_too_long = (
        sum(counts) for counts in zip(*processes.gather((mine_right, too_long)), strict=True)
    )
    failures = [
        Failure(str(item.messages[-1]["content"]), item.answer, answer, score.reason)
        for item, answer, score in zip(mine, answers, scores, strict=True)
        if not score.right
    ]
    return TaskResult(
        name=task.name,
        accuracy=right / len(chosen),
        n=len(chosen),
        baseline=task.baseline,
        too_long=all_too_long,
        failures=tuple(failures[:KEPT_FAILURES]),
    )


def _spread(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most `limit` items, evenly spaced because many sets are sorted by subject."""
    n = min(len(items), limit or len(items))
    return [items[i * len(items) // n] for i in range(n)]


@torch.inference_mode()
def _choose(asker: _Asker, task: Task, items: Sequence[Item], bar: ProgressBar) -> Answers:
    """The letter with the highest logit after the prompt; prompts that are too long are truncated from the left."""
    max_seq_len = asker.model.config.max_seq_len
    whole = [render_prompt(asker.tokenizer, item.messages) for item in items]
    prompts = [p if len(p) <= max_seq_len else [p[0], *p[len(p) - max_seq_len + 1 :]] for p in whole]
    answers = [""] * len(items)
    done = 0
    for batch in length_batches([len(prompt) for prompt in prompts], asker.batch_tokens):
        hidden_BTC = asker.model(pad_right([prompts[i] for i in batch], 0, asker.device))
        last_B = torch.tensor([len(prompts[i]) - 1 for i in batch], device=asker.device)
        rows_B = torch.arange(len(batch), device=asker.device)
        logits_BV = asker.model.logits(hidden_BTC[rows_B, last_B]).cpu()
        for i, logits_V in zip(batch, logits_BV, strict=True):
            best = logits_V[_letter_ids(asker.tokenizer, items[i])].argmax()
            answers[i] = items[i].choices[int(best)]
        done += len(batch)
        bar.update(done)
    return answers, sum(len(prompt) > max_seq_len for prompt in whole)


def _letter_ids(tokenizer: Tokenizer, item: Item) -> list[int]:
    encoded = [tokenizer.encode(letter) for letter in item.choices]
    assert all(len(ids) == 1 for ids in encoded), f"choices must be single tokens: {item.choices}"
    return [ids[0] for ids in encoded]


def _generate(asker: _Asker, task: Task, items: Sequence[Item], bar: ProgressBar) -> Answers:
    """The engine's greedy reply, with tools enabled; no reply to prompts that are too long."""
    params = SamplingParams(temperature=0.0, max_new_tokens=task.max_new_tokens)
    prompts = [render_prompt(asker.tokenizer, item.messages) for item in items]
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < asker.engine.max_seq_len]
    answers = [""] * len(items)
    for start in range(0, len(fitting), _GENERATED_AT_ONCE):
        part = fitting[start : start + _GENERATED_AT_ONCE]
        completions = asker.engine.generate([prompts[i] for i in part], params)
        for i, completion in zip(part, completions, strict=True):
            answers[i] = final_text(asker.tokenizer, completion)
        bar.update(start + len(part))
    return answers, len(items) - len(fitting)


def final_text(tokenizer: Tokenizer, completion: Completion) -> str:
    """The text of a reply after its last tool output, or all of it if there was none."""
    parts = parse_reply(tokenizer, completion.ids)
    last = max((i for i, part in enumerate(parts) if part["type"] == "python_output"), default=-1)
    return "".join(part["text"] for part in parts[last + 1 :] if part["type"] == "text")


_ANSWER: dict[str, Callable[[_Asker, Task, Sequence[Item], ProgressBar], Answers]] = {
    "choice": _choose,
    "generate": _generate,
}
