"""A chat model's accuracy on tasks: multiple choice by one forward pass, free answers by the engine."""

import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from nanochat import hardware
from nanochat.config import to_json
from nanochat.console import ProgressBar, progress
from nanochat.eval.batching import ahead
from nanochat.eval.prompt_states import PromptRow, PromptStates
from nanochat.eval.result_cache import ItemRow, ResultCache, TaskRecord, sha256_of_values
from nanochat.eval.subject import Subject
from nanochat.eval.task_result import TaskResult, result_of
from nanochat.infer.request import Completion
from nanochat.infer.sampler import SamplingParams
from nanochat.runtime import Runtime
from nanochat.tasks.task import Item, Task
from nanochat.tokenizer.chat_format import parse_reply, render_prompt
from nanochat.tokenizer.tokenizer import Tokenizer

_CHOSEN_AT_ONCE = 128  # items whose prompts are in memory together, sorted by length
_GENERATED_AT_ONCE = 256  # items per update of the progress bar


@dataclass(frozen=True)
class Sampling:
    """How free answers are sampled: without temperature there is one answer."""

    num_samples: int = 1
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError(
                "without temperature all samples are equal: give --temperature 0.8, or one sample"
            )


GREEDY_ANSWER = Sampling()


@dataclass(frozen=True)
class Answer:
    """An answer's text, further samples, the options' logits, and whether the prompt was too long."""

    text: str
    more: tuple[str, ...] = ()
    logits: tuple[float, ...] = ()
    too_long: bool = False


@dataclass(frozen=True)
class _Asker:
    """The model and what it needs to answer items."""

    subject: Subject
    batch_tokens: int
    sampling: Sampling


def evaluate_task(
    subject: Subject,
    task: Task,
    items: Sequence[Item],
    runtime: Runtime,
    kept: ResultCache,
    *,
    max_items: int | None = None,
    batch_tokens: int = 16_384,
    sampling: Sampling = GREEDY_ANSWER,
) -> TaskResult:
    """Score a chat model on a task, split across processes; every process gets the same result.

    Args:
        subject: its engine is idle.
        items: of the task's test split.
        kept: where the answers are kept; those of an earlier call are taken from there.
        max_items: the most items, evenly spaced over all.
        batch_tokens: the most tokens per forward pass of a multiple-choice task.
        sampling: of free answers. Accuracy is that of the first one.
    """
    chosen = _spread(len(items), max_items)
    asker = _Asker(subject, batch_tokens, sampling)
    record = kept.get_or_compute(
        task.name,
        sha256_of_values(items[index] for index in chosen),
        {
            "kind": task.kind,
            "max_new_tokens": task.max_new_tokens,
            "weights": subject.weights,
            **_METHODS[task.kind].settings(sampling),
        },
        TaskRecord,
        lambda: _score(asker, task, items, chosen, runtime),
    )
    return result_of(task, items, record, sampling.num_samples if task.kind == "generate" else 1)


def _score(
    asker: _Asker, task: Task, items: Sequence[Item], chosen: Sequence[int], runtime: Runtime
) -> TaskRecord:
    processes = runtime.processes
    indices = chosen[processes.rank :: processes.world_size]
    mine = [items[index] for index in indices]
    method = _METHODS[task.kind]
    method.load(asker.subject)
    with (
        processes.together(task.name),
        progress(task.name, len(mine), "item", enabled=runtime.is_main) as bar,
    ):
        answers = method.answer(asker, task, mine, bar)
        rows = _checked(task, indices, mine, answers, runtime)
    every = [row for part in processes.gather(rows) for row in part]
    return TaskRecord(task.baseline, tuple(sorted(every, key=lambda row: row.index)))


def _checked(
    task: Task, indices: Sequence[int], items: Sequence[Item], answers: Sequence[Answer], runtime: Runtime
) -> list[ItemRow]:
    """The items' rows. Programs run in processes of their own: as many at once as this process has cores."""
    judges = max(1, hardware.usable_cores() // runtime.processes.world_size) if task.unsafe_check else 1
    with ThreadPoolExecutor(judges) as pool:
        return list(pool.map(partial(_row, task), indices, items, answers))


def _row(task: Task, index: int, item: Item, answer: Answer) -> ItemRow:
    score = task.check(item, answer.text)
    values = (score.value, *(task.check(item, text).value for text in answer.more))
    return ItemRow(
        index,
        answer.text,
        item.answer,
        score.right,
        answer.logits or values,
        score.reason,
        answer.too_long,
    )


def _spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of `count` indices, evenly spaced because many sets are sorted by subject."""
    n = min(count, limit or count)
    return [i * count // n for i in range(n)]


def _choose(asker: _Asker, task: Task, items: Sequence[Item], bar: ProgressBar) -> list[Answer]:
    """The letter with the highest logit after the prompt; prompts that are too long are truncated from the left."""
    tokenizer, max_seq_len = asker.subject.tokenizer, asker.subject.config.max_seq_len
    states = PromptStates(asker.subject.model, asker.batch_tokens)
    answers: list[Answer] = []
    chunks = [items[start : start + _CHOSEN_AT_ONCE] for start in range(0, len(items), _CHOSEN_AT_ONCE)]
    made = ahead([render_prompt(tokenizer, item.messages) for item in chunk] for chunk in chunks)
    for chunk, whole in zip(chunks, made, strict=True):
        prompts = [p if len(p) <= max_seq_len else [p[0], *p[len(p) - max_seq_len + 1 :]] for p in whole]
        # The only position to read is the last token's, so that a letter after it is what is scored.
        groups = [[PromptRow([*ids, 0], len(ids), len(ids) + 1)] for ids in prompts]
        hidden_BC = torch.cat([own[0] for own in states.before_scored(groups)])
        logits_BV = torch.cat([part_BV.cpu() for part_BV in states.logits(hidden_BC)])
        for item, ids, logits_V in zip(chunk, whole, logits_BV, strict=True):
            options_O = logits_V[_letter_ids(tokenizer, item)]
            letter = item.choices[int(options_O.argmax())]
            answers.append(Answer(letter, (), tuple(options_O.tolist()), len(ids) > max_seq_len))
        bar.update(len(answers))
    return answers


def _letter_ids(tokenizer: Tokenizer, item: Item) -> list[int]:
    encoded = [tokenizer.encode(letter) for letter in item.choices]
    assert all(len(ids) == 1 for ids in encoded), f"choices must be single tokens: {item.choices}"
    return [ids[0] for ids in encoded]


def _generate(asker: _Asker, task: Task, items: Sequence[Item], bar: ProgressBar) -> list[Answer]:
    """The engine's replies, with tools enabled; none to prompts that are too long."""
    sampling = asker.sampling
    engine, tokenizer = asker.subject.engine, asker.subject.tokenizer
    prompts = [render_prompt(tokenizer, item.messages) for item in items]
    fitting = [i for i, prompt in enumerate(prompts) if len(prompt) < engine.max_seq_len]
    answers = [Answer("", ("",) * (sampling.num_samples - 1), too_long=True)] * len(items)
    for start in range(0, len(fitting), _GENERATED_AT_ONCE):
        part = fitting[start : start + _GENERATED_AT_ONCE]
        asked = [(prompts[i], n) for i in part for n in range(sampling.num_samples)]
        params = [_params(task, sampling, prompt, n) for prompt, n in asked]
        completions = iter(engine.generate([prompt for prompt, _ in asked], params))
        for i in part:
            first, *more = (final_text(tokenizer, next(completions)) for _ in range(sampling.num_samples))
            answers[i] = Answer(first, tuple(more))
        bar.update(start + len(part))
    return answers


def _params(task: Task, sampling: Sampling, prompt: Sequence[int], number: int) -> SamplingParams:
    """A seed for each prompt and sample, the same on any number of processes."""
    seed = zlib.crc32(repr(prompt).encode()) + number
    return SamplingParams(sampling.temperature, max_new_tokens=task.max_new_tokens, seed=seed)


def final_text(tokenizer: Tokenizer, completion: Completion) -> str:
    """The text of a reply after its last tool output, or all of it if there was none."""
    parts = parse_reply(tokenizer, completion.ids)
    last = max((i for i, part in enumerate(parts) if part["type"] == "python_output"), default=-1)
    return "".join(part["text"] for part in parts[last + 1 :] if part["type"] == "text")


@dataclass(frozen=True)
class _Method:
    """How tasks of a kind are answered."""

    settings: Callable[[Sampling], dict[str, Any]]
    """On which the answers depend."""
    load: Callable[[Subject], object]
    """Called on all processes together, before each answers its share."""
    answer: Callable[[_Asker, Task, Sequence[Item], ProgressBar], list[Answer]]


_METHODS = {
    "choice": _Method(lambda sampling: {}, lambda subject: subject.model, _choose),
    "generate": _Method(to_json, lambda subject: subject.engine, _generate),
}
